"""Jobs that go back: after an error that may pass, after a crash, after a drain."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from jobs import events
from jobs.enums import JobStatus
from jobs.services import claim_jobs, claim_suspects, finish_jobs, release_jobs, retry_job
from tests.factories.jobs import (
    QUEUE,
    make_job,
    make_outcome,
    make_runner,
    make_running_job,
)
from usage.models import UsageRecord

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
OOM = {"code": "out_of_memory", "message": "no", "type": "api_error"}


def failed(job, **columns):
    return make_outcome(
        job,
        **{"status": JobStatus.FAILED, "result": None, "error": OOM, "charged": False} | columns,
    )


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0), (1, 5)])
def test_a_retried_job_waits_for_its_backoff(failures, seconds):
    job, now = make_running_job(runner=make_runner(), failures=failures), timezone.now()

    assert retry_job(outcome=failed(job), now=now) is True

    job.refresh_from_db()
    assert (job.status, job.runner_id, job.failures) == ("pending", None, failures + 1)
    assert job.available_at == now + timedelta(seconds=seconds)
    assert (job.crashes, job.attempts) == (0, 1)
    assert list(job.events.values_list("type", "data")) == [("retried", {"error": "out_of_memory"})]
    assert not UsageRecord.objects.exists()


def test_a_job_that_found_no_room_waits_as_told_and_counts_no_error():
    job, now = make_running_job(runner=make_runner(), failures=2, attempts=9), timezone.now()

    assert retry_job(outcome=failed(job, retry_after=17), now=now) is True

    job.refresh_from_db()
    assert (job.status, job.runner_id, job.failures) == ("pending", None, 2)
    assert job.available_at == now + timedelta(seconds=17)
    assert not UsageRecord.objects.exists()


def test_the_third_error_ends_the_job():
    job = make_running_job(runner=make_runner(), failures=2, attempts=3)

    assert retry_job(outcome=failed(job), now=timezone.now()) is True

    job.refresh_from_db()
    assert (job.status, job.error) == ("failed", OOM)
    assert UsageRecord.objects.get().amount == 0


def test_the_third_error_ends_the_job_even_when_it_cannot_be_written():
    job = make_running_job(runner=make_runner(), failures=2, attempts=3)

    retry_job(outcome=failed(job, units={"images": -1}), now=timezone.now())

    job.refresh_from_db()
    assert (job.status, job.error["code"]) == ("failed", "worker_error")
    assert UsageRecord.objects.get().amount == 0


def test_only_the_attempt_that_holds_the_job_can_put_it_back():
    job = make_running_job(runner=make_runner(), attempts=2)

    assert retry_job(outcome=failed(job, attempt=1), now=timezone.now()) is False
    assert retry_job(outcome=failed(job, runner_id=0), now=timezone.now()) is False

    job.refresh_from_db()
    assert (job.status, job.failures) == ("processing", 0)


def test_a_crash_counts_and_frees_the_job():
    runner = make_runner()
    job, other = make_running_job(runner=runner), make_running_job(runner=make_runner())

    assert release_jobs(runner_id=runner.pk, crashed=True) == (1, 0)

    job.refresh_from_db()
    other.refresh_from_db()
    assert (job.status, job.runner_id, job.crashes, job.attempts) == ("pending", None, 1, 1)
    assert other.status == "processing"
    assert list(job.events.values_list("type", flat=True)) == ["crashed"]


def test_the_third_crash_fails_the_job_uncharged():
    runner = make_runner()
    job = make_running_job(runner=runner, crashes=2, attempts=3, units={"completion_tokens": 9})

    assert release_jobs(runner_id=runner.pk, crashed=True) == (0, 1)

    job.refresh_from_db()
    assert (job.status, job.crashes) == ("failed", 3)
    assert job.error == {
        "code": "worker_crashed",
        "message": "The model runner crashed on this job three times",
        "type": "api_error",
    }
    record = UsageRecord.objects.get(job_id=str(job.pk))
    assert (record.status, record.completion_tokens, record.amount) == ("failed", 9, 0)


def test_a_drain_counts_against_nobody():
    runner = make_runner()
    job = make_running_job(runner=runner, crashes=2)

    assert release_jobs(runner_id=runner.pk, crashed=False) == (1, 0)

    job.refresh_from_db()
    assert (job.status, job.runner_id, job.crashes) == ("pending", None, 2)
    assert list(job.events.values_list("type", flat=True)) == ["released"]


@pytest.mark.parametrize("way", ["retry", "crash", "drain"])
def test_what_a_lost_attempt_produced_does_not_stay_on_the_job(way):
    runner = make_runner()
    job = make_running_job(runner=runner, units={"completion_tokens": 9}, progress=0.5)

    if way == "retry":
        retry_job(outcome=failed(job), now=timezone.now())
    else:
        release_jobs(runner_id=runner.pk, crashed=way == "crash")

    job.refresh_from_db()
    assert (job.units, job.progress) == ({}, 0.0)


def test_released_jobs_wake_their_queue(monkeypatch, django_capture_on_commit_callbacks):
    woken = []
    monkeypatch.setattr(events, "wake", woken.append)
    runner = make_runner()
    for queue_id in ("queue-a", "queue-b", "queue-a"):
        make_running_job(runner=runner, queue_id=queue_id)

    with django_capture_on_commit_callbacks(execute=True):
        release_jobs(runner_id=runner.pk, crashed=True)

    assert sorted(woken) == ["queue-a", "queue-b"]


def test_a_poison_job_ends_after_three_crashes():
    job = make_job()
    for crash in range(3):
        runner, now = make_runner(), timezone.now()
        if crash == 0:
            assert claim_jobs(runner_id=runner.pk, queue_id=QUEUE, free=1, now=now) == [job]
        else:
            assert claim_suspects(free=1, runner_id=runner.pk, queue_id=QUEUE, now=now) == [job]
        release_jobs(runner_id=runner.pk, crashed=True)

    job.refresh_from_db()
    assert (job.status, job.attempts, job.error["code"]) == ("failed", 3, "worker_crashed")
    assert UsageRecord.objects.count() == 1
    assert claim_suspects(free=1, runner_id=runner.pk, queue_id=QUEUE, now=timezone.now()) == []


def test_a_frozen_runner_that_comes_back_finishes_nothing():
    frozen, other, now = make_runner(), make_runner(), timezone.now()
    make_job()
    (job,) = claim_jobs(runner_id=frozen.pk, queue_id=QUEUE, free=1, now=now)
    late = make_outcome(job, result={"text": "late"})
    release_jobs(runner_id=frozen.pk, crashed=True)
    (again,) = claim_suspects(free=1, runner_id=other.pk, queue_id=QUEUE, now=now)

    assert finish_jobs([late]) == set()
    assert finish_jobs([make_outcome(again)]) == {str(job.pk)}
    assert finish_jobs([late]) == set()

    job.refresh_from_db()
    assert job.result == {"text": "done"}
    assert UsageRecord.objects.count() == 1
