"""What one node or another does every minute, none of it urgent."""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import DatabaseError

from accounts.idempotency import sweep_keys
from accounts.sign_in.sessions import sweep_sessions
from casola_site.core.clock import now
from jobs import files, retention, sent_files
from jobs.enums import TERMINAL
from jobs.models import Job
from tokens import uses
from usage.alerts import enqueue_unsent
from usage.reservations import expired_reservations, release

EVERY_SECONDS = 60.0
AT_ONCE = 500

logger = logging.getLogger(__name__)


def keep() -> None:
    """Forget what is old, write when tokens were last used, and look after budgets.

    What goes wrong in one of these keeps none of the others from being done. Raises DatabaseError.
    """
    for work in (
        lambda: sweep_keys(now()),
        lambda: sweep_sessions(now()),
        uses.write,
        lambda: release_abandoned(now=now()),
        lambda: enqueue_unsent(now()),
        lambda: retention.delete_expired(now=now()),
        lambda: files.forget_expired(now=now()),
        lambda: sent_files.forget_expired_sent(now=now()),
        lambda: files.sweep(now=now()),
    ):
        try:
            work()
        except DatabaseError:
            raise
        except Exception:
            logger.exception("a part of housekeeping failed")


def release_abandoned(*, now: datetime) -> int:
    """Give back what was reserved for requests that nobody works on any more; returns how many.

    Jobs that wait or run keep what they hold. An interactive request has no row before its end, so
    its reservation says itself until when a Runner may still have it.
    """
    released = last = 0
    while found := expired_reservations(after=last, now=now, most=AT_ONCE):
        last = found[-1][0]
        job_ids = {job_id for _, job_id in found}
        running = Job.objects.filter(pk__in=job_ids).exclude(status__in=TERMINAL)
        job_ids -= {str(pk) for pk in running.values_list("pk", flat=True)}
        released += release(job_ids) if job_ids else 0
    return released
