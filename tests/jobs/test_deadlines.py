"""A Job that has not ended by its deadline fails, is charged for what it made and claimed no more."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.utils import timezone

from jobs import events
from jobs.deadlines import OVERDUE, fail_overdue
from jobs.models import Job
from jobs.services import claim_jobs, finish_jobs
from tests.factories.accounts import make_organization
from tests.factories.jobs import QUEUE, make_job, make_outcome, make_runner, make_running_job
from tests.factories.tokens import make_token
from usage.models import Price, UsageRecord

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = timezone.now()
PAST, FUTURE = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)


def test_what_is_overdue_fails_and_nothing_else():
    waiting = make_job(deadline_at=PAST)
    others = [
        make_job(),
        make_job(deadline_at=FUTURE),
        make_job(deadline_at=PAST, status="completed"),
    ]

    assert fail_overdue(now=NOW) == 1
    assert fail_overdue(now=NOW) == 0

    waiting.refresh_from_db()
    assert (waiting.status, waiting.error) == ("failed", OVERDUE)
    assert list(waiting.events.values_list("type", flat=True)) == ["failed"]
    assert UsageRecord.objects.get(job_id=str(waiting.pk)).amount == 0
    statuses = [Job.objects.get(pk=job.pk).status for job in others]
    assert statuses == ["pending", "pending", "completed"]


def test_a_running_one_is_charged_and_its_runner_told(
    monkeypatch, django_capture_on_commit_callbacks
):
    told = []
    monkeypatch.setattr(events, "request_cancel", lambda *arguments: told.append(arguments))
    job = make_running_job(runner=make_runner(), units={"completion_tokens": 10}, deadline_at=PAST)
    Price.objects.create(
        model_id=job.model_id, unit="completion_tokens", amount="0.5", per=1,
        valid_from=NOW - timedelta(days=1),
    )  # fmt: skip

    with django_capture_on_commit_callbacks(execute=True):
        assert fail_overdue(now=NOW) == 1

    assert told == [(job.queue_id, str(job.pk))]
    record = UsageRecord.objects.get(job_id=str(job.pk))
    assert (record.status, record.amount) == ("failed", Decimal(5))
    assert finish_jobs([make_outcome(job)]) == set()


def test_an_overdue_job_is_not_claimed():
    runner = make_runner()
    make_job(deadline_at=PAST)
    in_time = make_job(deadline_at=FUTURE)

    claimed = claim_jobs(runner_id=runner.pk, queue_id=QUEUE, free=5, now=NOW)

    assert [job.pk for job in claimed] == [in_time.pk]


@pytest.fixture
def submit(monkeypatch):
    from django.core.management import call_command

    from inference import selectors

    call_command("ensure_demo")
    monkeypatch.setattr(selectors, "_catalog", selectors.read_catalog())
    _, secret = make_token(organization=make_organization())

    def submit(**wishes):
        body = {"model_id": "test/echo", "task": "test/echo", "input": {}, **wishes}
        headers = {"Authorization": f"Bearer {secret}"}
        return Client().post("/api/jobs", body, content_type="application/json", headers=headers)

    return submit


def test_wishes_are_kept_with_the_job(submit):
    answer = submit(priority=-3, deadline_s=60, metadata={"run": "7"})

    job = Job.objects.get(pk=answer.json()["id"])
    assert (job.priority, job.metadata) == (-3, {"run": "7"})
    assert job.deadline_at == job.created_at + timedelta(seconds=60)


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": 604_801}, "deadline_s"),
        ({"deadline_s": "60"}, "deadline_s"),
        ({"deadline_s": 1.5}, "deadline_s"),
        ({"priority": 11}, "priority"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"metadata": {"x" * 65: "a"}}, "metadata"),
        ({"metadata": {"": "a"}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ],
)
def test_an_odd_wish_is_named(submit, wish, param):
    answer = submit(**wish)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not Job.objects.exists()
