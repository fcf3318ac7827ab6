"""The one door to django-q: ordinary background functions and runner hosting."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.models import OrmQ, Schedule
from django_q.tasks import async_task

RUNNER_PREFIX = "runner:"
BEAT_PREFIX = "beat:"
AWAY_SECONDS = 1.0
ACKNOWLEDGE_SECONDS = 60.0

logger = logging.getLogger(__name__)


class DatabaseBroker(ORM):
    """django-q's broker over the database, without some of its weaknesses.

    A task is due at once whatever the clocks of two hosts say. A database that is away for a moment
    makes the pusher wait a second instead of dying and being absent for ten, and the monitor try
    again instead of dying with the result in its hands, whose function would then run twice.
    """

    def enqueue(self, task: str) -> int:
        """Queue a signed task."""
        row = self.get_connection().create(
            key=self.list_key, payload=task, lock=timezone.now() - timedelta(days=1)
        )
        return row.pk

    def dequeue(self) -> list[tuple[int, str]] | None:
        """Take the next tasks, or None."""
        try:
            return super().dequeue()
        except DatabaseError as error:
            logger.warning("the queue cannot be read: %s", error)
            time.sleep(AWAY_SECONDS)
            return None

    def acknowledge(self, task_id: int) -> None:
        """Take a task that was done from the queue. Raises DatabaseError if it cannot for a minute."""
        until = time.monotonic() + ACKNOWLEDGE_SECONDS
        while True:
            try:
                return super().acknowledge(task_id)
            except DatabaseError as error:
                if time.monotonic() > until:
                    raise
                logger.warning("a task cannot be taken from the queue: %s", error)
                time.sleep(AWAY_SECONDS)


@dataclass(frozen=True, slots=True)
class WaitingTask:
    """A task that no worker has begun: a Runner's, or a beat."""

    id: int
    name: str


def enqueue(function: str, *args: Any, name: str | None = None) -> str:
    """Run `function(*args)` (an import path; ids only) on the default cluster; returns the task id."""
    return async_task(
        function, *args, task_name=name, q_options={"cluster": "default", "save": False}
    )


def repeat(function: str, *, minutes: int) -> None:
    """Run `function()` (an import path) on the default cluster every so many minutes from now on."""
    if Schedule._meta.db_table not in connection.introspection.table_names():
        return  # the queue's tables come with a later migration, which calls again
    Schedule.objects.update_or_create(
        name=function,
        defaults={
            "func": function,
            "schedule_type": Schedule.MINUTES,
            "minutes": minutes,
            "repeats": -1,
            "cluster": "default",
        },
    )


def cluster_of(node: str) -> str:
    """The django-q cluster that hosts a node's Runners."""
    return f"gpu-{node}"


def host_runner(*, placement_id: str, node: str) -> str:
    """Ask the node's cluster for one endless task that owns the Placement's Runner."""
    return async_task(
        settings.RUNNER_FUNCTION,
        placement_id,
        task_name=f"{RUNNER_PREFIX}{placement_id}",
        q_options={"cluster": cluster_of(node), "timeout": -1, "save": False},
    )


def send_beat(cluster: str) -> str:
    """Ask a cluster for a sign of life."""
    return async_task(
        "casola_site.core.queue.beat",
        task_name=f"{BEAT_PREFIX}{cluster}",
        q_options={"cluster": cluster, "save": False, "ack_failure": True},
    )


def beat(**_: Any) -> None:
    """Do nothing: that it was done is the answer."""


def waiting(cluster: str, prefix: str) -> list[WaitingTask]:
    """The cluster's tasks of one kind that were not acknowledged yet, oldest first."""
    rows = OrmQ.objects.filter(key=cluster).order_by("pk")
    return [
        WaitingTask(row.pk, name) for row in rows if (name := row.name() or "").startswith(prefix)
    ]


def drop_tasks(cluster: str, prefix: str = "") -> int:
    """Forget the cluster's queued tasks of one kind (all without `prefix`); returns how many."""
    if not prefix:
        return OrmQ.objects.filter(key=cluster).delete()[0]
    return drop([task.id for task in waiting(cluster, prefix)])


def drop(ids: list[int]) -> int:
    """Forget these queued tasks."""
    return OrmQ.objects.filter(pk__in=ids).delete()[0] if ids else 0
