"""Background functions of usage, named in the queue by import path."""

from __future__ import annotations

from typing import Any

from casola_site.core.clock import now
from usage import alerts, totals


def roll_up(**_: Any) -> None:
    """Add up the hours that have closed."""
    totals.roll_up(now=now())


def mail_budget_alerts(counter_id: int, **_: Any) -> None:
    """Mail what a budget has to tell."""
    alerts.mail_alerts(counter_id=counter_id, now=now())
