"""Sessions that are over."""

from __future__ import annotations

from datetime import datetime

from django.contrib.sessions.models import Session

SWEPT_AT_ONCE = 1000


def sweep_sessions(now: datetime) -> int:
    """Delete those that have expired; returns how many. Everybody who tries a form leaves one."""
    deleted = 0
    while True:
        found = list(
            Session.objects.filter(expire_date__lt=now).values_list("pk", flat=True)[:SWEPT_AT_ONCE]
        )
        deleted += Session.objects.filter(pk__in=found).delete()[0]
        if len(found) < SWEPT_AT_ONCE:
            return deleted
