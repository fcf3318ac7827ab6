"""Many workers on few budgets, costs and failures at random: nothing overshoots, nothing leaks.

Each worker is what a web process, a Runner and their ends do to the tables: interactive requests
that complete, fail, are cancelled, lost, never sent or forgotten by two dead processes, and Jobs
that are completed, retried, cancelled, and crash their Runner. Somebody looks all the time.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from functools import partial

import pytest
from django.db import connection
from django.utils import timezone

from accounts.actors import SYSTEM
from accounts.services import change_budget
from casola_site.core import ids
from casola_site.core.budgets import Budget, BudgetPeriod
from jobs.enums import JobStatus
from jobs.housekeeping import release_abandoned
from jobs.leases import fence_runner
from jobs.models import Job
from jobs.services import (
    JobAlreadyFinished,
    cancel_job,
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
    make_outcome,
    make_runner,
    make_submitter,
)
from tests.factories.tokens import make_token
from tests.factories.usage import make_budget
from tests.jobs.invariants import violations
from tests.threads import at_once
from usage.models import BudgetAlert, BudgetCounter, BudgetReservation, UsageRecord
from usage.reservations import OutOfBudget, refusals_told, release, reserve

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]
LIFE = timedelta(minutes=10)
CENT = {"completion_tokens": ["0.01", 1]}
WORKERS = 12


class Caller:
    """An organization and one of its tokens (or none), and the costs of its requests."""

    def __init__(self, organization, token, chance: random.Random) -> None:
        self.organization, self.token, self.chance = organization, token, chance
        self.refused = 0

    def hold(self, cents: int) -> str | None:
        """An interactive request's reservation; None when it was refused."""
        now, job_id = timezone.now(), str(ids.job_id())
        try:
            with refusals_told(now):
                reserve(
                    job_id=job_id,
                    organization_id=self.organization.pk,
                    token_id=self.token and self.token.pk,
                    ceiling=Decimal(cents) / 100,
                    now=now,
                    expires_at=now + LIFE,
                )
        except OutOfBudget:
            self.refused += 1
            return None
        return job_id

    def end(self, job_id: str, cents: int, **columns) -> None:
        outcome = make_direct_outcome(
            self.organization,
            job_id=job_id,
            token_id=self.token and self.token.pk,
            units={"completion_tokens": cents},
            prices=CENT,
            **columns,
        )
        assert finish_jobs([outcome]) == {job_id}

    def ask(self) -> None:
        """One interactive request, whatever comes of it."""
        most = self.chance.randint(1, 30)
        used = self.chance.randint(0, most)
        job_id = self.hold(most)
        if job_id is None:
            return
        match self.chance.choice(
            ("done", "done", "dearer", "failed", "left", "unsent", "lost", "forgotten")
        ):
            case "done":
                self.end(job_id, used)
            case "dearer":  # a price rose meanwhile
                self.end(job_id, most * 3)
            case "failed":
                self.end(job_id, used, status=JobStatus.FAILED, charged=False)
            case "left":
                self.end(job_id, used, status=JobStatus.CANCELLED)
            case "unsent":
                assert release([job_id]) >= 1
            case "lost":  # the Runner's end and the web process's, at the same time
                fault = {"status": JobStatus.FAILED, "charged": False}
                both = [partial(self.end, job_id, used), partial(self.end, job_id, 0, **fault)]
                with contextlib.suppress(AssertionError, Exception):
                    both[self.chance.random() < 0.5]()
                    both[0]()
            case "forgotten":
                pass

    def submit(self) -> None:
        """One persisted Job."""
        now = timezone.now()
        try:
            with refusals_told(now):
                submit_job(
                    submitter=make_submitter(
                        self.organization,
                        token_id=self.token and self.token.pk,
                        max_queued_jobs=self.chance.choice((None, 500)),
                    ),
                    model_id=MODEL,
                    queue_id=QUEUE,
                    task=TASK,
                    payload={},
                    ceiling=Decimal("0.15"),
                    now=now,
                )
        except OutOfBudget:
            self.refused += 1

    def run(self, runner) -> object:
        """What a Runner does with the Jobs it finds; returns the one that goes on."""
        now = timezone.now()
        jobs = claim_jobs(runner_id=runner.pk, queue_id=QUEUE, free=4, now=now)
        jobs += claim_suspects(free=1, runner_id=runner.pk, queue_id=QUEUE, now=now)
        ends = []
        for job in jobs:
            units = {"completion_tokens": self.chance.randint(0, 15)}
            outcome = make_outcome(job, units=units, prices=CENT)
            match self.chance.choice(("done", "done", "failed", "retry", "cancel")):
                case "done":
                    ends.append(outcome)
                case "failed":
                    outcome.status, outcome.charged, outcome.error = JobStatus.FAILED, False, {}
                    ends.append(outcome)
                case "retry":
                    retry_job(outcome=outcome, now=now - timedelta(hours=1))
                case "cancel":
                    with contextlib.suppress(JobAlreadyFinished):
                        cancel_job(job=job, prices=CENT, now=now)
        if self.chance.random() < 0.2:
            fence_runner(runner_id=runner.pk, crashed=True)
            runner = make_runner(capacity=4)
        finish_jobs(ends)
        return runner


def day(caller: Caller, rounds: int) -> int:
    runner = make_runner(capacity=4)
    for _ in range(rounds):
        for _ in range(3):
            caller.ask()
        caller.submit()
        runner = caller.run(runner)
    fence_runner(runner_id=runner.pk, crashed=False)
    return caller.refused


def finish_what_is_left(caller: Caller) -> None:
    """Nobody submits any more: run the queue dry."""
    runner = make_runner(capacity=50)
    later = timezone.now() + timedelta(hours=1)
    while True:
        jobs = claim_jobs(runner_id=runner.pk, queue_id=QUEUE, free=50, now=later)
        jobs += claim_suspects(free=50, runner_id=runner.pk, queue_id=QUEUE, now=later)
        if not jobs:
            return
        finish_jobs(
            [make_outcome(job, units={"completion_tokens": 1}, prices=CENT) for job in jobs]
        )


class Watcher:
    """Looks at the counters all the time, as the budget's owner would."""

    def __init__(self) -> None:
        self.overshot: list[str] = []
        self.looks = 0
        self.over = threading.Event()

    def watch(self) -> None:
        while not self.over.is_set():
            self.looks += 1
            for row in BudgetCounter.objects.values("pk", "amount", "spent", "reserved"):
                if row["spent"] + row["reserved"] > row["amount"]:
                    self.overshot.append(str(row))
            self.over.wait(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_nothing_overshoots_and_nothing_leaks(seed):
    chance = random.Random(seed)
    organizations = [make_organization(), make_organization()]
    tokens = [make_token(organization=organizations[0])[0] for _ in range(2)]
    make_budget(organizations[0], "12")
    make_budget(tokens[0], "4", "daily")
    make_budget(tokens[1], "5", "monthly")
    make_budget(organizations[1], "3", "weekly")
    places = [
        (organizations[0], tokens[0]),
        (organizations[0], tokens[1]),
        (organizations[1], None),
    ]
    callers = [
        Caller(*places[number % 3], random.Random(chance.random())) for number in range(WORKERS)
    ]
    watcher = Watcher()
    rounds = 6 if connection.vendor == "postgresql" else 3

    days = [partial(day, caller, rounds) for caller in callers]
    watching = threading.Thread(target=_closing, args=(watcher.watch,))
    watching.start()
    try:
        refused = at_once(days)
    finally:
        watcher.over.set()
        watching.join(30)

    assert [repr(one) for one in refused if isinstance(one, Exception)] == []
    assert watcher.overshot == []
    assert watcher.looks > 10
    finish_what_is_left(callers[0])
    assert release_abandoned(now=timezone.now() + LIFE + LIFE) > 0
    assert not Job.objects.filter(status__in=("pending", "processing")).exists()
    assert violations() == []
    assert not BudgetReservation.objects.exists()
    for counter in BudgetCounter.objects.all():
        assert counter.reserved == 0
        assert 0 < counter.spent <= counter.amount
    if connection.vendor == "postgresql":
        assert sum(refused) > 0  # they were used up, or the run proves nothing
    told = Counter(BudgetAlert.objects.values_list("counter", "threshold"))
    assert set(told.values()) <= {1}
    assert UsageRecord.objects.count() == Job.objects.count()


def _closing(function) -> None:
    try:
        function()
    finally:
        connection.close()


def test_the_last_cents_are_given_once():
    organization = make_organization()
    counter = make_budget(organization, "0.5")
    callers = [Caller(organization, None, random.Random(n)) for n in range(16)]

    held = at_once([partial(caller.hold, 10) for caller in callers])

    assert [repr(one) for one in held if isinstance(one, Exception)] == []
    assert sum(one is not None for one in held) == 5
    counter.refresh_from_db()
    assert (counter.spent, counter.reserved) == (0, 50 * 10**7)
    assert BudgetAlert.objects.filter(threshold=100, is_refusal=True).count() == 1


@pytest.mark.parametrize("seed", range(2))
def test_budgets_made_changed_and_lifted_in_the_rush_count_every_record_once(seed):
    """Whoever ends a Job sees the new counter, or the counter sees the record."""
    organization = make_organization()
    token, _ = make_token(organization=organization)
    callers = [Caller(organization, token, random.Random(seed * 10 + n)) for n in range(6)]

    def rush(caller: Caller) -> None:
        for _ in range(25):
            if (job_id := caller.hold(1)) is not None:
                caller.end(job_id, 1)

    def change(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            amount = chance.choice((None, "1000", "2000"))
            budget = None
            if amount is not None:
                period = BudgetPeriod(chance.choice(("daily", "monthly", "never")))
                budget = Budget(Decimal(amount), period)
            change_budget(organization=organization, budget=budget, by=SYSTEM, now=timezone.now())
        change_budget(
            organization=organization,
            budget=Budget(Decimal(3000), BudgetPeriod.NEVER),
            by=SYSTEM,
            now=timezone.now(),
        )

    results = at_once([*[partial(rush, c) for c in callers], partial(change, seed)])

    assert [repr(one) for one in results if isinstance(one, Exception)] == []
    assert UsageRecord.objects.count() == 150
    counter = BudgetCounter.objects.get()
    assert (counter.spent, counter.reserved) == (150 * 10**7, 0)
    assert violations() == []
