"""An Organization's Jobs in processing never exceed its Plan's cap, over all queues and Runners."""

from __future__ import annotations

import random
import threading
import time
from functools import partial

import pytest
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import Organization, Plan
from jobs import events
from jobs.enums import JobStatus
from jobs.models import Job
from jobs.services import (
    cancel_job,
    claim_jobs,
    claim_suspects,
    finish_jobs,
    release_jobs,
    retry_job,
    suspect_waits,
)
from tests.factories.accounts import make_organization, make_plan
from tests.factories.jobs import QUEUE, make_job, make_outcome, make_runner, make_running_job
from tests.threads import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]
OTHER = "queue-other"


def capped(cap: int) -> Organization:
    return make_organization(plan=make_plan(max_running_jobs=cap))


def claim(runner, free=10):
    return claim_jobs(runner_id=runner.pk, queue_id=runner.queue_id, free=free, now=timezone.now())


def processing(organization) -> int:
    return organization.jobs.filter(status=JobStatus.PROCESSING).count()


@pytest.fixture
def woken(monkeypatch):
    """Queues that were woken."""
    queues: list[str] = []
    monkeypatch.setattr(events, "wake", queues.append)
    return queues


def test_what_is_over_the_cap_stays_pending_and_others_come_instead():
    first, second = capped(2), make_organization()
    jobs = [make_job(organization=first) for _ in range(4)]
    others = [make_job(organization=second) for _ in range(5)]

    claimed = claim(make_runner(), free=6)

    assert {job.pk for job in claimed} == {job.pk for job in [*jobs[:2], *others[:4]]}
    assert claim(make_runner()) == others[4:]
    assert list(first.jobs.filter(status="pending").order_by("created_at")) == jobs[2:]


def test_the_cap_counts_all_queues_and_runners():
    organization = capped(3)
    here, elsewhere = make_runner(), make_runner(queue_id=OTHER)
    for _ in range(2):
        make_job(organization=organization)
        make_job(organization=organization, queue_id=OTHER)

    assert len(claim(elsewhere)) == 2
    assert len(claim(here)) == 1
    assert claim(make_runner()) == []


@pytest.mark.parametrize("cap", [None, 5])
def test_jobs_of_a_suspended_organization_wait(cap):
    organization, other = capped(cap), make_organization()
    job, suspect = (
        make_job(organization=organization),
        make_job(organization=organization, crashes=1),
    )
    running = make_running_job(runner=make_runner(), organization=organization)
    theirs = make_job(organization=other)
    Organization.objects.filter(pk=organization.pk).update(status="suspended")

    runner = make_runner()
    assert claim(runner) == [theirs]
    assert not suspect_waits(queue_id=QUEUE, now=timezone.now())
    asked = {"runner_id": runner.pk, "queue_id": QUEUE, "free": 5, "now": timezone.now()}
    assert claim_suspects(**asked) == []
    assert finish_jobs([make_outcome(running)]) == {str(running.pk)}

    Organization.objects.filter(pk=organization.pk).update(status="active")
    assert claim(runner) == [job]
    assert claim_suspects(**asked) == [suspect]


def test_a_cap_of_nothing_runs_nothing():
    make_job(organization=capped(0))
    assert claim(make_runner()) == []


def test_a_new_plan_counts_at_the_next_claim():
    organization, runner = capped(1), make_runner()
    for _ in range(5):
        make_job(organization=organization)
    assert len(claim(runner)) == 1

    Plan.objects.filter(pk=organization.plan_id).update(max_running_jobs=3)
    assert len(claim(runner)) == 2

    Plan.objects.filter(pk=organization.plan_id).update(max_running_jobs=None)
    assert len(claim(runner)) == 2


def test_what_another_transaction_claims_for_is_left_to_it():
    if connection.vendor != "postgresql":
        pytest.skip("a transaction of SQLite is alone")
    both, free = capped(2), make_organization()
    for _ in range(3):
        make_job(organization=both)
    job = make_job(organization=free)
    runners = [make_runner() for _ in range(2)]
    claimed, go_on = threading.Event(), threading.Event()

    def slowly():
        with transaction.atomic():
            mine = claim(runners[0], free=1)
            claimed.set()
            go_on.wait(30)
            return mine

    def meanwhile():
        claimed.wait(30)
        mine = claim(runners[1])
        go_on.set()
        return mine

    first, second = at_once([slowly, meanwhile])

    assert (first[0].organization_id, second) == (both.pk, [job])
    assert [job.organization_id for job in claim(runners[1])] == [both.pk]
    assert processing(both) == 2


@pytest.mark.parametrize("seed", range(2))
def test_four_runners_at_once_never_exceed_it(seed):
    small, large, free = capped(2), capped(5), make_organization()
    for organization in (small, large, free):
        for number in range(24):
            make_job(organization=organization, queue_id=OTHER if number % 3 == 0 else QUEUE)
    runners = [make_runner(queue_id=OTHER if number == 3 else QUEUE) for number in range(4)]
    over, done = [], threading.Event()

    def work(number):
        chance, runner = random.Random(seed * 10 + number), runners[number]
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            jobs = claim(runner, free=chance.randint(1, 6))
            finish_jobs([make_outcome(job) for job in jobs])
            if (
                not jobs
                and not Job.objects.filter(
                    queue_id=runner.queue_id, status=JobStatus.PENDING
                ).exists()
            ):
                return

    def watch():
        while not done.is_set():
            for organization, cap in ((small, 2), (large, 5)):
                now = processing(organization)
                if now > cap:
                    over.append((cap, now))
        connection.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    results = at_once([partial(work, number) for number in range(4)])
    done.set()
    watcher.join()

    assert results == [None] * 4
    assert over == []
    assert set(Job.objects.values_list("status", "attempts")) == {("completed", 1)}


def test_suspects_are_within_the_cap_as_well():
    first, second = capped(2), capped(1)
    runner, now = make_runner(), timezone.now()
    make_running_job(runner=runner, organization=second)
    mine = [make_job(organization=first, crashes=1) for _ in range(3)]
    held_back = make_job(organization=second, crashes=1)
    ask = {"runner_id": runner.pk, "queue_id": QUEUE, "free": 8, "now": now}

    assert suspect_waits(queue_id=QUEUE, now=now)
    assert claim_suspects(**ask) == mine[:2]
    assert not suspect_waits(queue_id=QUEUE, now=now)
    assert claim_suspects(**ask) == []

    second.jobs.exclude(pk=held_back.pk).update(status="completed")
    assert suspect_waits(queue_id=QUEUE, now=now)
    assert claim_suspects(**ask) == [held_back]


def test_a_suspect_that_is_held_back_holds_up_nobody():
    organization, runner = capped(0), make_runner()
    make_job(organization=organization, crashes=1)
    other = make_job()

    assert not suspect_waits(queue_id=QUEUE, now=timezone.now())
    assert claim(runner) == [other]


@pytest.mark.parametrize(
    "end",
    [
        lambda job: finish_jobs([make_outcome(job)]),
        lambda job: retry_job(outcome=make_outcome(job, status="failed"), now=timezone.now()),
        lambda job: cancel_job(job=job, prices={}, now=timezone.now()),
        lambda job: release_jobs(runner_id=job.runner_id, crashed=True),
    ],
    ids=["finish", "retry", "cancel", "release"],
)
def test_an_end_wakes_the_queue_for_what_was_held_back(woken, end):
    organization = capped(1)
    end(make_running_job(runner=make_runner(), organization=organization, crashes=1))

    assert set(woken) == {QUEUE}


def test_an_end_without_a_cap_wakes_nobody(woken):
    finish_jobs([make_outcome(make_running_job(runner=make_runner()))])
    assert woken == []
