"""Ends reported by a Runner: accepted once, charged once, with row, record and event together."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.utils import timezone

from jobs.enums import JobStatus, Lane
from jobs.models import Job
from jobs.services import checkpoint_units, finish_jobs
from tests.factories.accounts import make_organization
from tests.factories.jobs import (
    ghost_id,
    make_direct_outcome,
    make_job,
    make_outcome,
    make_runner,
    make_running_job,
)
from usage.models import UsageRecord

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
PRICES = {"completion_tokens": ["0.5", 1]}


def record_of(job_id) -> UsageRecord:
    return UsageRecord.objects.get(job_id=str(job_id))


def test_a_completed_job_has_its_result_one_record_and_one_event():
    job = make_running_job(runner=make_runner())

    accepted = finish_jobs([make_outcome(job, units={"completion_tokens": 4}, prices=PRICES)])

    assert accepted == {str(job.pk)}
    job.refresh_from_db()
    assert (job.status, job.result, job.error) == ("completed", {"text": "done"}, None)
    assert (job.units, job.progress) == ({"completion_tokens": 4}, 1.0)
    assert job.completed_at is not None
    record = record_of(job.pk)
    assert (record.status, record.completion_tokens, record.amount) == ("completed", 4, Decimal(2))
    assert (record.organization_id, record.created_at) == (job.organization_id, job.completed_at)
    assert list(job.events.values_list("seq", "type", "data")) == [(1, "completed", {"attempt": 1})]


def test_a_failed_job_keeps_its_error_and_is_recorded_without_an_amount():
    job = make_running_job(runner=make_runner())
    error = {"code": "worker_error", "message": "no", "type": "api_error"}

    finish_jobs(
        [
            make_outcome(
                job, status=JobStatus.FAILED, result=None, error=error, charged=False, prices=PRICES
            )
        ]
    )

    job.refresh_from_db()
    assert (job.status, job.result, job.error) == ("failed", None, error)
    record = record_of(job.pk)
    assert (record.status, record.completion_tokens, record.amount) == ("failed", 1, Decimal(0))


@pytest.mark.parametrize(
    "stale",
    [
        pytest.param({"attempt": 1}, id="an earlier attempt of the same runner"),
        pytest.param({"runner_id": None}, id="no runner"),
        pytest.param({"runner_id": 0}, id="another runner"),
        pytest.param({"job_id": ghost_id()}, id="no job"),
    ],
)
def test_a_late_finisher_is_discarded(stale):
    job = make_running_job(runner=make_runner(), attempts=2)

    assert finish_jobs([make_outcome(job, **stale)]) == set()

    job.refresh_from_db()
    assert (job.status, job.result, job.units) == ("processing", None, {})
    assert not UsageRecord.objects.exists()
    assert not job.events.exists()


@pytest.mark.parametrize("status", ["pending", "completed", "failed", "cancelled"])
def test_only_a_processing_job_can_be_finished(status):
    job = make_running_job(runner=make_runner(), status=status)

    assert finish_jobs([make_outcome(job)]) == set()

    job.refresh_from_db()
    assert job.status == status
    assert not UsageRecord.objects.exists()


def test_the_same_end_twice_is_accepted_once():
    job = make_running_job(runner=make_runner())
    outcome = make_outcome(job)

    assert finish_jobs([outcome]) == {str(job.pk)}
    assert finish_jobs([outcome]) == set()

    assert UsageRecord.objects.count() == 1
    assert job.events.count() == 1


def test_an_interactive_request_gets_its_row_when_it_ends():
    outcome = make_direct_outcome(make_organization(), prices=PRICES)

    assert finish_jobs([outcome]) == {outcome.job_id}

    job = Job.objects.get(pk=outcome.job_id)
    assert (job.lane, job.status, job.attempts) == (Lane.INTERACTIVE, "completed", 1)
    assert job.units == {"completion_tokens": 1}
    assert record_of(outcome.job_id).amount == Decimal("0.5")


def test_an_interactive_request_is_written_once_whoever_reports_it():
    organization = make_organization()
    ended = make_direct_outcome(organization)
    lost = make_direct_outcome(
        organization, job_id=ended.job_id, status=JobStatus.FAILED, charged=False
    )

    assert finish_jobs([ended]) == {ended.job_id}
    assert finish_jobs([lost]) == set()

    assert Job.objects.get().status == "completed"
    assert UsageRecord.objects.get().status == "completed"


def test_a_duplicate_in_a_group_does_not_hold_up_the_others():
    organization = make_organization()
    known = make_direct_outcome(organization)
    finish_jobs([known])
    claimed = make_running_job(runner=make_runner(), organization=organization)
    new = make_direct_outcome(organization)

    accepted = finish_jobs([known, make_outcome(claimed), new])

    assert accepted == {str(claimed.pk), new.job_id}
    assert UsageRecord.objects.count() == 3


UNWRITABLE = {
    "NUL in the result": {"result": {"text": "a\0b"}},
    "lone surrogate in the result": {"result": {"text": "\ud800"}},
    "NaN in the result": {"result": {"score": float("nan")}},
    "no JSON": {"result": {"text": b"bytes"}},
    "more units than the column holds": {"units": {"completion_tokens": 10**30}},
    "negative units": {"units": {"completion_tokens": -1}},
    "an amount beyond the column": {"prices": {"completion_tokens": ["1e15", 1]}},
}


@pytest.mark.parametrize("bad", UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_an_end_that_cannot_be_written_fails_its_job_alone(bad, request):
    runner = make_runner()
    poisoned, healthy = make_running_job(runner=runner), make_running_job(runner=runner)

    accepted = finish_jobs([make_outcome(poisoned, **bad), make_outcome(healthy)])

    assert str(healthy.pk) in accepted
    poisoned.refresh_from_db()
    assert poisoned.status in ("failed", "completed")  # SQLite takes some of these
    if poisoned.status == "failed":
        assert str(poisoned.pk) not in accepted
        assert poisoned.error["code"] == "worker_error"
        assert (poisoned.units, poisoned.result) == ({}, None)
        assert record_of(poisoned.pk).amount == 0
    assert UsageRecord.objects.count() == 2


def test_a_checkpoint_keeps_units_and_returns_what_is_lost():
    runner, other = make_runner(), make_runner()
    mine, foreign = make_running_job(runner=runner), make_running_job(runner=other)
    ended, waiting = make_running_job(runner=runner, status="cancelled"), make_job()
    ghost = ghost_id()
    produced = {"completion_tokens": 7}

    lost = checkpoint_units(
        runner_id=runner.pk,
        units={str(job): produced for job in (mine, foreign, ended, waiting)} | {ghost: produced},
    )

    assert lost == {str(foreign), str(ended), str(waiting), ghost}
    units = dict(Job.objects.values_list("pk", "units"))
    assert units == {mine.pk: produced, foreign.pk: {}, ended.pk: {}, waiting.pk: {}}


def test_a_checkpoint_tells_how_far_running_jobs_are():
    runner, now = make_runner(), timezone.now()
    mine, ended = make_running_job(runner=runner), make_running_job(runner=runner)
    finish_jobs([make_outcome(ended)])
    ends = list(ended.events.values_list("type", "data"))
    for share in (0.25, 0.5):
        checkpoint_units(
            runner_id=runner.pk,
            units={str(job): {"images": 1} for job in (mine, ended)},
            progress={str(job): (share, "step 5 of 20") for job in (mine, ended)},
            now=now,
        )
    mine.refresh_from_db()
    ended.refresh_from_db()
    assert (mine.progress, ended.progress) == (0.5, 1.0)
    told = mine.events.filter(type="progress").order_by("seq").values_list("at", "data")
    assert list(told) == [
        (now, {"progress": 0.25, "message": "step 5 of 20"}),
        (now, {"progress": 0.5, "message": "step 5 of 20"}),
    ]
    assert list(ended.events.values_list("type", "data")) == ends
