"""Jobs that their caller wanted by a certain moment and that have not ended by then."""

from __future__ import annotations

import logging
import uuid
from datetime import datetime

from django.db import DatabaseError, transaction

from jobs.enums import JobStatus
from jobs.models import Job
from jobs.services import end_early
from usage.services import price_snapshot

EVERY_SECONDS = 1.0
AT_ONCE = 200
logger = logging.getLogger(__name__)
OPEN = (JobStatus.PENDING, JobStatus.PROCESSING)
OVERDUE = {
    "code": "timeout",
    "message": "The job did not end before its deadline",
    "type": "api_error",
}


def fail_overdue(*, now: datetime) -> int:
    """Fail Jobs whose deadline has passed, charged as cancelled ones; returns how many.

    The first ones only, so that whoever calls it every second is not held up; nodes share them.
    """
    overdue = Job.objects.filter(deadline_at__lte=now, status__in=OPEN)
    found = list(overdue.order_by("deadline_at").values_list("pk", flat=True)[:AT_ONCE])
    failed = 0
    for job_id in found:
        try:
            failed += _fail(job_id, now)
        except DatabaseError:
            raise
        except Exception:  # one odd Job must not keep the others, and all else, from being done
            logger.exception("job %s is overdue and cannot be ended", job_id)
    return failed


def _fail(job_id: uuid.UUID, now: datetime) -> bool:
    with transaction.atomic():
        rows = Job.objects.select_for_update(skip_locked=True)
        job = rows.filter(pk=job_id, status__in=OPEN).first()
        if job is None:
            return False  # it has just ended, or another node is at it
        prices = price_snapshot(model_id=job.model_id, now=now)
        end_early(job, status=JobStatus.FAILED, error=OVERDUE, prices=prices, now=now)
    return True
