"""The counters of budgets: made, changed and lifted with the limit they belong to, and read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.db.models import BigIntegerField, F, QuerySet, Sum
from django.db.models.functions import Cast, Round

from accounts.models import Organization
from accounts.services.authority import lock_alone
from casola_site.core.budgets import Budget, BudgetState, period_start
from tokens.models import ApiToken
from usage.models import (
    NANOS,
    BudgetAlert,
    BudgetCounter,
    TotalsMark,
    UsageRecord,
    UsageTotal,
    nanos_of,
)
from usage.periods import Granularity, floor
from usage.totals import RECHECK


@transaction.atomic
def follow_budget(
    *, organization: Organization, token: ApiToken | None, budget: Budget | None, now: datetime
) -> None:
    """Have the counter of an Organization's or a token's budget say what its owner says.

    Nothing of the Organization ends meanwhile, so that the ledger is counted once: what ends later
    finds the counter. None takes the counter away, with what is reserved on it.
    """
    lock_alone(organization)
    rows = BudgetCounter.objects.filter(organization=organization, token=token)
    if budget is not None:
        _set(rows, organization, token, budget, now)
    elif (counter := rows.select_for_update().first()) is not None:
        counter.delete()
    Organization.objects.filter(pk=organization.pk).update(
        has_budgets=BudgetCounter.objects.filter(organization=organization).exists()
    )


def _set(
    rows: QuerySet[BudgetCounter],
    organization: Organization,
    token: ApiToken | None,
    budget: Budget,
    now: datetime,
) -> None:
    counter = rows.select_for_update(no_key=True).first()
    start, is_counted = period_start(budget.period, now), False
    if counter is None:
        counter = BudgetCounter(organization=organization, token=token)
    elif counter.period == budget.period:
        is_counted = counter.period_start >= start
        start = max(start, counter.period_start)
    counter.amount, counter.period = nanos_of(budget.amount), budget.period
    counter.period_start = start
    if not is_counted:
        counter.spent = ledger_sum(organization=organization, token=token, since=start)
    told = BudgetAlert.objects.filter(
        counter_id=counter.pk, period_start=start, amount=counter.amount
    )
    counter.alerted = max(told.values_list("threshold", flat=True), default=0)
    counter.save()


def ledger_sum(*, organization: Organization, token: ApiToken | None, since: datetime) -> int:
    """What the ledger charges since a moment, in billionths; with a token that token's alone.

    Hours that are closed and no longer checked come from their totals, the rest from the records.
    """
    known, mark = since, TotalsMark.objects.first()
    if mark is not None and mark.until is not None and since == floor(since, Granularity.HOUR):
        known = max(since, floor(mark.until - RECHECK, Granularity.HOUR))
    hours = UsageTotal.objects.filter(
        granularity=Granularity.HOUR, start__gte=since, start__lt=known
    )
    # In whole numbers, because SQLite adds up in floats.
    nanos = Cast(Round(F("amount") * NANOS), BigIntegerField())
    of_token = {} if token is None else {"token": token}
    return sum(
        rows.filter(organization=organization, **of_token).aggregate(total=Sum(nanos))["total"] or 0
        for rows in (hours, UsageRecord.objects.filter(created_at__gte=known))
    )


def budget_state(*, organization: Organization, now: datetime) -> BudgetState | None:
    """How the Organization's own budget stands; None when it has none."""
    counter = _counter_of(organization)
    return None if counter is None else counter.state(now)


def budget_alerts(*, organization: Organization, now: datetime) -> list[BudgetAlert]:
    """What was told of the Organization's own budget in the present period, oldest first."""
    counter = _counter_of(organization)
    if counter is None:
        return []
    start = period_start(counter.period, now)
    return list(counter.alerts.filter(period_start__gte=start).order_by("created_at", "threshold"))


def _counter_of(organization: Organization) -> BudgetCounter | None:
    return BudgetCounter.objects.filter(organization=organization, token=None).first()


def token_states(tokens: Iterable[ApiToken], now: datetime) -> dict[int, BudgetState]:
    """How the tokens' budgets stand, by primary key (settings.BUDGET_STATES)."""
    counters = BudgetCounter.objects.filter(token__in=[token.pk for token in tokens])
    return {counter.token_id: counter.state(now) for counter in counters}
