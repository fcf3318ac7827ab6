"""The part of the budget benchmark that runs inside Django."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

from django.db import connections, transaction
from django.utils import timezone

from accounts.actors import SYSTEM
from accounts.models import Organization
from accounts.services import change_budget, create_organization
from benchmarks.report import Row, median, percentile, say
from casola_site.core import ids
from casola_site.core.budgets import Budget, BudgetPeriod
from jobs.enums import JobStatus
from jobs.services import Outcome, finish_jobs
from tokens.models import ApiToken
from tokens.services import issue_token
from usage import services
from usage.models import BudgetCounter
from usage.reservations import release, reserve

BUDGET = Budget(Decimal(1_000_000), BudgetPeriod.MONTHLY)
PRICES = {"completion_tokens": ["0.000001", 1]}
CROWD = 16


class Tenant:
    """An organization and a token, with as many budgets as wanted."""

    def __init__(self, budgets: int) -> None:
        self.name = ("no budget", "one budget", "two budgets")[budgets]
        self.organization, owner = create_organization(
            name=self.name, plan_code="unlimited", owner_email=f"b{budgets}@example.com"
        )
        self.token: ApiToken = issue_token(
            organization=self.organization,
            created_by=owner,
            name="x",
            scopes=["user:write"],
            now=timezone.now(),
            budget=BUDGET if budgets == 2 else None,
        )[0]
        if budgets:
            change_budget(
                organization=self.organization, budget=BUDGET, by=SYSTEM, now=timezone.now()
            )

    def reserve(self) -> str:
        """One request's."""
        job_id, now = str(ids.job_id()), timezone.now()
        reserve(
            job_id=job_id,
            organization_id=self.organization.pk,
            token_id=self.token.pk,
            ceiling=Decimal("0.01"),
            now=now,
            expires_at=now,
        )
        return job_id

    def outcome(self) -> Outcome:
        """The end of one that reserved."""
        return Outcome(
            job_id=self.reserve(),
            status=JobStatus.COMPLETED,
            organization_id=self.organization.pk,
            token_id=self.token.pk,
            user_id=None,
            model_id="m",
            queue_id="q",
            task="t",
            units={"completion_tokens": 10},
            created_at=timezone.now(),
            prices=PRICES,
        )


def main(calls: int) -> None:
    """Print the figures as JSON."""
    tenants = [Tenant(budgets) for budgets in range(3)]
    ends = [_ends(tenant, size, calls) for size in (1, 8, 50) for tenant in tenants]
    settle, services.settle = services.settle, lambda rows: None
    bare = [_ends(tenants[0], size, calls, name="not looked for") for size in (1, 8, 50)]
    services.settle = settle
    reserving = [_reserving(tenant, threads, calls) for tenant in tenants for threads in (1, CROWD)]
    wrong = BudgetCounter.objects.exclude(reserved=0).count()
    wrong += Organization.objects.filter(has_budgets=True).count() != 2
    print(json.dumps({"ends": sorted([*bare, *ends], key=lambda row: row["jobs"]),
                      "reserving": reserving, "wrong": wrong}))  # fmt: skip


def _ends(tenant: Tenant, size: int, calls: int, name: str = "") -> Row:
    say(f"{size} ends, {name or tenant.name}")
    times = []
    for _ in range(max(15, calls // size)):
        with transaction.atomic():
            outcomes = [tenant.outcome() for _ in range(size)]
        times.append(_timed(lambda outcomes=outcomes: finish_jobs(outcomes)))
    return {"jobs": size, "budgets": name or tenant.name, **_figures(times)}


def _reserving(tenant: Tenant, threads: int, calls: int) -> Row:
    say(f"{threads} at once, {tenant.name}")
    held: list[str] = []

    def work(_: int) -> list[tuple[float, float]]:
        try:
            return [
                _timed(lambda: held.append(tenant.reserve())) for _ in range(calls // threads + 1)
            ]
        finally:
            connections.close_all()

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        times = [one for part in pool.map(work, range(threads)) for one in part]
    rate = len(times) / (time.perf_counter() - began)
    for first in range(0, len(held), 200):
        release(held[first : first + 200])
    return {
        "budgets": tenant.name,
        "callers": threads,
        **_figures(times),
        "per_s": rate,
    }


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds by the clock, and those of this thread's own work."""
    began, worked = time.perf_counter(), time.thread_time()
    work()
    return (time.perf_counter() - began) * 1000, (time.thread_time() - worked) * 1000


def _figures(times: list[tuple[float, float]]) -> Row:
    by_clock = [one[0] for one in times]
    return {
        "p50_ms": median(by_clock),
        "p95_ms": percentile(by_clock, 0.95),
        "own_cpu_ms": median([one[1] for one in times]),
    }
