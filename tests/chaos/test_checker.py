"""The checker itself: each broken promise turns it red."""

from __future__ import annotations

import uuid

import pytest
from django.db import connection
from django.db.models import F
from django.utils import timezone

from accounts.models import Organization, Plan
from jobs.enums import JobStatus, Lane, RunnerState
from jobs.models import Job, JobEvent, Runner
from tests.chaos.checker import Journal, Seen, violations
from tests.factories.usage import make_budget
from usage.models import BudgetCounter, BudgetReservation, UsageRecord

pytestmark = pytest.mark.django_db


def query(sql: str) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


@pytest.fixture
def organization() -> Organization:
    plan = Plan.objects.filter(name="unlimited").first() or Plan.objects.first()
    made = Organization.objects.create(name="Chaos", plan=plan)
    make_budget(made)
    return made


def done(organization: Organization, status: str = "completed", **columns) -> Job:
    """A Job that ended as it should."""
    job = Job.objects.create(
        organization=organization,
        model_id="test/echo",
        queue_id="q",
        task="test/echo",
        status=status,
        attempts=columns.pop("attempts", 1),
        units={"completion_tokens": 3},
        result={} if status == "completed" else None,
        completed_at=timezone.now(),
        **columns,
    )
    event(job, 1, "created")
    event(job, 2, status, {"attempt": 1})
    record(job)
    return job


def record(job: Job, **columns) -> UsageRecord:
    fields = {
        "job_id": str(job.pk),
        "organization": job.organization,
        "model_id": job.model_id,
        "task": job.task,
        "status": job.status,
        "completion_tokens": 3,
        **columns,
    }
    return UsageRecord.objects.create(**fields)


def event(job: Job, seq: int, kind: str, data: dict | None = None) -> None:
    JobEvent.objects.create(job=job, seq=seq, type=kind, data=data or {})


def test_green_on_what_is_right(organization):
    journal = Journal()
    for status in ("completed", "failed", "cancelled"):
        job = done(organization, status)
        journal.accept(str(job.pk), f"key {status}")
    journal.cancel(str(job.pk))
    answer = done(organization, lane=Lane.INTERACTIVE)
    journal.answer(Seen(str(answer.pk), 200, "w0 w1 w2 ", 3, "stop"))
    assert violations(query, journal) == []


def unfinished(job):
    held = Job.objects.create(
        organization=job.organization, model_id="m", queue_id="q", task="t", attempts=1
    )
    assert held.status == JobStatus.PENDING


def leaderless(job):
    runner = Runner.objects.create(
        placement_id="p", queue_id="q", model_id="m", node="n", pid=1, pid_start=1,
        state=RunnerState.DEAD, heartbeat_at=timezone.now(),
    )  # fmt: skip
    Job.objects.create(
        organization=job.organization, model_id="m", queue_id="q", task="t",
        status=JobStatus.PROCESSING, runner=runner,
    )  # fmt: skip


BREAKS = {
    "I1": unfinished,
    "I3": lambda job: event(job, 3, "completed", {"attempt": 1}),
    "I4 something": lambda job: event(job, 3, "claimed"),
    "I4 the last": lambda job: JobEvent.objects.filter(job=job, type="completed").delete(),
    "I5 an ended job": lambda job: UsageRecord.objects.all().delete(),
    "I5 a usage record": lambda job: UsageRecord.objects.update(status="failed"),
    "I5 job and usage": lambda job: UsageRecord.objects.update(completion_tokens=4),
    "I5 an end": lambda job: (
        record(done(job.organization, "failed"), job_id=uuid.uuid4(), amount=1)
        and UsageRecord.objects.filter(status="failed").update(amount=1)
    ),
    "I7": lambda job: Job.objects.update(result=None),
    "I8": lambda job: JobEvent.objects.filter(type="completed").update(data={"attempt": 2}),
    "I9": lambda job: done(job.organization, attempts=3),
    "I12": leaderless,
    "B1": lambda job: BudgetCounter.objects.update(spent=F("amount") + 1),
    "B2 what": lambda job: BudgetCounter.objects.update(reserved=1),
    "B2 an": lambda job: BudgetReservation.objects.create(
        counter=BudgetCounter.objects.get(), job_id=job.pk, amount=0, expires_at=timezone.now()
    ),
    "B3": lambda job: BudgetCounter.objects.update(spent=1),
}


@pytest.mark.parametrize("promise", BREAKS)
def test_red_on_broken_tables(organization, promise):
    BREAKS[promise](done(organization))
    assert any(found.startswith(promise) for found in violations(query))


@pytest.mark.parametrize(
    ("promise", "tell"),
    [
        ("I1 accepted", lambda journal, job: journal.accept(str(uuid.uuid4()))),
        ("I2", lambda journal, job: [journal.accept(str(job.pk), "k"), journal.accept("x", "k")]),
        ("I6", lambda journal, job: journal.cancel(str(job.pk))),
        ("a text", lambda journal, job: journal.answer(Seen(str(job.pk), 200, "w0 w2 "))),
        ("an answer 500", lambda journal, job: journal.answer(Seen(status=500))),
        (
            "I5 answered",
            lambda journal, job: journal.answer(Seen(str(uuid.uuid4()), 200, "w0 ", 1, "stop")),
        ),
        (
            "I5",
            lambda journal, job: journal.answer(Seen(str(job.pk), 200, "w0 ", 1, "stop")),
        ),
    ],
)
def test_red_on_broken_words(organization, promise, tell):
    journal = Journal()
    tell(journal, done(organization))
    assert any(found.startswith(promise) for found in violations(query, journal))
