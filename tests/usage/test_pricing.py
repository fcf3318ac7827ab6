"""What units cost (pure), and the record of it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from tests.factories.accounts import make_organization
from tests.factories.jobs import MODEL
from tests.factories.usage import make_consumption, make_price
from usage.models import UNITS, UsageRecord
from usage.pricing import amount_of
from usage.services import price_snapshot, record_usage

COUNTS = st.dictionaries(st.sampled_from(UNITS), st.integers(0, 10**9), max_size=5)
AMOUNTS = st.decimals(0, 1000, places=6).map(str)
# Whole divisors of the ninth place: no rounding, so that sums are exact.
PRICES = st.dictionaries(
    st.sampled_from([unit for unit in UNITS if unit != "cached_tokens"]),
    st.tuples(AMOUNTS, st.sampled_from([1, 10, 1000])),
    max_size=5,
)


def test_the_sum_over_all_units():
    prices = {"prompt_tokens": ["0.15", 1_000_000], "completion_tokens": ["0.60", 1_000_000]}
    units = {"prompt_tokens": 1_000_000, "completion_tokens": 500_000, "images": 3}

    assert amount_of(units, prices) == Decimal("0.45")


def test_cached_tokens_are_charged_by_their_own_price_alone():
    prices = {"prompt_tokens": ["1", 1], "cached_tokens": ["0.1", 1]}
    assert amount_of({"prompt_tokens": 10, "cached_tokens": 4}, prices) == Decimal("6.4")


def test_cached_tokens_without_a_price_cost_as_prompt_tokens():
    units = {"prompt_tokens": 10, "cached_tokens": 4}
    assert amount_of(units, {"prompt_tokens": ["1", 1]}) == Decimal(10)


def test_an_amount_has_nine_places():
    amount = amount_of({"images": 1}, {"images": ["1", 3]})
    assert str(amount) == "0.333333333"


@given(COUNTS, COUNTS, PRICES)
def test_amounts_add_up(first, second, prices):
    both = {unit: first.get(unit, 0) + second.get(unit, 0) for unit in {*first, *second}}
    assert amount_of(both, prices) == amount_of(first, prices) + amount_of(second, prices)


@given(COUNTS, PRICES)
def test_no_amount_is_negative_and_no_price_is_free(units, prices):
    assert amount_of(units, prices) >= 0
    assert amount_of(units, {}) == 0


@given(st.integers(0, 10**6), st.integers(0, 10**6), AMOUNTS, AMOUNTS)
def test_a_cheaper_cache_never_costs_more(prompt, cached, full, reduced):
    full, reduced = max(full, reduced, key=Decimal), min(full, reduced, key=Decimal)
    units = {"prompt_tokens": max(prompt, cached), "cached_tokens": cached}
    without = amount_of(units, {"prompt_tokens": [full, 1000]})

    prices = {"prompt_tokens": [full, 1000], "cached_tokens": [reduced, 1000]}
    assert amount_of(units, prices) <= without


@pytest.mark.django_db
@pytest.mark.sqlite
def test_a_snapshot_holds_the_prices_in_force():
    now = timezone.now()
    make_price(amount=Decimal(1), valid_from=now - timedelta(days=2))
    make_price(amount=Decimal(2), valid_from=now - timedelta(days=1))
    make_price(amount=Decimal(3), valid_from=now + timedelta(days=1))
    make_price(unit="images", amount=Decimal("0.04"), valid_from=now)
    make_price(model_id="test/other", unit="pixels")

    assert price_snapshot(model_id=MODEL, now=now) == {
        "completion_tokens": ["2.000000000", 1],
        "images": ["0.040000000", 1],
    }


@pytest.mark.django_db
@pytest.mark.sqlite
def test_a_record_keeps_units_prices_and_amount():
    units = {"completion_tokens": 4, "images": 2, "unheard_of": 9}
    prices = {"completion_tokens": ["0.5", 1]}
    record_usage([make_consumption(make_organization(), units=units, prices=prices)])

    record = UsageRecord.objects.get()
    assert {unit: getattr(record, unit) for unit in UNITS if getattr(record, unit)} == {
        "completion_tokens": 4,
        "images": 2,
    }
    assert (record.amount, record.prices, record.currency) == (Decimal(2), prices, "USD")


@pytest.mark.django_db
@pytest.mark.sqlite
def test_what_was_our_fault_is_recorded_at_nothing():
    prices = {"completion_tokens": ["0.5", 1]}
    record_usage([make_consumption(make_organization(), prices=prices, charged=False)])

    assert UsageRecord.objects.values_list("completion_tokens", "amount").get() == (1, 0)


@pytest.mark.django_db
@pytest.mark.sqlite
def test_a_job_has_one_record():
    consumption = make_consumption(make_organization())
    record_usage([consumption])

    with pytest.raises(IntegrityError), transaction.atomic():
        record_usage([consumption])

    assert UsageRecord.objects.count() == 1
