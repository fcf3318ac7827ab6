"""The checker is worth something: every known way to break the promise makes it go red."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from jobs import services
from jobs.enums import JobStatus
from jobs.leases import ago, sweep
from jobs.models import Job, Runner
from jobs.services import cancel_job, claim_jobs, claim_suspects, finish_jobs
from jobs.submission import submit_job
from tests.factories.accounts import make_organization
from tests.factories.jobs import (
    MODEL,
    QUEUE,
    TASK,
    make_outcome,
    make_runner,
    make_submitter,
)
from tests.jobs.invariants import violations

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


class Killed(BaseException):
    """The process dies here: nothing of ours runs after it."""


def history(monkeypatch) -> list[str]:
    """One of everything that goes wrong; returns what the checker finds after each step."""
    found: list[str] = []
    submitter, start = make_submitter(make_organization()), timezone.now()
    frozen, other = make_runner(), make_runner()

    def submit():
        return submit_job(
            submitter=submitter, model_id=MODEL, queue_id=QUEUE, task=TASK, payload={}, now=start
        )

    # Frozen past the lease; its late end comes before, during and after the second attempt.
    submit()
    (job,) = claim_jobs(runner_id=frozen.pk, queue_id=QUEUE, free=1, now=start)
    late = make_outcome(job, units={"completion_tokens": 5})
    Runner.objects.filter(pk=frozen.pk).update(heartbeat_at=ago(3600))
    assert sweep().requeued == 1
    finish_jobs([late])
    found += violations()
    again = claim_suspects(
        free=1, runner_id=other.pk, queue_id=QUEUE, now=start + timedelta(minutes=1)
    )
    finish_jobs([late])
    found += violations()
    if again:
        finish_jobs([make_outcome(again[0])])
    finish_jobs([late])
    found += violations()

    # Cancelled while it runs; its end comes after.
    job = submit()
    claim_jobs(runner_id=other.pk, queue_id=QUEUE, free=1, now=start)
    job.refresh_from_db()
    cancel_job(job=job, prices={}, now=start)
    finish_jobs([make_outcome(job, units={})])
    found += violations()

    # Killed between the Job's row and its record.
    submit()
    (job,) = claim_jobs(runner_id=other.pk, queue_id=QUEUE, free=1, now=start)
    with monkeypatch.context() as patch:
        patch.setattr(services, "record_usage", lambda _: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            finish_jobs([make_outcome(job)])
    found += violations()
    finish_jobs([make_outcome(job)])
    if not found:
        assert set(Job.objects.values_list("status", flat=True)) == {"completed", "cancelled"}
    return found + violations()


def finish_where(monkeypatch, *conditions):
    """Finishing updates check only these of the columns (id, status, runner_id, attempts)."""

    def finish(outcome, now, expires_at):
        wanted = {
            "pk": outcome.job_id,
            "status": JobStatus.PROCESSING,
            "runner_id": outcome.runner_id,
            "attempts": outcome.attempt,
        }
        rows = Job.objects.filter(**{name: wanted[name] for name in conditions})
        changed = rows.update(
            status=outcome.status,
            units=outcome.units,
            result=outcome.result,
            completed_at=now,
            expires_at=expires_at,
        )
        return changed == 1

    monkeypatch.setattr(services, "_finish_claimed", finish)


def usage_whatever_the_update_says(monkeypatch):
    real = services._finish_claimed

    def finish(outcome, now, expires_at):
        if not real(outcome, now, expires_at):
            services.record_usage([services._consumption(outcome, now)])
            return False
        return True

    monkeypatch.setattr(services, "_finish_claimed", finish)


def usage_outside_the_transaction(monkeypatch):
    monkeypatch.setattr(services, "finish_jobs", services._finish)
    monkeypatch.setitem(globals(), "finish_jobs", services._finish)


MUTANTS = {
    "finish by id only": lambda patch: finish_where(patch, "pk"),
    "finish without the fencing pair": lambda patch: finish_where(patch, "pk", "status"),
    "usage whatever the update says": usage_whatever_the_update_says,
    "usage outside the transaction": usage_outside_the_transaction,
}


def test_the_real_code_is_green(monkeypatch):
    assert history(monkeypatch) == []


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_is_red(monkeypatch, mutant):
    mutant(monkeypatch)
    assert history(monkeypatch) != []


def test_a_copy_of_the_update_that_checks_all_is_green(monkeypatch):
    finish_where(monkeypatch, "pk", "status", "runner_id", "attempts")
    assert history(monkeypatch) == []


def test_the_trigger_and_the_unique_record_stand_in_for_the_state(monkeypatch):
    finish_where(monkeypatch, "pk", "runner_id", "attempts")
    assert history(monkeypatch) == []
