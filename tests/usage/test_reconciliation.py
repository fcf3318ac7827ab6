"""Sum of the ledger = sum over Jobs = the API = its CSV, however the Jobs ended."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import Sum
from django.test import Client
from django.utils import timezone

from jobs import leases
from jobs.enums import JobStatus
from jobs.models import Job, Runner
from jobs.services import cancel_job, claim_suspects, finish_jobs
from tests.factories.accounts import make_organization
from tests.factories.jobs import (
    make_direct_outcome,
    make_job,
    make_outcome,
    make_runner,
    make_running_job,
)
from tests.factories.tokens import make_token
from tests.jobs.invariants import violations
from usage.models import UNITS, UsageRecord
from usage.totals import roll_up

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
PRICES = {"completion_tokens": ["0.000003", 1]}


def run_jobs_of_every_end(organization, token) -> None:
    """Complete, fail, cancel, abandon, crash; with and without a charge."""
    runner = make_runner(capacity=20)
    mine = {"organization": organization, "token": token}
    outcomes = []
    for status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED):
        for charged in (True, False):
            units = {"prompt_tokens": 7, "completion_tokens": len(status), "compute_ms": 11}
            wishes = {"status": status, "charged": charged, "units": units, "prices": PRICES}
            outcomes.append(make_outcome(make_running_job(runner=runner, **mine), **wishes))
            direct = make_direct_outcome(organization, token_id=token.pk, **wishes)
            outcomes.append(direct)
    assert len(finish_jobs(outcomes)) == len(outcomes)
    # a second report of the same end counts nothing
    assert finish_jobs(outcomes[:1]) == set()
    waiting = make_job(**mine)
    cancel_job(job=waiting, prices=PRICES, now=timezone.now())
    running = make_running_job(runner=runner, units={"completion_tokens": 5}, **mine)
    cancel_job(job=running, prices=PRICES, now=timezone.now())
    make_running_job(runner=runner, crashes=2, units={"completion_tokens": 2}, **mine)
    make_running_job(runner=runner, **mine)  # goes back to the queue: nothing is charged yet
    Runner.objects.update(heartbeat_at=timezone.now() - timedelta(hours=1))
    leases.sweep()


def ask(organization, secret, query) -> Any:
    answer = Client().get(
        f"/api/organizations/{organization.public_id}/usage?{query}",
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert answer.status_code == 200
    return answer


@pytest.mark.parametrize("later", [timedelta(0), timedelta(hours=2), timedelta(days=2)])
def test_ledger_jobs_api_and_csv_agree(later):
    organization = make_organization()
    token, secret = make_token(organization=organization, scopes=["admin:read"])
    run_jobs_of_every_end(organization, token)
    run_jobs_of_every_end(make_organization(), make_token()[0])
    roll_up(now=timezone.now() + later)

    ended = Job.objects.filter(organization=organization, completed_at__isnull=False)
    statuses = [job.status for job in ended]
    over_jobs = {
        "requests": len(statuses),
        **{status: statuses.count(status) for status in ("completed", "failed", "cancelled")},
        **{unit: sum(job.units.get(unit, 0) for job in ended) for unit in UNITS},
    }
    records = UsageRecord.objects.filter(organization=organization)
    ledger = {
        "requests": records.count(),
        **{
            status: records.filter(status=status).count()
            for status in ("completed", "failed", "cancelled")
        },
        **records.aggregate(**{f"{unit}_": Sum(unit) for unit in UNITS}),
    }
    ledger = {name.removesuffix("_"): int(value) for name, value in ledger.items()}
    amount = sum((record.amount for record in records), Decimal(0))

    assert over_jobs == ledger
    assert min(over_jobs[status] for status in ("completed", "failed", "cancelled")) >= 4
    assert Job.objects.filter(organization=organization, completed_at=None).count() == 1
    assert [problem for problem in violations() if problem.startswith("I5")] == []
    charged = sum(len(status) for status in ("completed", "failed", "cancelled")) * 2
    assert amount >= charged * Decimal("0.000003")
    for query in ("range=1h", "range=24h&group_by=model,status", "range=7d&group_by=token,task"):
        usage = ask(organization, secret, query).json()["usage"]
        shown = usage["totals"]
        assert {name: shown[name] for name in ledger} == ledger
        assert Decimal(shown["amount"]) == amount
        file = b"".join(ask(organization, secret, query + "&format=csv")).decode()
        rows = list(csv.DictReader(io.StringIO(file)))
        for part in (usage["data"], rows):
            assert {name: sum(int(row[name]) for row in part) for name in ledger} == ledger
            assert sum(Decimal(row["amount"]) for row in part) == amount


def test_a_crashed_job_counts_once_in_the_end():
    organization = make_organization()
    token, secret = make_token(organization=organization, scopes=["admin:read"])
    run_jobs_of_every_end(organization, token)
    before = ask(organization, secret, "range=1h").json()["usage"]["totals"]["requests"]
    runner = make_runner(placement_id="plc_second")

    claimed = claim_suspects(
        runner_id=runner.pk, queue_id=runner.queue_id, free=10, now=timezone.now()
    )
    finish_jobs([make_outcome(job) for job in claimed])

    assert len(claimed) == 1
    after = ask(organization, secret, "range=1h").json()["usage"]["totals"]["requests"]
    assert after == before + 1
