"""The life of a Job: every move is one conditional update, with its UsageRecord and event.

A Job's end, its UsageRecord and its last event share one transaction; a late finisher's update
matches no row and its output is dropped.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import DataError, IntegrityError, transaction
from django.db.models import Count, F, Max, Q, QuerySet
from django.utils import timezone

from casola_site.core import ids
from casola_site.core.errors import Conflict, NotFound
from casola_site.core.insert import insert_rows
from jobs import caps, events, files, retention
from jobs.enums import HOLDS_LEASE, TERMINAL, JobStatus, Lane
from jobs.files import KeptFile
from jobs.models import Job, JobEvent, Runner
from jobs.transitions import MAX_CRASHES, backoff_seconds, room_seconds, share
from usage.pricing import Snapshot
from usage.services import Consumption, record_usage

logger = logging.getLogger(__name__)

CRASHED = {
    "code": "worker_crashed",
    "message": "The model runner crashed on this job three times",
    "type": "api_error",
}
UNWRITABLE = {
    "code": "worker_error",
    "message": "The model runner's output could not be stored",
    "type": "api_error",
}
# What a database or its driver says of values it cannot hold (a NUL, NaN, 10**30 tokens).
REFUSED_BY_DATABASE = (IntegrityError, DataError, ValueError, TypeError, ArithmeticError)


class JobNotFound(NotFound):
    """404 in the seed's words."""

    message = "Job not found"


class JobAlreadyFinished(Conflict):
    """409: a terminal Job cannot be cancelled."""

    def __init__(self, status: str) -> None:
        super().__init__(f"The job is already {status}")


@dataclass(slots=True)
class Outcome:
    """How one attempt at a Job ended, as its Runner (or its web process) reports it.

    `runner_id` and `attempt` are the fencing pair of a persisted Job; an interactive Job has no row
    yet and brings its own columns. `charged` is False when the end was our fault. `retry_after`
    (seconds) is there when nothing is wrong with a failed one: there was no room for it.
    """

    job_id: str
    status: JobStatus
    organization_id: int
    token_id: int | None
    user_id: int | None
    model_id: str
    queue_id: str
    task: str
    units: dict[str, int]
    created_at: datetime
    started_at: datetime | None = None
    first_output_at: datetime | None = None
    runner_id: int | None = None
    attempt: int | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    charged: bool = True
    prices: Snapshot = field(default_factory=dict)
    end_reason: str = ""
    retry_after: int | None = None
    files: tuple[KeptFile, ...] = ()

    @property
    def lane(self) -> Lane:
        """Persisted Jobs were claimed, so they have an attempt."""
        return Lane.INTERACTIVE if self.attempt is None else Lane.PERSISTED


def claim_jobs(*, runner_id: int, queue_id: str, free: int, now: datetime) -> list[Job]:
    """Up to `free` Jobs for a Runner: fewest running organization first, then priority, then age.

    What is over its Organization's cap stays pending. A Job that crashed a Runner before is never
    among them: see `claim_suspects`. A fenced Runner gets nothing; its next heartbeat tells it why.
    """
    if free <= 0:
        return []
    claimed: list[uuid.UUID] = []
    with transaction.atomic():
        waiting = caps.organizations_waiting(queue_id)
        if not waiting or not _holds_lease(runner_id):
            return []
        running = dict(
            Job.objects.filter(queue_id=queue_id, status=JobStatus.PROCESSING)
            .values_list("organization_id")
            .annotate(Count("pk"))
        )
        unsure = caps.capped(waiting)
        room = {**dict.fromkeys(waiting, free), **caps.rooms(unsure)}
        while len(claimed) < free and room:
            turns = Counter(share(free=free - len(claimed), running=running, waiting=room))
            if asked := {key: unsure.pop(key) for key in turns.keys() & unsure.keys()}:
                room.update(caps.rooms_in_turn(asked))
                continue
            if not turns:
                break
            for organization_id, wanted in turns.items():
                rows = _lock_pending(queue_id, now).filter(
                    organization_id=organization_id, crashes=0
                )
                taken = list(rows.exclude(pk__in=claimed)[:wanted].values_list("pk", flat=True))
                claimed += taken
                running[organization_id] = running.get(organization_id, 0) + len(taken)
                room[organization_id] -= len(taken)
                if len(taken) < wanted:
                    del room[organization_id]
        return _take(claimed, runner_id=runner_id, now=now)


def claim_suspects(*, runner_id: int, queue_id: str, free: int, now: datetime) -> list[Job]:
    """Jobs that were held by a Runner when it crashed; the caller must run nothing beside them.

    Those of one crash come together, up to `free`: most of them are innocent, and one more run
    finds that out for all. Whatever crashed a Runner twice comes alone.
    """
    with transaction.atomic():
        if not _holds_lease(runner_id):
            return []
        room = caps.rooms_in_turn(caps.capped(caps.waiting_in(_suspects(queue_id, now))))
        full = [key for key, left in room.items() if not left]
        rows = _lock_pending(queue_id, now).exclude(organization_id__in=full)
        rows = rows.values_list("pk", "organization_id")
        taken = list(rows.filter(crashes=1)[:free]) or list(rows.filter(crashes__gt=1)[:1])
        return _take(caps.within(room, taken), runner_id=runner_id, now=now)


def _holds_lease(runner_id: int) -> bool:
    """Whether the Runner may claim; nobody can fence it before this transaction ends."""
    alive = Runner.objects.filter(pk=runner_id, state__in=HOLDS_LEASE)
    return alive.select_for_update(no_key=True).exists()


def suspect_waits(*, queue_id: str, now: datetime) -> bool:
    """Whether a Job that crashed a Runner before is due and within its Organization's cap."""
    suspects = _suspects(queue_id, now)
    return suspects.exists() and caps.has_room(caps.waiting_in(suspects))


def _suspects(queue_id: str, now: datetime) -> QuerySet[Job]:
    return Job.objects.filter(_due(now), queue_id=queue_id, status=JobStatus.PENDING, crashes__gt=0)


def _due(now: datetime) -> Q:
    in_time = Q(deadline_at=None) | Q(deadline_at__gt=now)
    return in_time & (Q(available_at=None) | Q(available_at__lte=now))


def _lock_pending(queue_id: str, now: datetime) -> Any:
    pending = Job.objects.filter(_due(now), queue_id=queue_id, status=JobStatus.PENDING)
    return pending.select_for_update(skip_locked=True).order_by("-priority", "created_at")


def _take(claimed: Sequence[uuid.UUID], *, runner_id: int, now: datetime) -> list[Job]:
    if not claimed:
        return []
    Job.objects.filter(pk__in=claimed, status=JobStatus.PENDING).update(
        status=JobStatus.PROCESSING, runner_id=runner_id, attempts=F("attempts") + 1, started_at=now
    )
    jobs = list(
        Job.objects.filter(pk__in=claimed, runner_id=runner_id, status=JobStatus.PROCESSING)
    )
    add_events([(job.pk, "claimed", {"attempt": job.attempts}) for job in jobs], at=now)
    order = {pk: index for index, pk in enumerate(claimed)}
    return sorted(jobs, key=lambda job: order[job.pk])


def add_events(rows: Iterable[tuple[uuid.UUID, str, dict[str, Any]]], *, at: datetime) -> None:
    """Append one event to each Job. Call while the Job's row is held by this transaction."""
    rows = list(rows)
    if not rows:
        return
    last = dict(
        JobEvent.objects.filter(job_id__in=[row[0] for row in rows])
        .values_list("job_id")
        .annotate(Max("seq"))
    )
    JobEvent.objects.bulk_create(
        JobEvent(job_id=pk, seq=last.get(pk, 0) + 1, type=type_, at=at, data=data)
        for pk, type_, data in rows
    )
    events.tell_after_commit([row[0] for row in rows])


def checkpoint_units(
    *,
    runner_id: int,
    units: dict[str, dict[str, int]],
    progress: dict[str, tuple[float, str]] | None = None,
    now: datetime | None = None,
) -> set[str]:
    """Keep what running Jobs have produced so far; returns the ids this Runner no longer holds.

    `progress` (0 to 1, and in words) of those that tell it goes into the row and its events.
    """
    far = progress or {}
    held: set[str] = set()
    with transaction.atomic():
        for job_id, produced in sorted(units.items()):  # every writer locks Jobs in this order
            mine = Job.objects.filter(pk=job_id, runner_id=runner_id, status=JobStatus.PROCESSING)
            news = {"progress": far[job_id][0]} if job_id in far else {}
            if mine.update(units=produced, **news):
                held.add(job_id)
        told = [
            (uuid.UUID(job_id), "progress", {"progress": share, "message": message})
            for job_id, (share, message) in far.items()
            if job_id in held
        ]
        add_events(told, at=now or timezone.now())
    return set(units) - held


def finish_jobs(outcomes: Sequence[Outcome]) -> set[str]:
    """Write the ends of many Jobs in one transaction; returns the ids that were accepted.

    An id that is missing was finished, cancelled or fenced before: publish nothing for it. An end
    that the database cannot hold fails its own Job, uncharged, and is not accepted either.
    """
    try:
        with transaction.atomic():
            return _finish(outcomes)
    except REFUSED_BY_DATABASE as error:
        if len(outcomes) == 1:
            _finish_unwritable(outcomes[0], error)
            return set()
    accepted: set[str] = set()
    for outcome in outcomes:
        accepted |= finish_jobs([outcome])
    return accepted


def _finish_unwritable(outcome: Outcome, error: Exception) -> None:
    """Fail the Job of an end that cannot be written, unless its row is there already."""
    failed = replace(
        outcome, status=JobStatus.FAILED, result=None, error=UNWRITABLE, units={}, charged=False,
        prices={}, files=(),
    )  # fmt: skip
    try:
        with transaction.atomic():
            accepted = _finish([failed])
    except IntegrityError:
        return  # an interactive request that was written before
    if accepted:
        logger.error("the end of job %s cannot be stored", outcome.job_id, exc_info=error)


def _finish(outcomes: Sequence[Outcome]) -> set[str]:
    now = timezone.now()
    ordered = sorted(outcomes, key=lambda o: o.job_id)  # every writer locks Jobs in this order
    claimed = [o for o in ordered if o.lane is Lane.PERSISTED]
    direct = [o for o in ordered if o.lane is Lane.INTERACTIVE]
    expiries = retention.expiries({o.organization_id for o in claimed}, now=now)
    accepted = [o for o in claimed if _finish_claimed(o, now, expiries.get(o.organization_id))]
    accepted = [_kept_until(o, expiries[o.organization_id]) for o in accepted]
    insert_rows(Job, [_direct_row(o, now) for o in direct])
    add_events(
        [(uuid.UUID(o.job_id), str(o.status), {"attempt": o.attempt}) for o in accepted], at=now
    )
    caps.wake_held_back((o.organization_id, o.queue_id) for o in accepted)
    accepted += direct
    files.record((o.job_id, o.organization_id, o.files) for o in accepted)
    record_usage(_consumption(o, now) for o in accepted)
    return {o.job_id for o in accepted}


def _kept_until(outcome: Outcome, moment: datetime) -> Outcome:
    """With files that are kept as long as the rest of its Job's data."""
    kept = tuple(replace(file, expires_at=moment) for file in outcome.files)
    return replace(outcome, files=kept) if kept else outcome


def _finish_claimed(outcome: Outcome, now: datetime, expires_at: datetime | None) -> bool:
    mine = Job.objects.filter(
        pk=outcome.job_id,
        status=JobStatus.PROCESSING,
        runner_id=outcome.runner_id,
        attempts=outcome.attempt,
    )
    changed = mine.update(
        status=outcome.status,
        units=outcome.units,
        result=outcome.result,
        error=outcome.error,
        progress=1.0 if outcome.status == JobStatus.COMPLETED else F("progress"),
        first_output_at=outcome.first_output_at,
        completed_at=now,
        expires_at=expires_at,
    )
    return changed == 1


def _direct_row(outcome: Outcome, now: datetime) -> dict[str, Any]:
    return {
        "id": uuid.UUID(outcome.job_id),
        "organization_id": outcome.organization_id,
        "token_id": outcome.token_id,
        "user_id": outcome.user_id,
        "model_id": outcome.model_id,
        "queue_id": outcome.queue_id,
        "task": outcome.task,
        "lane": str(Lane.INTERACTIVE),
        "status": str(outcome.status),
        "units": outcome.units,
        "error": outcome.error,
        "progress": 1.0 if outcome.status == JobStatus.COMPLETED else 0.0,
        "attempts": 1,
        "runner_id": outcome.runner_id,
        "created_at": outcome.created_at,
        "started_at": outcome.started_at,
        "first_output_at": outcome.first_output_at,
        "completed_at": now,
    }


def _consumption(outcome: Outcome, now: datetime) -> Consumption:
    return Consumption(
        job_id=outcome.job_id,
        organization_id=outcome.organization_id,
        token_id=outcome.token_id,
        user_id=outcome.user_id,
        model_id=outcome.model_id,
        task=outcome.task,
        status=outcome.status,
        units=outcome.units,
        charged=outcome.charged,
        at=now,
        prices=outcome.prices,
    )


def retry_job(*, outcome: Outcome, now: datetime) -> bool:
    """Put a Job back after an error that may pass; the third such error ends it.

    One that found no room (`retry_after`) waits and counts no error. Returns whether this Runner still held it.
    """
    with transaction.atomic():
        mine = Job.objects.select_for_update().filter(
            pk=outcome.job_id,
            status=JobStatus.PROCESSING,
            runner_id=outcome.runner_id,
            attempts=outcome.attempt,
        )
        job = mine.first()
        if job is None:
            return False
        failures = job.failures + (outcome.retry_after is None)
        if failures >= MAX_CRASHES:
            return bool(finish_jobs([outcome]))
        if outcome.retry_after is None:
            wait = timedelta(seconds=backoff_seconds(failures))
        else:
            wait = timedelta(seconds=room_seconds(outcome.retry_after, job.attempts))
        mine.update(
            status=JobStatus.PENDING,
            runner=None,
            failures=failures,
            available_at=now + wait,
            units={},
            progress=0,
        )
        caps.wake_held_back([(job.organization_id, job.queue_id)])
        add_events([(job.pk, "retried", {"error": (outcome.error or {}).get("code", "")})], at=now)
    return True


def release_jobs(
    *, runner_id: int | None, crashed: bool, keep: Collection[str] = ()
) -> tuple[int, int]:
    """Put back what a Runner held, but for the ids in `keep`; returns (requeued, failed).

    After a crash each Job's count goes up and the third crash fails it, uncharged.
    """
    now = timezone.now()
    with transaction.atomic():
        rows = Job.objects.filter(runner_id=runner_id, status=JobStatus.PROCESSING)
        held = list(rows.exclude(pk__in=keep).select_for_update().order_by("pk"))
        lost = [job for job in held if crashed and job.crashes + 1 >= MAX_CRASHES]
        back = [job for job in held if job not in lost]
        Job.objects.filter(pk__in=[job.pk for job in lost]).update(crashes=F("crashes") + 1)
        for job in lost:
            _end(job, status=JobStatus.FAILED, error=CRASHED, charged=False, now=now)
        caps.wake_held_back((job.organization_id, job.queue_id) for job in lost)
        Job.objects.filter(pk__in=[job.pk for job in back], status=JobStatus.PROCESSING).update(
            status=JobStatus.PENDING,
            runner=None,
            crashes=F("crashes") + (1 if crashed else 0),
            units={},
            progress=0,
        )
        add_events([(job.pk, "crashed" if crashed else "released", {}) for job in back], at=now)
        for queue_id in {job.queue_id for job in back}:
            transaction.on_commit(lambda queue_id=queue_id: events.wake(queue_id))
    return len(back), len(lost)


def cancel_job(*, job: Job, prices: Snapshot, now: datetime) -> Job:
    """Make the Job cancelled at once, charged with the units last reported.

    Raises JobAlreadyFinished when it had ended.
    """
    with transaction.atomic():
        current = Job.objects.select_for_update().get(pk=job.pk)
        if current.status in TERMINAL:
            raise JobAlreadyFinished(current.status)
        end_early(current, status=JobStatus.CANCELLED, error=None, prices=prices, now=now)
    current.refresh_from_db()
    return current


def end_early(
    job: Job,
    *,
    status: JobStatus,
    error: dict[str, Any] | None,
    prices: Snapshot,
    now: datetime,
) -> None:
    """End a Job that waits or runs, whose row this transaction holds, on its caller's behalf.

    It is charged with the units last reported; what its Runner still makes is dropped.
    """
    _end(job, status=status, error=error, charged=True, now=now, prices=prices)
    if job.status == JobStatus.PROCESSING:
        caps.wake_held_back([(job.organization_id, job.queue_id)])
        transaction.on_commit(lambda: events.request_cancel(job.queue_id, str(job.pk)))


def _end(
    job: Job,
    *,
    status: JobStatus,
    error: dict[str, Any] | None,
    charged: bool,
    now: datetime,
    prices: Snapshot | None = None,
) -> None:
    """End a Job whose row this transaction holds."""
    expires_at = retention.expiries([job.organization_id], now=now)[job.organization_id]
    Job.objects.filter(pk=job.pk).update(
        status=status, error=error, completed_at=now, expires_at=expires_at
    )
    add_events([(job.pk, str(status), {})], at=now)
    record_usage(
        [
            Consumption(
                job_id=str(job.pk),
                organization_id=job.organization_id,
                token_id=job.token_id,
                user_id=job.user_id,
                model_id=job.model_id,
                task=job.task,
                status=status,
                units=job.units,
                charged=charged,
                at=now,
                prices=prices or {},
            )
        ]
    )


def find_job(*, organization_id: int, job_id: str) -> Job:
    """The tenant's Job. Raises JobNotFound, the same for a stranger's, a ghost's and an odd id."""
    parsed = ids.parse_job_id(job_id)
    if parsed is None:
        raise JobNotFound
    try:
        return Job.objects.for_organization(organization_id).get(pk=parsed)
    except Job.DoesNotExist:
        raise JobNotFound from None
