"""Submitting: the row, its first event, the wake-up and the queue's cap."""

from __future__ import annotations

import pytest
from django.utils import timezone

from casola_site.core.errors import QueueFull
from jobs import events
from jobs.models import Job
from jobs.submission import Wishes, submit_job
from tests.factories.accounts import make_organization
from tests.factories.jobs import MODEL, QUEUE, TASK, make_job, make_submitter

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


def submit(organization, *, cap=None, **changed):
    return submit_job(
        submitter=make_submitter(organization, max_queued_jobs=cap, plan="Free"),
        **{
            "model_id": MODEL,
            "queue_id": QUEUE,
            "task": TASK,
            "payload": {"messages": []},
            "now": timezone.now(),
            **changed,
        },
    )


def test_a_submitted_job_is_pending_with_one_event():
    organization, now = make_organization(), timezone.now()

    job = Job.objects.get(pk=submit(organization, wishes=Wishes(priority=3), now=now).pk)

    assert (job.status, job.organization, job.input) == ("pending", organization, {"messages": []})
    assert (job.attempts, job.crashes, job.failures, job.units) == (0, 0, 0, {})
    assert (job.priority, job.created_at, job.runner_id) == (3, now, None)
    assert list(job.events.values_list("seq", "type")) == [(1, "created")]


def test_the_runners_are_woken_after_the_commit(monkeypatch, django_capture_on_commit_callbacks):
    woken = []
    monkeypatch.setattr(events, "wake", woken.append)

    with django_capture_on_commit_callbacks(execute=True):
        submit(make_organization())
        assert woken == []

    assert woken == [QUEUE]


def test_the_cap_counts_what_waits_in_all_queues():
    organization = make_organization()
    make_job(organization=organization, queue_id="queue-other")
    make_job(organization=organization, status="completed")
    make_job(organization=organization, status="processing")
    make_job()

    submit(organization, cap=2)
    with pytest.raises(QueueFull) as refused:
        submit(organization, cap=2)

    assert refused.value.message == "Too many jobs are waiting: the plan Free allows 2"
    assert (refused.value.status, refused.value.code) == (429, "queue_full")
    assert organization.jobs.filter(status="pending").count() == 2


def test_a_plan_without_a_cap_takes_everything():
    organization = make_organization()
    make_job(organization=organization)

    assert submit(organization, cap=None).status == "pending"
