"""Reserving, settling, giving back: what one budget lets through, and what it has counted then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import transaction

from casola_site.core import ids
from jobs.housekeeping import release_abandoned
from jobs.services import cancel_job
from jobs.submission import submit_job
from tests.factories.accounts import make_organization
from tests.factories.jobs import MODEL, QUEUE, TASK, make_job, make_submitter
from tests.factories.tokens import make_token
from tests.factories.usage import make_budget, make_consumption
from tests.jobs.invariants import budget_violations, violations
from usage.models import BudgetCounter, BudgetReservation, UsageRecord
from usage.reservations import OutOfBudget, let_expire, release, reserve
from usage.services import record_usage

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)  # a Wednesday
SAVEPOINT = 1  # the other end of an inner transaction
PRICES = {"completion_tokens": ["0.01", 1]}


def hold(organization, cents, token=None, now=NOW, job_id=None):
    """Reserve so many cents; returns the Job's id."""
    job_id = job_id or str(ids.job_id())
    reserve(
        job_id=job_id,
        organization_id=organization.pk,
        token_id=token.pk if token else None,
        ceiling=Decimal(cents) / 100,
        now=now,
        expires_at=now + timedelta(minutes=10),
    )
    return job_id


def end(organization, job_id, cents, token=None, now=NOW, **columns):
    """Write the record of a Job that used so many cents."""
    with transaction.atomic():
        record_usage(
            [
                make_consumption(
                    organization,
                    job_id=job_id,
                    token_id=token.pk if token else None,
                    units={"completion_tokens": cents},
                    prices=PRICES,
                    at=now,
                    **columns,
                )
            ]
        )


def standing(counter) -> tuple[int, int]:
    """(spent, reserved) in cents."""
    counter.refresh_from_db()
    return counter.spent // 10**7, counter.reserved // 10**7


def test_reserve_then_settle():
    organization = make_organization()
    counter = make_budget(organization, "1")

    job_id = hold(organization, 30)
    assert standing(counter) == (0, 30)
    end(organization, job_id, 12)

    assert standing(counter) == (12, 0)
    assert not BudgetReservation.objects.exists()
    assert budget_violations() == []


def test_what_does_not_fit_is_refused_and_leaves_nothing():
    organization = make_organization()
    counter = make_budget(organization, "1", "monthly")
    first = hold(organization, 60)
    with pytest.raises(OutOfBudget) as refused:
        hold(organization, 41)
    assert standing(counter) == (0, 60)
    end(organization, first, 59)

    hold(organization, 41)

    assert standing(counter) == (59, 41)
    error = refused.value
    assert (error.status, error.code, error.type) == (402, "budget_exceeded", "billing_error")
    assert error.message == (
        "The organization's budget of 1.00 USD per month has 0.40 left, 0.60 reserved for requests "
        "under way; this request may cost up to 0.41. With a smaller max_tokens it may fit. "
        "The budget resets on 2026-12-01 at 00:00 UTC."
    )
    assert error.extra == {
        "budget": {
            "scope": "organization", "amount": "1.00", "currency": "USD", "period": "monthly",
            "spent": "0.00", "reserved": "0.60", "remaining": "0.40", "resets_at": 1796083200,
        }
    }  # fmt: skip


def test_a_tokens_limit_is_named_and_holds_nothing_of_the_organizations():
    organization = make_organization()
    token, _ = make_token(organization=organization)
    of_organization, of_token = make_budget(organization, "5"), make_budget(token, "0.5")

    with pytest.raises(
        OutOfBudget, match=r"The token's budget of 0\.50 USD has 0\.50 left;.*"
    ) as e:
        hold(organization, 51, token)
    assert e.value.message.endswith("The budget does not reset.")
    assert (standing(of_organization), standing(of_token)) == ((0, 0), (0, 0))
    job_id = hold(organization, 50, token)
    assert (standing(of_organization), standing(of_token)) == ((0, 50), (0, 50))
    end(organization, job_id, 7, token)
    # another token draws on the organization's alone
    other, _ = make_token(organization=organization)
    end(organization, hold(organization, 90, other), 90, other)
    assert (standing(of_organization), standing(of_token)) == ((97, 0), (7, 0))
    assert budget_violations() == []


def test_the_smaller_of_two_budgets_decides():
    organization = make_organization()
    token, _ = make_token(organization=organization)
    make_budget(token, "5")
    make_budget(organization, "0.1")
    with pytest.raises(OutOfBudget, match="The organization's budget"):
        hold(organization, 11, token)


def test_what_costs_nothing_is_not_held_up():
    organization = make_organization()
    counter = make_budget(organization, "0.1")
    end(organization, hold(organization, 10), 10)
    hold(organization, 0)
    assert standing(counter) == (10, 0)
    assert not BudgetReservation.objects.exists()


def test_nothing_costs_more_than_what_was_reserved():
    organization = make_organization()
    counter = make_budget(organization, "0.1")
    end(organization, hold(organization, 10), 25)
    record = UsageRecord.objects.get()
    assert (record.amount, record.completion_tokens) == (Decimal("0.1"), 25)
    assert standing(counter) == (10, 0)
    assert budget_violations() == []


def test_an_end_that_is_our_fault_gives_everything_back():
    organization = make_organization()
    counter = make_budget(organization, "0.1")
    end(organization, hold(organization, 10), 9, charged=False, status="failed")
    assert standing(counter) == (0, 0)
    assert hold(organization, 10)


def test_two_organizations_do_not_touch():
    one, two = make_organization(), make_organization()
    free = make_organization()
    first, second = make_budget(one, "0.1"), make_budget(two, "0.1")
    end(one, hold(one, 10), 10)
    job_id = hold(two, 10)
    hold(free, 10**6)
    with transaction.atomic():
        record_usage(
            [
                make_consumption(row, job_id=name, prices=PRICES, at=NOW)
                for row, name in ((two, job_id), (free, str(ids.job_id())))
            ]
        )
    assert (standing(first), standing(second)) == ((10, 0), (1, 0))
    assert BudgetCounter.objects.count() == 2
    assert budget_violations() == []


@pytest.mark.parametrize(
    ("period", "last", "first"),
    [
        ("daily", datetime(2026, 11, 25, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 26, tzinfo=UTC)),
        ("weekly", datetime(2026, 11, 29, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)),
        ("monthly", datetime(2026, 11, 30, 23, 59, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_a_period_ends_by_utcs_calendar(period, last, first):
    organization = make_organization()
    counter = make_budget(organization, "0.1", period, now=NOW)
    end(organization, hold(organization, 8), 8)
    open_job = hold(organization, 2, now=last)
    with pytest.raises(OutOfBudget):
        hold(organization, 1, now=last)
    assert standing(counter) == (8, 2)

    hold(organization, 8, now=first)

    assert standing(counter) == (0, 10)  # what is under way stays reserved
    with pytest.raises(OutOfBudget):
        hold(organization, 1, now=first)
    end(organization, open_job, 2, now=first)  # and is charged to the period it ends in
    assert standing(counter) == (2, 8)
    assert counter.period_start == first
    assert budget_violations() == []


def test_an_end_rolls_the_period_over_as_well():
    organization = make_organization()
    counter = make_budget(organization, "0.1", "daily", now=NOW)
    end(organization, hold(organization, 9), 9)
    job_id = hold(organization, 1)
    end(organization, job_id, 1, now=NOW + timedelta(days=1))
    assert standing(counter) == (1, 0)
    assert budget_violations() == []


def test_a_late_clock_does_not_roll_it_back():
    """A host that is behind writes into the period that is over: that is not counted any more."""
    organization = make_organization()
    counter = make_budget(organization, "0.1", "daily", now=NOW)
    slow = hold(organization, 3)
    midnight = NOW.replace(hour=0) + timedelta(days=1)
    end(organization, hold(organization, 5, now=midnight), 5, now=midnight)
    end(organization, slow, 3, now=midnight - timedelta(milliseconds=5))
    hold(organization, 1, now=midnight - timedelta(milliseconds=5))
    assert standing(counter) == (5, 1)
    assert counter.period_start == midnight
    assert budget_violations() == []


def test_a_budget_made_within_a_period_counts_what_was_spent():
    organization = make_organization()
    token, _ = make_token(organization=organization)
    end(organization, str(ids.job_id()), 50, now=NOW - timedelta(days=30))
    end(organization, str(ids.job_id()), 3, now=NOW - timedelta(days=2))
    end(organization, str(ids.job_id()), 4, token, now=NOW)

    counters = [
        make_budget(organization, "1", period, now=NOW)
        for period in ("daily", "weekly", "monthly", "never")
    ]
    # one row all along: what is shown is what each change left
    assert [counter.spent // 10**7 for counter in counters] == [4, 7, 7, 57]
    assert standing(make_budget(token, "1", "monthly", now=NOW)) == (4, 0)
    assert budget_violations() == []


def test_what_was_under_way_when_the_budget_was_made_is_counted_in_full():
    organization = make_organization()
    job_id = hold(organization, 30)
    assert not BudgetReservation.objects.exists()
    counter = make_budget(organization, "0.1", now=NOW)
    end(organization, job_id, 30)
    assert standing(counter) == (30, 0)
    assert counter.state(NOW).remaining == 0
    assert budget_violations() == []


def test_a_lifted_budget_forgets_what_it_held():
    from usage.budgets import follow_budget

    organization = make_organization()
    make_budget(organization, "0.1")
    job_id = hold(organization, 10)
    organization.budget_amount = None
    organization.save(update_fields=["budget_amount"])
    follow_budget(organization=organization, token=None, budget=None, now=NOW)
    hold(organization, 10**6)
    organization.refresh_from_db()
    assert (BudgetReservation.objects.count(), organization.has_budgets) == (0, False)
    end(organization, job_id, 4)
    counter = make_budget(organization, "0.1", now=NOW)
    assert standing(counter) == (4, 0)


def test_many_billionths_add_up_exactly():
    organization = make_organization()
    prices = {"completion_tokens": ["0.000000001", 1]}
    counter = make_budget(organization, "999999999.999999", now=NOW)
    reserve(
        job_id="big", organization_id=organization.pk, token_id=None, now=NOW, expires_at=NOW,
        ceiling=Decimal("999999999.999998"),
    )  # fmt: skip
    for _ in range(3):
        reserve(
            job_id=str(ids.job_id()), organization_id=organization.pk, token_id=None, now=NOW,
            ceiling=Decimal("0.0000003"), expires_at=NOW,
        )  # fmt: skip
    with pytest.raises(OutOfBudget):
        reserve(
            job_id="last", organization_id=organization.pk, token_id=None, now=NOW,
            ceiling=Decimal("0.000000101"), expires_at=NOW,
        )  # fmt: skip
    with pytest.raises(OutOfBudget):
        hold(organization, 10**30)
    with transaction.atomic():
        record_usage(
            [make_consumption(organization, units={"completion_tokens": 7}, prices=prices, at=NOW)]
        )
    counter.refresh_from_db()
    assert (counter.spent, counter.reserved) == (7, 999_999_999_999_998_900)


# -- giving back ----------------------------------------------------------------------------------


def test_what_reached_no_runner_is_released():
    organization = make_organization()
    token, _ = make_token(organization=organization)
    counters = [make_budget(organization, "0.1"), make_budget(token, "0.1")]
    job_id = hold(organization, 10, token)
    assert release([job_id, str(ids.job_id())]) == 2
    assert release([job_id]) == 0
    assert [standing(counter) for counter in counters] == [(0, 0), (0, 0)]


def test_the_sweep_takes_what_nobody_works_on():
    organization = make_organization()
    counter = make_budget(organization, "1")
    dead = hold(organization, 20)
    given_up = hold(organization, 10)
    let_expire(job_id=given_up, at=NOW + timedelta(minutes=1))
    waiting = make_job(organization=organization)
    running = make_job(organization=organization, status="processing")
    for job in (waiting, running):
        hold(organization, 1, job_id=str(job.pk))

    assert release_abandoned(now=NOW) == 0
    assert release_abandoned(now=NOW + timedelta(minutes=1)) == 1
    assert standing(counter) == (0, 22)
    assert release_abandoned(now=NOW + timedelta(minutes=10)) == 1
    assert release_abandoned(now=NOW + timedelta(days=10)) == 0
    assert standing(counter) == (0, 2)
    held = set(BudgetReservation.objects.values_list("job_id", flat=True))
    assert held == {str(waiting.pk), str(running.pk)}
    assert dead not in held


def test_the_sweep_gets_past_what_stays(monkeypatch):
    monkeypatch.setattr("jobs.housekeeping.AT_ONCE", 2)
    organization = make_organization()
    make_budget(organization, "1")
    for _ in range(3):
        hold(organization, 1, job_id=str(make_job(organization=organization).pk))
    gone = [hold(organization, 1) for _ in range(3)]
    assert release_abandoned(now=NOW + timedelta(hours=1)) == 3
    assert not BudgetReservation.objects.filter(job_id__in=gone).exists()
    assert BudgetReservation.objects.count() == 3


def submit(organization, cents):
    return submit_job(
        submitter=make_submitter(organization, max_queued_jobs=5),
        model_id=MODEL,
        queue_id=QUEUE,
        task=TASK,
        payload={},
        ceiling=Decimal(cents) / 100,
        now=NOW,
    )


def test_a_job_that_does_not_fit_is_not_made():
    organization = make_organization()
    counter = make_budget(organization, "0.1")
    job = submit(organization, 6)
    with pytest.raises(OutOfBudget):
        submit(organization, 5)
    assert organization.jobs.count() == 1
    assert standing(counter) == (0, 6)
    cancel_job(job=job, prices=PRICES, now=NOW)
    assert standing(counter) == (0, 0)
    assert submit(organization, 5).status == "pending"
    assert violations() == []


def test_who_has_no_budget_pays_one_statement_and_others_few(django_assert_num_queries):
    free, budgeted = make_organization(), make_organization()
    token, _ = make_token(organization=budgeted)
    with transaction.atomic(), django_assert_num_queries(2):  # a look and the records
        record_usage([make_consumption(free, prices=PRICES, at=NOW) for _ in range(9)])
    make_budget(budgeted, "100")
    make_budget(token, "100")
    with transaction.atomic(), django_assert_num_queries(5 + SAVEPOINT):
        jobs = [hold(budgeted, 1, token)]  # find, one update for each budget, insert
    jobs += [hold(budgeted, 1, token) for _ in range(8)]
    with transaction.atomic(), django_assert_num_queries(7):  # however many Jobs end together
        record_usage(
            [
                make_consumption(budgeted, job_id=job, token_id=token.pk, prices=PRICES, at=NOW)
                for job in jobs
            ]
        )
    assert budget_violations() == []
