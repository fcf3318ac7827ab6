"""Reads of Jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count

from casola_site.core.clock import now
from jobs.enums import JobStatus
from jobs.files import stored_bytes
from jobs.models import Job, JobQuerySet


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


def count_jobs(*, organization_id: int) -> dict[str, int]:
    """The Organization's Jobs that have not ended, by status, and `stored_bytes` of its files."""
    open_statuses = (JobStatus.PENDING, JobStatus.PROCESSING)
    rows = Job.objects.for_organization(organization_id).filter(status__in=open_statuses)
    found = dict(rows.values_list("status").annotate(Count("pk")))
    counts = {str(status): found.get(status, 0) for status in open_statuses}
    return {**counts, "stored_bytes": stored_bytes(organization_id=organization_id, now=now())}
