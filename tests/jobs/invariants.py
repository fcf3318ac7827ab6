"""The checker of the promises about Jobs and budgets: what no history of faults may ever break."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal

from django.db.models import Sum

from jobs.enums import TERMINAL, JobStatus
from jobs.models import Job, JobEvent
from usage.models import (
    UNITS,
    BudgetCounter,
    BudgetReservation,
    UsageRecord,
    amount_of_nanos,
    nanos_of,
)

BACK = ("crashed", "released", "retried")


def violations() -> list[str]:
    """One line for every broken invariant, over all Jobs in the database."""
    events: dict = defaultdict(list)
    for event in JobEvent.objects.order_by("job_id", "seq"):
        events[str(event.job_id)].append(event)
    records: dict = defaultdict(list)
    for record in UsageRecord.objects.all():
        records[record.job_id].append(record)
    jobs = {str(job.pk): job for job in Job.objects.all()}
    found = [f"I5 {ghost}: usage without a job" for ghost in records.keys() - jobs.keys()]
    for job_id, job in jobs.items():
        found += [
            f"{problem} ({job_id})" for problem in _problems(job, events[job_id], records[job_id])
        ]
    return found + budget_violations()


def budget_violations() -> list[str]:
    """What is counted is what the ledger and the reservations say; run it when all is quiet."""
    ended = {str(pk) for pk in Job.objects.filter(status__in=TERMINAL).values_list("pk", flat=True)}
    found = [
        f"B2 {row.job_id} has ended and still holds {row.amount}"
        for row in BudgetReservation.objects.all()
        if row.job_id in ended
    ]
    for counter in BudgetCounter.objects.select_related("organization", "token"):
        found += [f"{problem} ({counter})" for problem in _counter_problems(counter)]
    return found


def _counter_problems(counter: BudgetCounter):
    owner = counter.token or counter.organization
    if owner.budget is None or nanos_of(owner.budget.amount) != counter.amount:
        yield f"B4: the counter's limit is {counter.amount}, its owner's {owner.budget}"
    if not counter.organization.has_budgets:
        yield "B4: the organization does not know that it has budgets"
    held = counter.reservations.aggregate(total=Sum("amount"))["total"] or 0
    if counter.reserved != held:
        yield f"B2: {counter.reserved} reserved, {held} held by requests"
    records = UsageRecord.objects.filter(
        organization=counter.organization_id, created_at__gte=counter.period_start
    )
    if counter.token_id is not None:
        records = records.filter(token=counter.token_id)
    charged = sum(records.values_list("amount", flat=True), Decimal(0))
    if amount_of_nanos(counter.spent) != charged:
        yield f"B3: {counter.spent} spent, {charged} in the ledger"


def _problems(job: Job, events: list[JobEvent], records: list[UsageRecord]):
    types = [event.type for event in events]
    ended = job.status in TERMINAL
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        yield "events: seq has gaps"
    ends = [index for index, type_ in enumerate(types) if type_ in TERMINAL]
    if types.count(JobStatus.COMPLETED) > 1:
        yield "I3: completed more than once"
    if ends and ends != [len(types) - 1]:
        yield "I4: an event left a terminal state"
    if events and ended != bool(ends):
        yield f"I4: status {job.status} but events {types}"
    if len(records) != ended:
        yield f"I5: {len(records)} usage records while {job.status}"
    for record in records:
        if ended and any(getattr(record, unit) != job.units.get(unit, 0) for unit in UNITS):
            yield "I5: the record's units are not the job's"
        if record.status != job.status:
            yield "I5: the record's status is not the job's"
    claims = [event.data["attempt"] for event in events if event.type == "claimed"]
    if events and claims != list(range(1, job.attempts + 1)) and job.lane == "persisted":
        yield f"I8: claims {claims} but {job.attempts} attempts"
    if ends and events[-1].data.get("attempt", job.attempts) != job.attempts:
        yield f"I8: attempt {events[-1].data['attempt']} ended it, not {job.attempts}"
    if ends and "attempt" in events[-1].data and len(types) > 1 and types[-2] in BACK:
        yield "I8: ended by an attempt that had been put back"
    if len(claims) > 1 + sum(type_ in BACK for type_ in types):
        yield "I9: claimed while another attempt held it"
    if job.crashes > 3 or types.count("crashed") > 2 or types.count("retried") > 2:
        yield "I9: more than three attempts that failed"
    if job.status == JobStatus.PENDING and job.runner_id is not None:
        yield "a pending job has a runner"
