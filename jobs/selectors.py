"""Reads of Jobs."""

from __future__ import annotations

from django.db.models import Count

from casola_site.core.clock import now
from jobs.enums import JobStatus
from jobs.files import stored_bytes
from jobs.models import Job


def count_jobs(*, organization_id: int) -> dict[str, int]:
    """The Organization's Jobs that have not ended, by status, and `stored_bytes` of its files."""
    open_statuses = (JobStatus.PENDING, JobStatus.PROCESSING)
    rows = Job.objects.for_organization(organization_id).filter(status__in=open_statuses)
    found = dict(rows.values_list("status").annotate(Count("pk")))
    counts = {str(status): found.get(status, 0) for status in open_statuses}
    return {**counts, "stored_bytes": stored_bytes(organization_id=organization_id, now=now())}
