"""The usage app."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate

ROLL_UP_MINUTES = 5


class UsageConfig(AppConfig):
    """See the package's text."""

    name = "usage"

    def ready(self) -> None:
        """Have the totals kept up to date wherever the tables are."""
        post_migrate.connect(schedule, sender=self, dispatch_uid="usage")


def schedule(**_: Any) -> None:
    """Enter the roll-up into the queue's timetable."""
    from casola_site.core import queue  # noqa: PLC0415 - needs the apps

    queue.repeat("usage.background.roll_up", minutes=ROLL_UP_MINUTES)
