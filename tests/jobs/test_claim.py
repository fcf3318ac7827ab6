"""Who gets the free slots: fewest running first, then priority, then age; suspects alone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from jobs.enums import RunnerState
from jobs.models import Runner
from jobs.services import claim_jobs, claim_suspects, suspect_waits
from tests.factories.accounts import make_organization
from tests.factories.jobs import QUEUE, make_job, make_runner, make_running_job

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


def claim(runner, free=1, now=None):
    return claim_jobs(runner_id=runner.pk, queue_id=QUEUE, free=free, now=now or timezone.now())


def test_a_claimed_job_belongs_to_the_runner_and_counts_the_attempt():
    runner, job, now = make_runner(), make_job(), timezone.now()

    (claimed,) = claim(runner, now=now)

    assert claimed == job
    assert (claimed.status, claimed.runner_id, claimed.attempts) == ("processing", runner.pk, 1)
    assert claimed.started_at == now
    assert list(job.events.values_list("seq", "type", "data")) == [(1, "claimed", {"attempt": 1})]


@pytest.mark.parametrize("free", [0, -1])
def test_no_free_slot_claims_nothing(free):
    make_job()
    assert claim(make_runner(), free=free) == []


def test_an_empty_queue_gives_nothing():
    make_job(queue_id="queue-other")
    assert claim(make_runner(), free=5) == []


def test_priority_comes_before_age():
    organization, now = make_organization(), timezone.now()
    old = make_job(organization=organization, created_at=now - timedelta(hours=1))
    urgent = make_job(organization=organization, created_at=now, priority=1)
    young = make_job(organization=organization, created_at=now - timedelta(minutes=1))

    assert claim(make_runner(), free=3) == [urgent, old, young]


def test_the_organization_with_the_fewest_running_comes_before_priority():
    runner, busy, idle = make_runner(), make_organization(), make_organization()
    for _ in range(2):
        make_running_job(runner=runner, organization=busy)
    urgent = make_job(organization=busy, priority=10)
    first, second = (make_job(organization=idle) for _ in range(2))

    assert claim(runner) == [first]
    assert claim(runner) == [second]
    assert claim(runner) == [urgent]


def test_a_flood_of_one_organization_does_not_hold_up_another():
    flood, other = make_organization(), make_organization()
    for _ in range(30):
        make_job(organization=flood)
    runner = make_runner()
    claim(runner, free=4)

    late = make_job(organization=other)

    assert claim(runner) == [late]


def test_slots_that_an_organization_cannot_fill_go_to_the_others():
    few, many = make_organization(), make_organization()
    make_job(organization=few)
    make_job(organization=few, available_at=timezone.now() + timedelta(minutes=1))
    for _ in range(5):
        make_job(organization=many)

    claimed = claim(make_runner(), free=6)

    assert sorted(job.organization_id for job in claimed) == [few.pk] + [many.pk] * 5


def test_a_job_that_waits_for_its_backoff_is_not_claimed_before():
    now = timezone.now()
    job = make_job(available_at=now + timedelta(seconds=5))
    runner = make_runner()

    assert claim(runner, now=now + timedelta(seconds=4)) == []
    assert claim(runner, now=now + timedelta(seconds=5)) == [job]


def test_a_suspect_is_never_claimed_with_others():
    suspect, other = make_job(crashes=1), make_job()
    runner, now = make_runner(), timezone.now()

    assert claim(runner, free=5) == [other]
    assert suspect_waits(queue_id=QUEUE, now=now)
    assert claim_suspects(free=1, runner_id=runner.pk, queue_id=QUEUE, now=now) == [suspect]
    assert not suspect_waits(queue_id=QUEUE, now=now)
    assert claim_suspects(free=1, runner_id=runner.pk, queue_id=QUEUE, now=now) == []


def test_an_innocent_job_is_no_suspect():
    make_job()
    runner, now = make_runner(), timezone.now()

    assert not suspect_waits(queue_id=QUEUE, now=now)
    assert claim_suspects(free=1, runner_id=runner.pk, queue_id=QUEUE, now=now) == []


def test_suspects_of_one_crash_run_together_and_repeated_ones_alone():
    runner, now = make_runner(), timezone.now()
    once = [make_job(crashes=1), make_job(crashes=1)]
    twice = [make_job(crashes=2), make_job(crashes=2)]
    claim = {"runner_id": runner.pk, "queue_id": QUEUE, "free": 8, "now": now}

    assert claim_suspects(**claim) == once
    assert claim_suspects(**claim) == twice[:1]
    assert claim_suspects(**claim) == twice[1:]


@pytest.mark.parametrize("state", [RunnerState.DEAD, RunnerState.STOPPED])
def test_a_fenced_runner_claims_nothing(state):
    job, suspect, runner, now = make_job(), make_job(crashes=1), make_runner(), timezone.now()
    Runner.objects.filter(pk=runner.pk).update(state=state)

    assert claim(runner) == []
    assert claim_suspects(free=1, runner_id=runner.pk, queue_id=QUEUE, now=now) == []

    for untouched in (job, suspect):
        untouched.refresh_from_db()
        assert (untouched.status, untouched.attempts) == ("pending", 0)


def test_the_number_of_queries_does_not_grow_with_the_queue(django_assert_num_queries):
    organization, runner = make_organization(), make_runner()
    make_job(organization=organization)
    with django_assert_num_queries(10) as few:
        claim(runner)
    for _ in range(20):
        make_job(organization=organization)

    with django_assert_num_queries(len(few)):
        assert len(claim(runner, free=10)) == 10
