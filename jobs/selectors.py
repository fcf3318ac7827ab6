"""Reads of Jobs."""

from __future__ import annotations

from django.db.models import Count

from jobs.enums import JobStatus
from jobs.models import Job


def count_jobs(*, organization_id: int) -> dict[str, int]:
    """The Organization's Jobs that have not ended, by status."""
    open_statuses = (JobStatus.PENDING, JobStatus.PROCESSING)
    rows = Job.objects.for_organization(organization_id).filter(status__in=open_statuses)
    found = dict(rows.values_list("status").annotate(Count("pk")))
    return {str(status): found.get(status, 0) for status in open_statuses}
