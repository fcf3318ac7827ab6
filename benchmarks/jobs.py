"""The part of the queue benchmark that runs inside Django."""

from __future__ import annotations

import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from django.db import connection
from django.utils import timezone
from django_q.tasks import async_task

from accounts.models import Organization
from benchmarks.report import Row, median, percentile
from benchmarks.stack import WHOLE
from casola_site.core import ids
from inference.committer import Committer
from inference.models import ModelSpec
from jobs.enums import JobStatus
from jobs.leases import register_runner
from jobs.models import Job, Runner
from jobs.services import Outcome, finish_jobs
from jobs.submission import Submitter, submit_job
from usage.models import UsageRecord

THREADS = 8
PLACEMENT = "qtask"
LONGEST_SECONDS = 120.0


def answer(job_id: str, work_ms: float) -> None:
    """One q-task: take the Job, work, end it."""
    runner = Runner.objects.get(placement_id=PLACEMENT)
    pending = Job.objects.filter(pk=job_id, status=JobStatus.PENDING)
    if not pending.update(
        status=JobStatus.PROCESSING, runner=runner, attempts=1, started_at=timezone.now()
    ):
        return
    job = Job.objects.get(pk=job_id)
    time.sleep(work_ms / 1000)
    finish_jobs([_outcome(job)])


def _outcome(job: Job) -> Outcome:
    return Outcome(
        job_id=str(job.pk),
        status=JobStatus.COMPLETED,
        organization_id=job.organization_id,
        token_id=None,
        user_id=None,
        model_id=job.model_id,
        queue_id=job.queue_id,
        task=job.task,
        units={"completion_tokens": 1},
        created_at=job.created_at,
        started_at=job.started_at,
        runner_id=job.runner_id,
        attempt=1,
        result={},
    )


def main(mode: str, one_by_one: int, at_once: int, work_ms: float) -> None:
    """Print the figures of one mode as JSON."""
    organization = Organization.objects.get(slug="demo")
    spec = ModelSpec.objects.get(model_id=WHOLE)
    if not Runner.objects.filter(placement_id=PLACEMENT).exists():
        register_runner(
            placement_id=PLACEMENT,
            queue_id=PLACEMENT,
            model_id=WHOLE,
            node=PLACEMENT,
            pid=1,
            pid_start=0.0,
            capacity=1,
        )
        # Nobody renews its lease: it must last for the run.
        later = timezone.now() + timedelta(days=1)
        Runner.objects.filter(placement_id=PLACEMENT).update(heartbeat_at=later)

    def submit(_: int = 0) -> uuid.UUID:
        job = submit_job(
            submitter=Submitter(organization.pk, None, None),
            model_id=WHOLE,
            queue_id=spec.queue_id if mode == "runner" else PLACEMENT,
            task="test/echo",
            payload={"duration_ms": work_ms},
            now=timezone.now(),
        )
        if mode == "qtask":
            async_task("benchmarks.jobs.answer", str(job.pk), work_ms)
        return job.pk

    alone = []
    for _ in range(one_by_one):
        alone.append(submit())
        _wait([alone[-1]], every=0.002)
        time.sleep(0.01)  # the next one does not find the machinery awake
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(submit, range(at_once)))
    _wait(together, every=0.05)
    rows = Job.objects.in_bulk([*alone, *together])
    waits = [(rows[pk].completed_at - rows[pk].created_at).total_seconds() * 1000 for pk in alone]
    first = min(rows[pk].created_at for pk in together)
    last = max(rows[pk].completed_at for pk in together)
    right = UsageRecord.objects.filter(job_id__in=[str(pk) for pk in rows]).count()
    figures: Row = {
        "mode": mode,
        "work_ms": work_ms,
        "p50_ms": median(waits),
        "p99_ms": percentile(waits, 0.99),
        "jobs": at_once,
        "jobs_per_s": at_once / max(0.001, (last - first).total_seconds()),
        "wrong": abs(len(rows) - right),
    }
    print(json.dumps(figures))


def _wait(pks: list[uuid.UUID], *, every: float) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    left = Job.objects.filter(pk__in=pks).exclude(status=JobStatus.COMPLETED)
    while left.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{left.count()} Jobs did not complete")
        time.sleep(every)


def hold(rates: tuple[int, ...] = (5, 50, 300, 700), seconds: float = 4.0) -> None:
    """Print how long ends wait for their commit at several rates, and how many share one."""
    organization = Organization.objects.get(slug="demo")
    rows = []
    for rate in rates:
        put: dict[str, float] = {}
        waits: list[float] = []
        groups: list[int] = []
        done = threading.Event()
        count = int(rate * seconds)

        def on_written(
            written: list[tuple[Outcome, str]],
            put: dict[str, float] = put,
            waits: list[float] = waits,
            groups: list[int] = groups,
            done: threading.Event = done,
            count: int = count,
        ) -> None:
            now = time.perf_counter()
            waits += [(now - put[outcome.job_id]) * 1000 for outcome, _ in written]
            groups.append(len(written))
            if len(waits) == count:
                done.set()

        committer = Committer(on_written, print)
        began, cpu = time.perf_counter(), time.process_time()
        for number in range(count):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            outcome = _direct(organization)
            put[outcome.job_id] = time.perf_counter()
            committer.put(outcome)
        done.wait(LONGEST_SECONDS)
        used = time.process_time() - cpu
        committer.close()
        rows.append(
            {
                "ends_per_s": rate,
                "held_p50_ms": median(waits),
                "held_p99_ms": percentile(waits, 0.99),
                "mean_group": count / len(groups),
                "cpu_ms_per_end": used * 1000 / count,
            }
        )
    connection.close()
    print(json.dumps(rows))


def _direct(organization: Organization) -> Outcome:
    now = timezone.now()
    return Outcome(
        job_id=str(ids.job_id()),
        status=JobStatus.COMPLETED,
        organization_id=organization.pk,
        token_id=None,
        user_id=None,
        model_id=WHOLE,
        queue_id="hold",
        task="openai/chat-completion",
        units={"prompt_tokens": 5, "completion_tokens": 16},
        created_at=now,
        started_at=now,
        first_output_at=now,
    )
