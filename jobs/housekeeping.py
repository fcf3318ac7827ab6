"""What one node or another does every minute, none of it urgent."""

from __future__ import annotations

from accounts.idempotency import sweep_keys
from casola_site.core import outputs
from casola_site.core.clock import now
from tokens import uses

EVERY_SECONDS = 60.0


def keep() -> None:
    """Forget old Idempotency-Keys and outputs, and write when tokens were last used."""
    sweep_keys(now())
    uses.write()
    outputs.sweep(now=now())
