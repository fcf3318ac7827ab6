"""What one node or another does every minute, none of it urgent."""

from __future__ import annotations

from datetime import datetime

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


def keep() -> None:
    """Forget what is old, write when tokens were last used, and look after budgets."""
    sweep_keys(now())
    sweep_sessions(now())
    uses.write()
    release_abandoned(now=now())
    enqueue_unsent(now())
    retention.delete_expired(now=now())
    files.forget_expired(now=now())
    sent_files.forget_expired_sent(now=now())
    files.sweep(now=now())


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
