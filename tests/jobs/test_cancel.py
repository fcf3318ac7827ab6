"""Cancelling, and finding a Job inside the tenant."""

from __future__ import annotations

import uuid
from decimal import Decimal

import pytest
from django.utils import timezone

from casola_site.core.errors import body_for
from jobs import events
from jobs.services import JobAlreadyFinished, JobNotFound, cancel_job, find_job, finish_jobs
from tests.factories.accounts import make_organization
from tests.factories.jobs import ghost_id, make_job, make_outcome, make_runner, make_running_job
from usage.models import UsageRecord

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
UNKNOWN = uuid.UUID("5d0c6f0e-4f0b-4a58-9a0c-6f1f2f0e7b11")
PRICES = {"completion_tokens": ["0.25", 1]}


def cancel(job):
    return cancel_job(job=job, prices=PRICES, now=timezone.now())


def test_a_pending_job_is_cancelled_and_costs_nothing():
    job = cancel(make_job())

    assert (job.status, job.error, job.result) == ("cancelled", None, None)
    assert job.completed_at is not None
    record = UsageRecord.objects.get(job_id=str(job.pk))
    assert (record.status, record.amount) == ("cancelled", 0)
    assert list(job.events.values_list("type", flat=True)) == ["cancelled"]


def test_a_running_job_is_cancelled_at_once_and_charged_with_the_units_last_reported():
    running = make_running_job(runner=make_runner(), units={"completion_tokens": 10})
    outcome = make_outcome(running, units={"completion_tokens": 12})

    job = cancel(running)

    assert job.status == "cancelled"
    assert finish_jobs([outcome]) == set()
    record = UsageRecord.objects.get(job_id=str(job.pk))
    assert (record.completion_tokens, record.amount) == (10, Decimal("2.5"))


def test_only_a_running_job_needs_a_signal(monkeypatch, django_capture_on_commit_callbacks):
    told = []
    monkeypatch.setattr(events, "request_cancel", lambda *arguments: told.append(arguments))
    running, waiting = make_running_job(runner=make_runner()), make_job()

    with django_capture_on_commit_callbacks(execute=True):
        cancel(waiting)
        cancel(running)

    assert told == [(running.queue_id, str(running.pk))]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_finished_job_cannot_be_cancelled(status):
    job = make_job(status=status)

    with pytest.raises(JobAlreadyFinished) as refused:
        cancel(job)

    assert (refused.value.status, refused.value.headers) == (409, {"x-should-retry": "false"})
    assert body_for(refused.value, "native") == {
        "error": {
            "code": "conflict",
            "message": f"The job is already {status}",
            "type": "conflict_error",
        }
    }
    assert not UsageRecord.objects.exists()


def test_find_job_in_the_own_organization():
    job = make_job()
    assert find_job(organization_id=job.organization_id, job_id=str(job.pk)) == job


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "1",
        "..",
        "null",
        "job_1",
        "\x00",
        "é" * 40,
        "0" * 5000,
        str(UNKNOWN).upper(),
        "{" + str(UNKNOWN) + "}",
        UNKNOWN.hex,
        str(UNKNOWN) + "\n",
        "' OR 1=1 --",
    ],
)
def test_an_odd_id_finds_no_job_without_asking_the_database(odd, django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(JobNotFound):
        find_job(organization_id=1, job_id=odd)


def test_a_strangers_job_is_the_same_404_as_no_job():
    foreign, organization = make_job(), make_organization()
    bodies = []
    for job_id in (str(foreign.pk), ghost_id(), "odd"):
        with pytest.raises(JobNotFound) as refused:
            find_job(organization_id=organization.pk, job_id=job_id)
        bodies.append((refused.value.status, body_for(refused.value, "native")))

    seed = {"error": {"code": "not_found", "message": "Job not found", "type": "not_found_error"}}
    assert bodies == [(404, seed)] * 3
