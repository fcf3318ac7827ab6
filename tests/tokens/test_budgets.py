"""A token's budget: set, changed, shown, and no way round it."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import AuditEvent
from casola_site.core.budgets import Budget, BudgetPeriod
from tests.factories.usage import make_budget
from tests.tokens.test_changes import Office, load
from tokens.models import ApiToken
from usage.models import BudgetCounter

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
MONTHLY = {"amount": "12.50", "period": "monthly"}


@pytest.fixture
def office():
    return Office()


def test_a_budget_is_given_shown_changed_and_lifted(office):
    body = {"name": "x", "scopes": ["user:write"], "budget": MONTHLY}
    made = office.ask("POST", "", body).json()
    shown = made["token"]["budget"]
    assert shown.pop("resets_at") > timezone.now().timestamp()
    assert shown == {
        "amount": "12.50", "currency": "USD", "period": "monthly", "spent": "0.00",
        "reserved": "0.00", "remaining": "12.50",
    }  # fmt: skip
    token = ApiToken.objects.get(public_id=made["token"]["id"])
    assert load(made["secret"]).budget == Budget(Decimal("12.5"), BudgetPeriod.MONTHLY)
    assert AuditEvent.objects.get(action="token.issued").data["budget"] == {
        "amount": "12.50", "period": "monthly",
    }  # fmt: skip

    changed = office.patch(token, budget={"amount": 20, "period": "never"}).json()["token"]
    assert (changed["budget"]["amount"], changed["budget"]["resets_at"]) == ("20.00", None)
    event = AuditEvent.objects.get(action="token.changed")
    assert event.data["changes"] == {
        "budget_amount": ["12.50", "20.00"], "budget_period": ["monthly", "never"],
    }  # fmt: skip
    assert office.patch(token, name="y").json()["token"]["budget"]["amount"] == "20.00"

    assert office.patch(token, budget=None).json()["token"]["budget"] is None
    assert not BudgetCounter.objects.exists()
    assert load(made["secret"]).is_budgeted is False


@pytest.mark.parametrize(
    ("budget", "param"),
    [
        ({}, "budget.amount"),
        ({"amount": "1"}, "budget.period"),
        ({"period": "daily"}, "budget.amount"),
        ({"amount": "1", "period": "yearly"}, "budget.period"),
        ("12", "budget"),
        ([], "budget"),
        *[
            ({"amount": amount, "period": "daily"}, "budget.amount")
            for amount in (
                "0", 0, -1, "-1", "1e3", "", " 1", "1.", ".5", "0.0000001", 0.0000001, True, None,
                "1000000001", 1e10, "٣", "1,5", "NaN", [1], {"a": 1}, "1" * 500, 10**40,
            )
        ],
    ],
)  # fmt: skip
def test_what_is_no_budget_is_refused(office, budget, param):
    answer = office.ask("POST", "", {"name": "x", "scopes": ["user:read"], "budget": budget})
    assert answer.status_code == 400, answer.content
    assert answer.json()["error"]["param"] == param
    assert ApiToken.objects.count() == 1


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("12.5", "12.50"), (12.5, "12.50"), (1, "1.00"), (1.0, "1.00"), (0.1, "0.10"),
     ("0.000001", "0.000001"), (0.000001, "0.000001"), ("1000000000", "1000000000.00")],
)  # fmt: skip
def test_amounts_are_taken_exactly(office, amount, shown):
    body = {"name": "x", "scopes": ["user:read"], "budget": {"amount": amount, "period": "daily"}}
    assert office.ask("POST", "", body).json()["token"]["budget"]["amount"] == shown


def test_a_token_with_a_budget_makes_no_tokens(office):
    """Or each of them would have that budget once more."""
    mine, secret = office.token(created_by=office.owner, scopes=["admin:write"])
    make_budget(mine, "5")
    for budget in (None, {"amount": "1", "period": "never"}):
        body = {"name": "x", "scopes": ["user:read"], "budget": budget}
        answer = office.ask("POST", "", body, secret)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert answer.json()["error"]["message"] == "A token with a budget makes no other tokens"
    assert ApiToken.objects.count() == 2


@pytest.mark.parametrize("others", [None, "1", "100"])
def test_a_token_with_a_budget_gets_no_other_secret_and_widens_none(office, others):
    mine, secret = office.token(created_by=office.owner, scopes=["admin:write"])
    other, _ = office.token(created_by=office.owner, scopes=["user:read"])
    make_budget(mine, "5")
    if others:
        make_budget(other, others)
    refused = office.rotate(other, secret)
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "budget")
    wider = office.patch(other, secret, budget={"amount": 1000, "period": "daily"})
    assert wider.status_code == (403 if others else 200)  # from none to some is narrower
    assert office.patch(other, secret, budget=None).status_code == 403
    assert office.patch(other, secret, name="y").status_code == 200
    # itself it may rotate, and no more
    assert office.rotate(mine, secret).status_code == 200


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        (("5", "monthly"), ("5", "monthly"), True),
        (("5", "monthly"), ("4", "monthly"), True),
        (("5", "monthly"), ("5.000001", "monthly"), False),
        (("5", "monthly"), ("5", "never"), True),
        (("5", "monthly"), ("5", "weekly"), False),
        (("5", "monthly"), ("1", "daily"), False),
        (("5", "weekly"), ("5", "monthly"), False),  # a week may lie in two months
        (("5", "weekly"), ("5", "never"), True),
        (("5", "daily"), ("5", "weekly"), True),
        (("5", "daily"), ("5", "monthly"), True),
        (("5", "never"), ("5", "monthly"), False),
        (("5", "never"), ("4", "never"), True),
        (("5", "never"), None, False),
    ],
)
def test_a_token_only_narrows_its_own_budget(office, old, new, allowed):
    mine, secret = office.token(created_by=office.owner, scopes=["admin:write"])
    make_budget(mine, *old)
    budget = None if new is None else {"amount": new[0], "period": new[1]}
    answer = office.patch(mine, secret, budget=budget)
    assert answer.status_code == (200 if allowed else 403), answer.content
    if not allowed:
        assert answer.json()["error"]["param"] == "budget"
    assert office.patch(mine, budget=budget).status_code == 200  # who has none may


def test_a_list_asks_once_for_all_budgets(office, django_assert_num_queries):
    token, _ = office.token()
    make_budget(token, "1")
    office.ask("GET")  # from now on the caller is known
    with CaptureQueriesContext(connection) as before:
        first = office.ask("GET").json()["tokens"]
    for _ in range(2):
        make_budget(office.token()[0], "2")
    with django_assert_num_queries(len(before)):
        second = office.ask("GET").json()["tokens"]
    amounts = [one["budget"] and one["budget"]["amount"] for one in second]
    assert amounts == ["2.00", "2.00", "1.00", None]
    assert [one["budget"] and one["budget"]["amount"] for one in first] == ["1.00", None]
