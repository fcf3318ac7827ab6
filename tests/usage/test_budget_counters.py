"""What a counter begins with: the ledger's sum, closed hours from their totals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from casola_site.core.budgets import Budget
from tests.factories.accounts import make_organization
from tests.factories.tokens import make_token
from tests.factories.usage import make_budget, make_consumption
from usage.budgets import follow_budget, ledger_sum
from usage.models import NANOS, BudgetCounter, UsageTotal
from usage.periods import Granularity
from usage.services import record_usage
from usage.totals import RECHECK, roll_up

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = datetime(2026, 3, 18, 14, 40, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


def spend(organization, amount: str, ago: timedelta, **columns) -> None:
    prices = {"completion_tokens": [amount, 1]}
    record_usage([make_consumption(organization, prices=prices, at=NOW - ago, **columns)])


@pytest.fixture
def spenders():
    """An Organization with a token, which spent over three weeks, and a stranger who did too."""
    organization, stranger = make_organization(), make_organization()
    token, _ = make_token(organization=organization)
    for hours in (0, 1, 2, 3, 4, 5, 30, 200, 500):
        spend(organization, "0.1", timedelta(hours=hours))
        spend(organization, "0.02", timedelta(hours=hours), token_id=token.pk)
        spend(stranger, "7", timedelta(hours=hours))
    return organization, token


@pytest.mark.parametrize("is_rolled_up", [False, True])
@pytest.mark.parametrize(
    ("since", "count"),
    [
        (NOW - timedelta(days=365), 9),
        (MIDNIGHT, 8),
        (datetime(2026, 3, 18, tzinfo=UTC), 6),
        (datetime(2026, 3, 18, 13, tzinfo=UTC), 2),
        (NOW - timedelta(hours=4, minutes=30), 5),
    ],
)
def test_totals_and_records_together_hold_each_once(spenders, since, count, is_rolled_up):
    organization, token = spenders
    if is_rolled_up:
        roll_up(now=NOW)
    assert ledger_sum(organization=organization, token=None, since=since) == count * 120_000_000
    assert ledger_sum(organization=organization, token=token, since=since) == count * 20_000_000


def test_only_what_is_closed_and_checked_comes_from_totals(spenders):
    organization, _ = spenders
    roll_up(now=NOW)
    hours = UsageTotal.objects.filter(organization=organization, granularity=Granularity.HOUR)
    assert hours.filter(start__gte=NOW - RECHECK).exists()
    hours.update(amount=Decimal(0))
    left = ledger_sum(organization=organization, token=None, since=MIDNIGHT)
    assert left == 4 * 120_000_000  # of 14:40, 13:40, 12:40, 11:40


def test_another_amount_leaves_what_was_counted(spenders):
    organization, _ = spenders
    make_budget(organization, "50", "monthly", now=NOW)
    BudgetCounter.objects.update(spent=3 * NANOS)
    change(organization, Budget(Decimal(1), "monthly"))
    counter = BudgetCounter.objects.get()
    assert (counter.amount, counter.spent) == (NANOS, 3 * NANOS)


def test_another_period_and_the_next_one_are_counted_anew(spenders):
    organization, _ = spenders
    make_budget(organization, "50", "monthly", now=NOW)
    BudgetCounter.objects.update(spent=3 * NANOS)
    change(organization, Budget(Decimal(50), "daily"))
    assert BudgetCounter.objects.get().spent == 6 * 120_000_000
    change(organization, Budget(Decimal(20), "daily"), NOW + timedelta(days=1))
    assert BudgetCounter.objects.get().spent == 0


def change(organization, budget: Budget, now: datetime = NOW) -> None:
    follow_budget(organization=organization, token=None, budget=budget, now=now)
