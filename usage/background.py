"""Background functions of usage, named in the queue by import path."""

from __future__ import annotations

from typing import Any

from casola_site.core.clock import now
from usage import totals


def roll_up(**_: Any) -> None:
    """Add up the hours that have closed."""
    totals.roll_up(now=now())
