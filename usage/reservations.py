"""Reserve before, settle after: no request is begun that its budgets could not pay for.

Each budget has one counter row. Reserving is one conditional update of it, settling another in the
transaction that ends the Job. Rows are locked in one order everywhere: Jobs by id, the Organization
(shared), then counters, the Organization's own before its tokens'.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import connection, transaction
from django.db.models import (
    BigIntegerField,
    Case,
    DateTimeField,
    F,
    IntegerField,
    Q,
    QuerySet,
    Value,
    When,
)

from casola_site.core.budgets import CURRENCY, BudgetState, period_start, plain, shown_state
from casola_site.core.errors import BudgetExceeded
from usage import alerts
from usage.models import BudgetCounter, BudgetReservation, amount_of_nanos, nanos_of

LOCK_ORDER = ("organization_id", F("token_id").asc(nulls_first=True))
MOST_NANOS = 2 * 10**18  # beyond every budget; sums stay within 64 bits
EACH = {"daily": "day", "weekly": "week", "monthly": "month"}
Row = dict[str, Any]


class OutOfBudget(BudgetExceeded):
    """402 that names the limit, what is left of it and when it resets."""

    def __init__(self, counter: BudgetCounter, ceiling: Decimal, now: datetime) -> None:
        self.counter_id = counter.pk
        self.would_fit_alone = ceiling <= amount_of_nanos(counter.amount)
        state = counter.state(now)
        super().__init__(
            _sentence(counter.scope, state, ceiling),
            extra={"budget": {"scope": counter.scope, **shown_state(state)}},
        )


def _sentence(scope: str, state: BudgetState, ceiling: Decimal) -> str:
    budget, left = state.budget, state.remaining
    each = EACH.get(budget.period)
    per = f" per {each}" if each else ""
    text = f"The {scope}'s budget of {plain(budget.amount)} {CURRENCY}{per}"
    reserved = (
        f", {plain(state.reserved)} reserved for requests under way" if state.reserved else ""
    )
    text += f" has {plain(left)} left{reserved}; this request may cost up to {plain(ceiling)}."
    if left:
        text += " With a smaller max_tokens it may fit."
    if state.resets_at is None:
        return f"{text} The budget does not reset."
    return f"{text} The budget resets on {state.resets_at:%Y-%m-%d} at 00:00 UTC."


# -- before ---------------------------------------------------------------------------------------


@transaction.atomic
def reserve(
    *,
    job_id: str,
    organization_id: int,
    token_id: int | None,
    ceiling: Decimal,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Hold back what the request may cost at most from the budgets it draws on, or from none.

    What costs nothing needs no budget. Raises OutOfBudget.
    """
    nanos = min(nanos_of(ceiling), MOST_NANOS)
    if nanos == 0:
        return
    held = [
        BudgetReservation(
            counter_id=pk, job_id=job_id, amount=nanos, created_at=now, expires_at=expires_at
        )
        for pk, period in _counters_of(organization_id, token_id)
        if _take(pk, period, nanos, now)
    ]
    BudgetReservation.objects.bulk_create(held)


def _counters_of(organization_id: int, token_id: int | None) -> list[tuple[int, str]]:
    """(key, period) in lock order; no budget of the Organization changes before the commit."""
    lock = "FOR KEY SHARE OF organization" if connection.vendor == "postgresql" else ""
    # Constants and placeholders only.
    sql = f"""
        SELECT counter.id, counter.period FROM usage_budgetcounter counter
        JOIN accounts_organization organization ON organization.id = counter.organization_id
        WHERE counter.organization_id = %s AND (counter.token_id IS NULL OR counter.token_id = %s)
        ORDER BY counter.token_id IS NOT NULL {lock}
    """  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [organization_id, token_id])
        return cursor.fetchall()


def _take(pk: int, period: str, nanos: int, now: datetime) -> bool:
    """Reserve on one counter; False when the budget was lifted meanwhile. Raises OutOfBudget."""
    while True:
        start = period_start(period, now)
        is_over = Q(period_start__lt=start)
        spent = Case(
            When(is_over, then=Value(0)), default=F("spent"), output_field=BigIntegerField()
        )
        room = BudgetCounter.objects.filter(
            pk=pk, period=period, amount__gte=spent + F("reserved") + nanos
        )
        taken = room.update(
            reserved=F("reserved") + nanos,
            spent=spent,
            alerted=Case(
                When(is_over, then=Value(0)), default=F("alerted"), output_field=IntegerField()
            ),
            period_start=Case(
                When(is_over, then=Value(start)),
                default=F("period_start"),
                output_field=DateTimeField(),
            ),
        )
        if taken:
            return True
        counter = BudgetCounter.objects.filter(pk=pk).first()
        if counter is None:
            return False
        if counter.period == period:
            raise OutOfBudget(counter, amount_of_nanos(nanos), now)
        period = counter.period


@contextmanager
def refusals_told(now: datetime) -> Iterator[None]:
    """Around the transaction that reserves: its end as OutOfBudget alerts once in a period.

    A request that the whole budget could not pay for says nothing about how far it is used.
    """
    try:
        yield
    except OutOfBudget as error:
        if error.would_fit_alone:
            alerts.note_refusal(counter_id=error.counter_id, now=now)
        raise


# -- after ----------------------------------------------------------------------------------------


def settle(rows: Sequence[Row]) -> None:
    """Count the UsageRecords that are about to be written, and give back what was reserved.

    Lowers `amount` of a row to what was reserved for it: nothing costs more than its caller could
    know, also when a price rose meanwhile. What had no reservation (it was under way when the
    budget was made) is counted as it is. Call in the transaction that writes the rows, before that.
    """
    budgeted = _organizations_with_budgets({row["organization_id"] for row in rows})
    mine = [row for row in rows if row["organization_id"] in budgeted]
    if not mine:
        return
    tokens = {row["token_id"] for row in mine if row["token_id"] is not None}
    counters = _locked(
        BudgetCounter.objects.filter(
            Q(token=None) | Q(token_id__in=tokens), organization_id__in=budgeted
        )
    )
    held = _reservations(counters, [row["job_id"] for row in mine])
    for row in mine:
        for reservation in held[row["job_id"]]:
            row["amount"] = min(row["amount"], amount_of_nanos(reservation.amount))
    for counter in counters:
        _count(counter, [row for row in mine if _is_of(row, counter)])
    _give_back(counters, held)


def _organizations_with_budgets(pks: Collection[int]) -> set[int]:
    """Those of the Organizations whose ends are counted.

    On PostgreSQL the rows are locked as their foreign keys would lock them at the commit. So a
    budget is made either before this, and is seen, or after the commit, and finds the records.
    """
    lock = "ORDER BY id FOR KEY SHARE" if connection.vendor == "postgresql" else ""
    marks = ", ".join(["%s"] * len(pks))
    # Constants and placeholders only; not filtered by the flag, which may change while we wait.
    sql = f"SELECT id, has_budgets FROM accounts_organization WHERE id IN ({marks}) {lock}"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, list(pks))
        return {pk for pk, has_budgets in cursor.fetchall() if has_budgets}


def _locked(counters: QuerySet[BudgetCounter]) -> list[BudgetCounter]:
    return list(counters.select_for_update(no_key=True).order_by(*LOCK_ORDER))


def _reservations(
    counters: Sequence[BudgetCounter], job_ids: Collection[str]
) -> dict[str, list[BudgetReservation]]:
    """By Job; their counters must be locked."""
    held: dict[str, list[BudgetReservation]] = defaultdict(list)
    for row in BudgetReservation.objects.filter(counter__in=counters, job_id__in=job_ids):
        held[row.job_id].append(row)
    return held


def _is_of(row: Row, counter: BudgetCounter) -> bool:
    if counter.token_id is not None:
        return row["token_id"] == counter.token_id
    return row["organization_id"] == counter.organization_id


def _count(counter: BudgetCounter, rows: Sequence[Row]) -> None:
    """Add the records to the period they are written in; one that has ended meanwhile is over."""
    for row in rows:
        counter.roll(row["created_at"])
        if row["created_at"] >= counter.period_start:
            counter.spent += nanos_of(row["amount"])
    if rows:
        alerts.note_spending(counter, max(row["created_at"] for row in rows))


def _give_back(counters: Iterable[BudgetCounter], held: dict[str, list[BudgetReservation]]) -> None:
    """Write the locked counters without these reservations, which are deleted."""
    given = [reservation for rows in held.values() for reservation in rows]
    for counter in counters:
        counter.reserved -= sum(one.amount for one in given if one.counter_id == counter.pk)
        counter.save(update_fields=["spent", "reserved", "alerted", "period_start"])
    if given:
        BudgetReservation.objects.filter(pk__in=[one.pk for one in given]).delete()


def release(job_ids: Collection[str]) -> int:
    """Give back what requests hold that never reached a Runner; returns how many reservations."""
    with transaction.atomic():
        wanted = BudgetReservation.objects.filter(job_id__in=job_ids)
        pks = set(wanted.values_list("counter_id", flat=True))
        if not pks:
            return 0
        counters = _locked(BudgetCounter.objects.filter(pk__in=pks))
        held = _reservations(counters, job_ids)
        _give_back(counters, held)
    return sum(map(len, held.values()))


def let_expire(*, job_id: str, at: datetime) -> None:
    """A Runner may still write the end of this request, but not after the moment."""
    BudgetReservation.objects.filter(job_id=job_id, expires_at__gt=at).update(expires_at=at)


def expired_reservations(*, after: int, now: datetime, most: int) -> list[tuple[int, str]]:
    """(key, Job) of reservations whose time is over, from a key on; open Jobs keep theirs."""
    rows = BudgetReservation.objects.filter(pk__gt=after, expires_at__lte=now).order_by("pk")
    return list(rows.values_list("pk", "job_id")[:most])
