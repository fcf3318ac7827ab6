"""How long the data of a Job is kept: for its Plan's hours after the end, or until it is deleted.

Data is what the caller sent and what came out: input, metadata, result and files, and the events
before the last one. The row stays, with status, error, units and times, and so does its usage.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from datetime import datetime, timedelta

from django.db import transaction

from accounts.models import Organization
from casola_site.core.errors import Conflict
from jobs import files
from jobs.enums import TERMINAL
from jobs.models import Job, JobEvent

AT_ONCE = 200
MOST_SECONDS = 1.0


class JobNotFinished(Conflict):
    """409: the data of a Job that has not ended is still needed."""

    def __init__(self, status: str) -> None:
        super().__init__(f"The job is still {status}; cancel it first")


def expiries(organization_ids: Collection[int], *, now: datetime) -> dict[int, datetime]:
    """Until when each Organization's Plan keeps the data of a Job that ends now."""
    if not organization_ids:
        return {}
    rows = Organization.objects.filter(pk__in=organization_ids)
    hours = rows.values_list("pk", "plan__retention_hours")
    return {pk: now + timedelta(hours=kept) for pk, kept in hours}


def delete_data(*, job: Job, now: datetime) -> Job:
    """Delete the data of a Job that has ended; doing it again changes nothing.

    Raises JobNotFinished.
    """
    with transaction.atomic():
        current = Job.objects.select_for_update().get(pk=job.pk)
        if current.status not in TERMINAL:
            raise JobNotFinished(current.status)
        if current.data_deleted_at is None:
            _delete([current.pk], now)
    current.refresh_from_db()
    return current


def delete_expired(*, now: datetime) -> int:
    """Delete the data of Jobs whose time is over; returns of how many.

    As many as can be done in a second or so: the next minute's call goes on.
    """
    deleted, until = 0, time.monotonic() + MOST_SECONDS
    while True:
        with transaction.atomic():
            rows = Job.objects.filter(expires_at__lte=now, data_deleted_at=None)
            rows = rows.select_for_update(skip_locked=True).order_by("expires_at")
            found = list(rows.values_list("pk", flat=True)[:AT_ONCE])
            _delete(found, now)
        deleted += len(found)
        if len(found) < AT_ONCE or time.monotonic() > until:
            return deleted


def _delete(job_ids: list[uuid.UUID], now: datetime) -> None:
    """Delete the data of Jobs whose rows this transaction holds."""
    if not job_ids:
        return
    Job.objects.filter(pk__in=job_ids).update(
        input=None, metadata=None, result=None, data_deleted_at=now
    )
    JobEvent.objects.filter(job_id__in=job_ids).exclude(type__in=TERMINAL).delete()
    files.forget_of(job_ids)
