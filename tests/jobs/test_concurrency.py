"""Many threads at the same Jobs: each is claimed once, ended once and charged once.

Nothing may be lost to a deadlock either: every writer locks a Runner before its Jobs and Jobs in
the order of their ids.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from functools import partial

import pytest
from django.utils import timezone

from casola_site.core.errors import QueueFull
from jobs.leases import fence_runner, heartbeat, sweep
from jobs.models import Job
from jobs.services import (
    JobAlreadyFinished,
    cancel_job,
    checkpoint_units,
    claim_jobs,
    claim_suspects,
    finish_jobs,
    retry_job,
)
from jobs.submission import submit_job
from tests.factories.accounts import make_organization
from tests.factories.jobs import (
    MODEL,
    QUEUE,
    TASK,
    make_direct_outcome,
    make_job,
    make_outcome,
    make_runner,
    make_running_job,
    make_submitter,
)
from tests.jobs.invariants import violations
from tests.threads import at_once
from usage.models import UsageRecord

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]


def submit(submitter) -> Job:
    return submit_job(
        submitter=submitter,
        model_id=MODEL,
        queue_id=QUEUE,
        task=TASK,
        payload={},
        now=timezone.now(),
    )


def errors(results, *expected):
    return [r for r in results if isinstance(r, Exception) and not isinstance(r, expected)]


def claim_all(runner) -> list:
    mine, empty = [], 0
    while empty < 2:
        jobs = claim_jobs(runner_id=runner.pk, queue_id=QUEUE, free=3, now=timezone.now())
        mine += [job.pk for job in jobs]
        empty = 0 if jobs else empty + 1
    return mine


def test_each_job_is_claimed_once():
    organizations = [make_organization() for _ in range(3)]
    jobs = [make_job(organization=organizations[i % 3]).pk for i in range(60)]
    runners = [make_runner() for _ in range(8)]

    claimed = at_once([partial(claim_all, runner) for runner in runners])

    assert errors(claimed) == []
    assert Counter(pk for mine in claimed for pk in mine) == Counter(jobs)
    for runner, mine in zip(runners, claimed, strict=True):
        assert set(Job.objects.filter(runner=runner).values_list("pk", flat=True)) == set(mine)
    assert set(Job.objects.values_list("status", "attempts")) == {("processing", 1)}
    assert violations() == []


def test_the_queue_cap_is_exact():
    organization = make_organization()
    submitter = make_submitter(organization, max_queued_jobs=5)

    results = at_once([partial(submit, submitter)] * 64)

    assert errors(results, QueueFull) == []
    assert sum(isinstance(result, Job) for result in results) == 5
    assert Job.objects.filter(status="pending").count() == 5


def test_one_interactive_request_reported_by_many_is_written_once():
    outcome = make_direct_outcome(make_organization())
    others = [make_direct_outcome(make_organization()) for _ in range(8)]

    accepted = at_once([partial(finish_jobs, [other, outcome]) for other in others])

    assert errors(accepted) == []
    assert Counter(job_id for ids in accepted for job_id in ids) == Counter(
        [outcome.job_id, *(other.job_id for other in others)]
    )
    assert UsageRecord.objects.count() == Job.objects.count() == 9


@pytest.mark.parametrize("seed", range(3))
def test_every_end_at_the_same_moment(seed):
    chance = random.Random(seed)
    runner = make_runner()
    jobs = [make_running_job(runner=runner) for _ in range(24)]
    outcomes = [make_outcome(job) for job in jobs]

    def shuffled(rows):
        return chance.sample(rows, len(rows))

    units = {str(job.pk): {"completion_tokens": 3} for job in shuffled(jobs)}
    calls = [partial(finish_jobs, shuffled(outcomes)[:16]) for _ in range(4)]
    calls += [partial(checkpoint_units, runner_id=runner.pk, units=units) for _ in range(2)]
    calls += [partial(fence_runner, runner_id=runner.pk, crashed=True) for _ in range(2)]
    calls += [partial(heartbeat, runner_id=runner.pk)]
    calls += [
        partial(cancel_job, job=job, prices={}, now=timezone.now()) for job in shuffled(jobs)[:6]
    ]
    calls += [
        partial(retry_job, outcome=outcome, now=timezone.now())
        for outcome in shuffled(outcomes)[:6]
    ]

    results = at_once(shuffled(calls))

    assert [
        repr(e) for e in errors(results, JobAlreadyFinished) if "LeaseLost" not in repr(e)
    ] == []
    statuses = Counter(Job.objects.values_list("status", flat=True))
    assert statuses.total() == 24
    assert statuses["processing"] == 0
    ended = Job.objects.exclude(status="pending")
    assert UsageRecord.objects.count() == ended.count()
    for job in ended:
        assert job.events.filter(type__in=("completed", "failed", "cancelled")).count() == 1
    assert set(UsageRecord.objects.values_list("job_id", flat=True)) == {str(j.pk) for j in ended}


def work(runner, chance, submitter) -> None:
    """A Runner's day: claims, loses, finishes, retries, now and then is fenced."""
    for _ in range(6):
        now = timezone.now()
        submit(submitter)
        jobs = claim_jobs(runner_id=runner.pk, queue_id=QUEUE, free=4, now=now)
        suspects = claim_suspects(free=1, runner_id=runner.pk, queue_id=QUEUE, now=now)
        outcomes = [make_outcome(job) for job in [*jobs, *suspects]]
        chance.shuffle(outcomes)
        checkpoint_units(runner_id=runner.pk, units={o.job_id: {"images": 1} for o in outcomes})
        for outcome in outcomes[:1]:
            retry_job(outcome=outcome, now=now)
        for outcome in outcomes[1:2]:
            with contextlib.suppress(JobAlreadyFinished):
                cancel_job(job=Job.objects.get(pk=outcome.job_id), prices={}, now=now)
        if chance.random() < 0.2:
            fence_runner(runner_id=runner.pk, crashed=chance.random() < 0.5)
            runner = make_runner()
        finish_jobs(outcomes)


def test_a_busy_day_keeps_the_promise():
    organizations = [make_organization() for _ in range(3)]
    submitters = [make_submitter(organizations[i % 3], max_queued_jobs=500) for i in range(6)]
    for submitter in submitters:
        for _ in range(5):
            submit(submitter)

    days = [partial(work, make_runner(), random.Random(i), s) for i, s in enumerate(submitters)]
    results = at_once([*days, sweep, sweep])

    assert errors(results) == []
    assert violations() == []
    assert Job.objects.count() == 66
    assert not Job.objects.filter(status="processing").exists()
