"""Jobs that their caller wanted by a certain moment and that have not ended by then."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import transaction

from jobs.enums import JobStatus
from jobs.models import Job
from jobs.services import end_early
from usage.services import price_snapshot

EVERY_SECONDS = 1.0
AT_ONCE = 200
OPEN = (JobStatus.PENDING, JobStatus.PROCESSING)
OVERDUE = {
    "code": "timeout",
    "message": "The job did not end before its deadline",
    "type": "api_error",
}


def fail_overdue(*, now: datetime) -> int:
    """Fail every Job whose deadline has passed, charged as a cancelled one; returns how many."""
    failed = 0
    while True:
        overdue = Job.objects.filter(deadline_at__lte=now, status__in=OPEN)
        found = list(overdue.order_by("deadline_at").values_list("pk", flat=True)[:AT_ONCE])
        failed += sum(_fail(job_id, now) for job_id in found)
        if len(found) < AT_ONCE:
            return failed


def _fail(job_id: uuid.UUID, now: datetime) -> bool:
    with transaction.atomic():
        job = Job.objects.select_for_update().filter(pk=job_id, status__in=OPEN).first()
        if job is None:
            return False  # it has just ended
        prices = price_snapshot(model_id=job.model_id, now=now)
        end_early(job, status=JobStatus.FAILED, error=OVERDUE, prices=prices, now=now)
    return True
