"""Leases: one heartbeat per Runner row, on the database's clock, covers every Job it claimed.

A Runner that is fenced (`dead`) can finish nothing more: `heartbeat` raises LeaseLost and every
finishing update matches no row.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import DurationField, ExpressionWrapper, Value
from django.db.models.functions import Now

from jobs.enums import HOLDS_LEASE, JobStatus, RunnerState
from jobs.models import Job, Runner
from jobs.services import release_jobs

logger = logging.getLogger(__name__)


class LeaseLost(Exception):
    """This Runner was fenced: stop working, discard everything unfinished."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    runners: int
    requeued: int
    failed: int


def ago(seconds: float) -> Any:
    """A moment in the past on the database's clock."""
    return ExpressionWrapper(
        Now() - Value(timedelta(seconds=seconds), output_field=DurationField()),
        output_field=Runner._meta.get_field("heartbeat_at"),
    )


def register_runner(**columns: Any) -> Runner:
    """A new Runner row with a fresh lease. Its id is new for every process start."""
    runner = Runner(**columns)
    runner.heartbeat_at = Now()
    runner.save(force_insert=True)
    return runner


def heartbeat(*, runner_id: int, **columns: Any) -> None:
    """Renew the lease of the Runner and so of all its Jobs. Raises LeaseLost when fenced."""
    alive = Runner.objects.filter(pk=runner_id, state__in=HOLDS_LEASE)
    if alive.update(heartbeat_at=Now(), **columns) != 1:
        raise LeaseLost


def fence_runner(*, runner_id: int, crashed: bool, detail: str = "") -> tuple[int, int]:
    """End a Runner's lease and put its Jobs back; returns (requeued, failed).

    `crashed` counts the attempt against each Job (the third crash fails it); a drain does not.
    """
    with transaction.atomic():
        changed = Runner.objects.filter(pk=runner_id, state__in=HOLDS_LEASE).update(
            state=RunnerState.DEAD if crashed else RunnerState.STOPPED,
            ended_at=Now(),
            detail=detail[:500],
        )
        if (
            not changed
            and not Job.objects.filter(runner_id=runner_id, status=JobStatus.PROCESSING).exists()
        ):
            return (0, 0)
        return release_jobs(runner_id=runner_id, crashed=crashed)


def sweep() -> Swept:
    """Fence every Runner whose lease ran out, and put back what dead Runners still hold."""
    expired = list(
        Runner.objects.filter(
            state__in=HOLDS_LEASE, heartbeat_at__lt=ago(settings.LEASE_SECONDS)
        ).values_list("pk", flat=True)
    )
    orphaned = list(
        Job.objects.filter(status=JobStatus.PROCESSING)
        .exclude(runner__state__in=HOLDS_LEASE)
        .exclude(runner_id=None)
        .values_list("runner_id", flat=True)
        .distinct()
    )
    requeued = failed = 0
    for runner_id in {*expired, *orphaned}:
        if runner_id in expired and not still_expired(runner_id):
            continue
        back, lost = fence_runner(runner_id=runner_id, crashed=True, detail="lease expired")
        requeued, failed = requeued + back, failed + lost
    if expired:
        logger.warning(
            "fenced %d runner(s), requeued %d job(s), failed %d", len(expired), requeued, failed
        )
    return Swept(len(expired), requeued, failed)


def still_expired(runner_id: int) -> bool:
    """Whether the lease is still over (the heartbeat may have come meanwhile)."""
    return Runner.objects.filter(
        pk=runner_id, state__in=HOLDS_LEASE, heartbeat_at__lt=ago(settings.LEASE_SECONDS)
    ).exists()


def uses_postgresql() -> bool:
    """Whether row locks exist."""
    return connection.vendor == "postgresql"


__all__ = ["LeaseLost", "Swept", "fence_runner", "heartbeat", "register_runner", "sweep"]
