"""The clocks: `now` for edges, `unix` for answers."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone

now = timezone.now


def unix(moment: datetime | None) -> int | None:
    """Whole Unix seconds, or None."""
    return None if moment is None else int(moment.timestamp())
