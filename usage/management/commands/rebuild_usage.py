"""`manage.py rebuild_usage`: add up the ledger anew and repair the totals that differ."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from casola_site.core.clock import now
from usage.totals import rebuild


class Command(BaseCommand):
    """See the module's text."""

    help = "Add up the usage ledger anew and repair totals that differ"

    def handle(self, *args: Any, **options: Any) -> None:
        """Name each day that was wrong."""
        days = changed = 0
        for day, wrong in rebuild(now=now()):
            days, changed = days + 1, changed + wrong
            if wrong:
                self.stdout.write(f"{day:%Y-%m-%d}: {wrong} totals repaired")
        self.stdout.write(f"{days} days added up, {changed} totals repaired")
