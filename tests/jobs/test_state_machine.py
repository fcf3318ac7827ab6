"""Any history of calls keeps the promise: Jobs against a model that is a dictionary.

CASOLA_LONG_TESTS=1 runs 500 histories of 50 steps instead of a few.
"""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from accounts.idempotency import answer_once
from accounts.models import IdempotencyKey
from jobs.enums import JobStatus
from jobs.leases import LeaseLost, Swept, ago, fence_runner, heartbeat, sweep
from jobs.models import Job, Runner
from jobs.services import (
    JobAlreadyFinished,
    cancel_job,
    checkpoint_units,
    claim_jobs,
    claim_suspects,
    finish_jobs,
    retry_job,
)
from jobs.submission import Wishes, submit_job
from tests.factories.accounts import make_organization
from tests.factories.jobs import MODEL, QUEUE, TASK, make_outcome, make_runner, make_submitter
from tests.jobs.invariants import violations

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]

LONG = os.environ.get("CASOLA_LONG_TESTS") == "1"
settings.register_profile(
    "jobs",
    max_examples=500 if LONG else 25,
    stateful_step_count=50 if LONG else 30,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)
RUNNERS = st.integers(0, 1)
PICK = st.integers(0, 1000)
ENDS = st.sampled_from([JobStatus.COMPLETED, JobStatus.FAILED])


class JobHistory(RuleBasedStateMachine):
    """`model` maps a Job's id to what it must look like; `stale` are pairs that were fenced."""

    def __init__(self):
        super().__init__()
        self.undo = transaction.atomic()
        self.undo.__enter__()
        self.now = timezone.now()
        self.organizations = [make_organization(), make_organization()]
        self.runners = [make_runner(), make_runner()]
        self.model, self.keys, self.stale = {}, {}, []

    def teardown(self):
        transaction.set_rollback(True)
        self.undo.__exit__(None, None, None)

    # -- the model ----------------------------------------------------------------------------

    def of(self, *statuses):
        return [job_id for job_id, job in self.model.items() if job["status"] in statuses]

    def claimable(self, *, suspects):
        jobs = [(job_id, self.model[job_id]) for job_id in self.of("pending")]
        return {i for i, j in jobs if (j["crashes"] > 0) == suspects and j["due"] <= self.now}

    def claimed(self, jobs, runner):
        for job in jobs:
            model = self.model[job.pk]
            model.update(status="processing", runner=runner, attempt=model["attempt"] + 1)
            assert (job.runner_id, job.attempts) == (runner, model["attempt"])

    def put_back(self, job_id, **changes):
        job = self.model[job_id]
        self.stale.append((job_id, job["runner"], job["attempt"]))
        job.update(status="pending", runner=None, units={}, **changes)

    def end(self, job_id, status, units=None):
        job = self.model[job_id]
        self.stale.append((job_id, job["runner"], job["attempt"]))
        job.update(status=status, units=job["units"] if units is None else units)

    def drop_runner(self, index, *, crashed):
        old = self.runners[index].pk
        failed = []
        for job_id in self.of("processing"):
            job = self.model[job_id]
            if job["runner"] == old:
                crashes = job["crashes"] + crashed
                if crashes == 3:
                    failed.append(job_id)
                    self.end(job_id, "failed")
                    job["crashes"] = 3
                else:
                    self.put_back(job_id, crashes=crashes)
        self.runners[index] = make_runner()
        return old, len(failed)

    def outcome(self, job_id, **columns):
        return make_outcome(Job.objects.get(pk=job_id), **columns)

    # -- what can happen ----------------------------------------------------------------------

    @rule(tenant=RUNNERS, priority=st.integers(-1, 1), key=st.none() | st.sampled_from("ab"))
    def submit(self, tenant, priority, key):
        organization = self.organizations[tenant]

        def make():
            job = submit_job(
                submitter=make_submitter(organization),
                model_id=MODEL,
                queue_id=QUEUE,
                task=TASK,
                payload={},
                wishes=Wishes(priority=priority),
                now=self.now,
            )
            self.model[job.pk] = {
                "status": "pending", "runner": None, "attempt": 0, "crashes": 0, "failures": 0,
                "units": {}, "due": self.now,
            }  # fmt: skip
            return 201, {"id": str(job.pk)}

        before, is_new = len(self.model), key is None or (tenant, key) not in self.keys
        _, answer = answer_once(
            organization=organization, route="jobs", key=key, body={}, now=self.now, make=make
        )
        assert len(self.model) - before == is_new
        if key is not None:
            assert answer["id"] == self.keys.setdefault((tenant, key), answer["id"])

    @rule(index=RUNNERS, free=st.integers(1, 4))
    def claim(self, index, free):
        runner, due = self.runners[index].pk, self.claimable(suspects=False)
        jobs = claim_jobs(runner_id=runner, queue_id=QUEUE, free=free, now=self.now)
        assert {job.pk for job in jobs} <= due
        assert len(jobs) == min(free, len(due))
        self.claimed(jobs, runner)

    @rule(index=RUNNERS)
    def claim_a_suspect(self, index):
        runner, due = self.runners[index].pk, self.claimable(suspects=True)
        jobs = claim_suspects(free=1, runner_id=runner, queue_id=QUEUE, now=self.now)
        assert bool(jobs) == bool(due)
        for job in jobs:
            assert job.pk in due
            self.claimed([job], runner)

    @rule(seconds=st.sampled_from([1, 5]))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)

    @rule(index=RUNNERS)
    def renew(self, index):
        heartbeat(runner_id=self.runners[index].pk)

    @rule(index=RUNNERS, tokens=st.integers(1, 99))
    def checkpoint(self, index, tokens):
        runner, units = self.runners[index].pk, {"completion_tokens": tokens}
        lost = checkpoint_units(runner_id=runner, units={str(i): units for i in self.model})
        for job_id, job in self.model.items():
            mine = job["status"] == "processing" and job["runner"] == runner
            assert (str(job_id) in lost) != mine
            if mine:
                job["units"] = units

    @precondition(lambda self: self.of("processing"))
    @rule(pick=PICK, count=st.integers(1, 3), status=ENDS)
    def finish(self, pick, count, status):
        running = self.of("processing")
        chosen = {running[(pick + i) % len(running)] for i in range(count)}
        outcomes = [self.outcome(job_id, status=status) for job_id in chosen]
        assert finish_jobs(outcomes) == {str(job_id) for job_id in chosen}
        for job_id in chosen:
            self.end(job_id, str(status), {"completion_tokens": 1})

    @precondition(lambda self: self.stale)
    @rule(pick=PICK, retry=st.booleans())
    def finish_late(self, pick, retry):
        job_id, runner, attempt = self.stale[pick % len(self.stale)]
        late = self.outcome(job_id, runner_id=runner, attempt=attempt, units={"images": 7})
        if retry:
            assert retry_job(outcome=late, now=self.now) is False
        else:
            assert finish_jobs([late]) == set()

    @precondition(lambda self: self.of("processing"))
    @rule(pick=PICK)
    def fail_retryably(self, pick):
        running = self.of("processing")
        job_id = running[pick % len(running)]
        failed = self.outcome(job_id, status=JobStatus.FAILED, charged=False, units={})
        assert retry_job(outcome=failed, now=self.now) is True
        failures = self.model[job_id]["failures"] + 1
        if failures == 3:
            self.end(job_id, "failed", {})
        else:
            due = self.now + timedelta(seconds=(0, 5)[failures - 1])
            self.put_back(job_id, failures=failures, due=due)

    @precondition(lambda self: self.model)
    @rule(pick=PICK)
    def cancel(self, pick):
        job_id = list(self.model)[pick % len(self.model)]
        job = Job.objects.get(pk=job_id)
        if self.model[job_id]["status"] in ("pending", "processing"):
            assert cancel_job(job=job, prices={}, now=self.now).status == "cancelled"
            self.end(job_id, "cancelled")
        else:
            with pytest.raises(JobAlreadyFinished):
                cancel_job(job=job, prices={}, now=self.now)

    @rule(index=RUNNERS)
    def drain(self, index):
        old, _ = self.drop_runner(index, crashed=False)
        fence_runner(runner_id=old, crashed=False)
        self.is_fenced(old)

    @rule(index=RUNNERS)
    def expire(self, index):
        held = len(self.of("processing"))
        old, failed = self.drop_runner(index, crashed=True)
        Runner.objects.filter(pk=old).update(heartbeat_at=ago(3600))
        back = held - len(self.of("processing")) - failed
        assert sweep() == Swept(runners=1, requeued=back, failed=failed)
        self.is_fenced(old)

    @rule()
    def sweep_without_need(self):
        assert sweep() == Swept(0, 0, 0)

    def is_fenced(self, runner):
        with pytest.raises(LeaseLost):
            heartbeat(runner_id=runner)
        assert claim_jobs(runner_id=runner, queue_id=QUEUE, free=9, now=self.now) == []

    # -- what must hold -----------------------------------------------------------------------

    @invariant()
    def promise_holds(self):
        assert violations() == []

    @invariant()
    def rows_are_as_the_model_says(self):
        columns = ("pk", "status", "runner_id", "attempts", "crashes", "failures", "units")
        rows = {row[0]: row[1:] for row in Job.objects.values_list(*columns)}
        assert rows == {
            job_id: tuple(
                job[k] for k in ("status", "runner", "attempt", "crashes", "failures", "units")
            )
            for job_id, job in self.model.items()
        }
        assert IdempotencyKey.objects.count() == len(self.keys)


def test_any_history_keeps_the_promise():
    run_state_machine_as_test(JobHistory, settings=settings.get_profile("jobs"))
