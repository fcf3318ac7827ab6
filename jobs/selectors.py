"""Reads of Jobs."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Q

from casola_site.core.clock import now
from jobs.enums import TERMINAL, JobStatus, Lane
from jobs.files import stored_bytes
from jobs.models import Job, JobEvent, JobQuerySet

MOST_EVENTS = 1_000


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which Jobs of an Organization a list holds; None is no condition.

    `created_after` is the first moment that counts, `created_before` the first that does not.
    """

    status: str | None = None
    model_id: str | None = None
    task: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


def list_jobs(*, organization_id: int, wanted: JobFilter) -> JobQuerySet:
    """The Organization's Jobs that are wanted, without their inputs and results."""
    named = {"status": wanted.status, "model_id": wanted.model_id, "task": wanted.task}
    ranged = {"created_at__gte": wanted.created_after, "created_at__lt": wanted.created_before}
    conditions = {name: value for name, value in {**named, **ranged}.items() if value is not None}
    rows = Job.objects.for_organization(organization_id).filter(**conditions)
    return rows.defer("input", "result")


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a Job; `job` is there with the last one."""

    seq: int
    type: str
    at: datetime
    data: dict[str, Any]
    job: Job | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing can follow."""
        return self.type in TERMINAL


def last_seq(job: Job) -> int:
    """The number of the Job's latest event so far."""
    if job.lane == Lane.INTERACTIVE:
        return 1
    return JobEvent.objects.filter(job=job).aggregate(last=Max("seq"))["last"] or 0


def events_after(positions: Collection[tuple[uuid.UUID, int]]) -> dict[uuid.UUID, list[Told]]:
    """The events of each Job that come after a number, in order, the first MOST_EVENTS of all.

    An interactive request has a row only once it has ended, and no events: its end is its first.
    """
    wanted = Q(pk__in=[])
    for job_id, after in positions:
        wanted |= Q(job_id=job_id, seq__gt=after)
    rows = list(JobEvent.objects.filter(wanted).order_by("job_id", "seq")[:MOST_EVENTS])
    ended = {row.job_id for row in rows if row.type in TERMINAL}
    fresh = [job_id for job_id, after in positions if after < 1]
    jobs = Job.objects.defer("input").in_bulk([*ended])
    direct = Job.objects.filter(pk__in=fresh, lane=Lane.INTERACTIVE, status__in=TERMINAL)
    found: dict[uuid.UUID, list[Told]] = {
        job.pk: [Told(1, job.status, job.completed_at or job.created_at, {}, job)] for job in direct
    }
    for row in rows:
        job = jobs.get(row.job_id) if row.type in TERMINAL else None
        told = Told(row.seq, row.type, row.at, row.data, job)
        found.setdefault(row.job_id, []).append(told)
    return found


def count_jobs(*, organization_id: int) -> dict[str, int]:
    """The Organization's Jobs that have not ended, by status, and `stored_bytes` of its files."""
    open_statuses = (JobStatus.PENDING, JobStatus.PROCESSING)
    rows = Job.objects.for_organization(organization_id).filter(status__in=open_statuses)
    found = dict(rows.values_list("status").annotate(Count("pk")))
    counts = {str(status): found.get(status, 0) for status in open_statuses}
    return {**counts, "stored_bytes": stored_bytes(organization_id=organization_id, now=now())}
