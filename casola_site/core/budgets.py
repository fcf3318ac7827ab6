"""What a budget is: an amount for a period of UTC's calendar, and how one holds another."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import models

CURRENCY = "USD"  # of every price, budget, record and total
MAX_AMOUNT = Decimal(1_000_000_000)
PLACES = 6
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BudgetPeriod(models.TextChoices):
    """When a budget starts afresh."""

    NEVER = "never"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


# A period -> the periods of budgets that bound it: whose every span covers it whole. A day lies in
# one week and one month, a week may lie in two months.
_BOUNDED_BY = {
    BudgetPeriod.DAILY: frozenset(BudgetPeriod),
    BudgetPeriod.WEEKLY: frozenset({BudgetPeriod.WEEKLY, BudgetPeriod.NEVER}),
    BudgetPeriod.MONTHLY: frozenset({BudgetPeriod.MONTHLY, BudgetPeriod.NEVER}),
    BudgetPeriod.NEVER: frozenset({BudgetPeriod.NEVER}),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `amount` in each period."""

    amount: Decimal
    period: BudgetPeriod

    def holds(self, other: Budget) -> bool:
        """Whether whoever keeps to the other also keeps to this one."""
        return other.amount <= self.amount and other.period in _BOUNDED_BY[self.period]


def budget_of(amount: Decimal | None, period: str) -> Budget | None:
    """From two columns; without an amount there is no budget."""
    return None if amount is None else Budget(amount, BudgetPeriod(period))


@dataclass(frozen=True, slots=True)
class BudgetState:
    """How far a budget is used at a moment: what enforcement counts and what is shown."""

    budget: Budget
    spent: Decimal
    reserved: Decimal
    resets_at: datetime | None

    @property
    def remaining(self) -> Decimal:
        """What a further request may cost."""
        return max(Decimal(0), self.budget.amount - self.spent - self.reserved)


def plain(amount: Decimal) -> str:
    """An amount as a decimal number without needless zeros, two places at least."""
    whole, _, places = format(amount, "f").partition(".")
    return f"{whole}.{places.rstrip('0'):0<2}"


def shown_state(state: BudgetState) -> dict[str, Any]:
    """A budget as every answer shows it."""
    return {
        "amount": plain(state.budget.amount),
        "currency": CURRENCY,
        "period": str(state.budget.period),
        "spent": plain(state.spent),
        "reserved": plain(state.reserved),
        "remaining": plain(state.remaining),
        "resets_at": None if state.resets_at is None else int(state.resets_at.timestamp()),
    }


def period_start(period: str, now: datetime) -> datetime:
    """When the period that holds an aware moment began, in UTC; weeks begin on Monday."""
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case BudgetPeriod.DAILY:
            return day
        case BudgetPeriod.WEEKLY:
            return day - timedelta(days=day.weekday())
        case BudgetPeriod.MONTHLY:
            return day.replace(day=1)
    return EPOCH


def period_end(period: str, now: datetime) -> datetime | None:
    """When the period that holds the moment ends and the next begins; None: never."""
    start = period_start(period, now)
    match period:
        case BudgetPeriod.DAILY:
            return start + timedelta(days=1)
        case BudgetPeriod.WEEKLY:
            return start + timedelta(days=7)
        case BudgetPeriod.MONTHLY:
            return (start + timedelta(days=31)).replace(day=1)
    return None
