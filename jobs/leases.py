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
from django.db import transaction
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
        Runner.objects.filter(pk=runner_id, state__in=HOLDS_LEASE).update(
            state=RunnerState.DEAD if crashed else RunnerState.STOPPED,
            ended_at=Now(),
            detail=detail[:500],
        )
        return release_jobs(runner_id=runner_id, crashed=crashed)


def fence_expired(runner_id: int) -> tuple[int, int] | None:
    """`fence_runner` after a crash, unless the lease was renewed meanwhile (None)."""
    with transaction.atomic():
        # A heartbeat waits for this lock, or we for it: one of the two is first.
        if not expired_runners().select_for_update().filter(pk=runner_id).exists():
            return None
        return fence_runner(runner_id=runner_id, crashed=True, detail="lease expired")


def expired_runners() -> Any:
    """Runners whose lease ran out and who are not fenced yet."""
    return Runner.objects.filter(
        state__in=HOLDS_LEASE, heartbeat_at__lt=ago(settings.LEASE_SECONDS)
    )


def sweep() -> Swept:
    """Fence every Runner whose lease ran out, and put back what no living Runner holds."""
    fenced = requeued = failed = 0
    for runner_id in list(expired_runners().order_by("pk").values_list("pk", flat=True)):
        ended = fence_expired(runner_id)
        if ended is not None:
            fenced, requeued, failed = fenced + 1, requeued + ended[0], failed + ended[1]
    for runner_id in _holders_without_lease():
        back, lost = release_jobs(runner_id=runner_id, crashed=True)
        requeued, failed = requeued + back, failed + lost
    if fenced:
        logger.warning(
            "fenced %d runner(s), requeued %d job(s), failed %d", fenced, requeued, failed
        )
    return Swept(fenced, requeued, failed)


def _holders_without_lease() -> list[int | None]:
    """Fenced Runners that still hold Jobs; None stands for one whose row is gone."""
    running = Job.objects.filter(status=JobStatus.PROCESSING)
    held = running.exclude(runner__state__in=HOLDS_LEASE)
    return list(held.values_list("runner_id", flat=True).distinct())


__all__ = ["LeaseLost", "Swept", "fence_runner", "heartbeat", "register_runner", "sweep"]
