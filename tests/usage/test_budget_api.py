"""The budget route: shape, refusals, roles, the audit, and what counts from the next request on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEvent, Organization, Role, User
from casola_site.core import ids, stamps
from casola_site.core.budgets import Budget, BudgetPeriod
from tests.factories.accounts import make_member, make_organization
from tests.factories.tokens import make_token
from tests.factories.usage import make_budget, make_consumption
from tests.tokens.test_changes import load
from usage.api import views
from usage.models import BudgetCounter
from usage.reservations import reserve
from usage.services import record_usage

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
MONTHLY = {"amount": "12.50", "period": "monthly"}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(views, "now", lambda: NOW)


def ask(organization, secret, method="GET", body=None):
    return Client(raise_request_exception=False).generic(
        method,
        f"/api/organizations/{organization.public_id}/budget",
        data="" if body is None else json.dumps(body),
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}"},
    )


@pytest.fixture
def owned():
    """(organization, an Owner's secret)."""
    organization = make_organization()
    owner = make_member(organization=organization)
    _, secret = make_token(organization=organization, created_by=owner, scopes=["admin:write"])
    return organization, secret


def test_a_budget_is_set_shown_and_lifted(owned):
    organization, secret = owned
    assert ask(organization, secret).json() == {"budget": None}
    record_usage(
        [make_consumption(organization, prices={"completion_tokens": ["0.25", 1]}, at=NOW)]
    )

    made = ask(organization, secret, "PUT", MONTHLY)
    reserve(
        job_id=str(ids.job_id()), organization_id=organization.pk, token_id=None, now=NOW,
        ceiling=Decimal("2.000000001"), expires_at=NOW,
    )  # fmt: skip

    shown = {
        "amount": "12.50", "currency": "USD", "period": "monthly", "spent": "0.25",
        "reserved": "0.00", "remaining": "12.25", "resets_at": 1796083200, "alerts": [],
    }  # fmt: skip
    assert (made.status_code, made.json()) == (200, {"budget": shown})
    assert ask(organization, secret).json()["budget"] == {
        **shown, "reserved": "2.000000001", "remaining": "10.249999999",
    }  # fmt: skip
    assert ask(organization, secret, "DELETE").json() == {"budget": None}
    assert ask(organization, secret, "DELETE").json() == {"budget": None}
    assert not BudgetCounter.objects.exists()


def test_what_is_shown_is_of_the_present_period(owned, monkeypatch):
    organization, secret = owned
    make_budget(organization, "1", "daily", now=NOW)
    record_usage([make_consumption(organization, prices={"completion_tokens": ["0.9", 1]}, at=NOW)])
    told = ask(organization, secret).json()["budget"]
    assert (told["spent"], [alert["threshold"] for alert in told["alerts"]]) == ("0.90", [50, 80])
    assert told["alerts"][0] == {
        "threshold": 50, "refused": False, "created_at": int(NOW.timestamp()), "mailed_at": None,
    }  # fmt: skip
    monkeypatch.setattr(views, "now", lambda: NOW + timedelta(days=1))
    told = ask(organization, secret).json()["budget"]
    assert (told["spent"], told["remaining"], told["alerts"]) == ("0.00", "1.00", [])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "amount"),
        ({"amount": "5"}, "period"),
        ({"amount": "0", "period": "daily"}, "amount"),
        ({"amount": "5", "period": 1}, "period"),
        ({"amount": None, "period": "daily"}, "amount"),
    ],
)
def test_what_is_no_budget_is_refused(owned, body, param):
    answer = ask(*owned, "PUT", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not BudgetCounter.objects.exists()


def test_it_is_told_once_and_counts_from_the_next_request(
    owned, django_capture_on_commit_callbacks
):
    organization, secret = owned
    assert load(secret).organization_has_budget is False
    before = stamps.current(organization.public_id)
    with django_capture_on_commit_callbacks(execute=True):
        ask(organization, secret, "PUT", MONTHLY)
    assert stamps.current(organization.public_id) != before
    assert load(secret).organization_has_budget is True
    ask(organization, secret, "PUT", {"amount": 12.5, "period": "monthly"})
    ask(organization, secret, "DELETE")
    [made, lifted] = AuditEvent.objects.order_by("pk")
    budget = {"amount": "12.50", "period": "monthly"}
    assert {made.action, lifted.action} == {"organization.budget_changed"}
    assert (made.data, lifted.data) == (
        {"old": None, "new": budget},
        {"old": budget, "new": None},
    )
    assert made.target == organization.public_id


ROLES = [
    # (role, scope) -> status of GET, PUT, DELETE
    (Role.OWNER, "admin:write", (200, 200, 200)),
    (Role.ADMIN, "admin:write", (200, 200, 200)),
    (Role.OWNER, "admin:read", (200, 403, 403)),
    (Role.OWNER, "user:write", (403, 403, 403)),
    (Role.MEMBER, "admin:write", (403, 403, 403)),
    (Role.VIEWER, "admin:write", (403, 403, 403)),
    (Role.DISABLED, "admin:write", (401, 401, 401)),
    (None, "admin:write", (200, 200, 200)),  # a service account counts as Admin
    (None, "admin:read", (200, 403, 403)),
]


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize(("role", "scope", "statuses"), ROLES)
def test_every_role_at_its_own_and_at_anothers(role, scope, statuses, is_own):
    organization, other = make_organization(), make_organization()
    user = make_member(organization=organization, role=role) if role else None
    _, secret = make_token(organization=organization, created_by=user, scopes=[scope])
    make_budget(organization, "1")
    make_budget(other, "1")
    wanted = organization if is_own else other
    found = tuple(
        ask(wanted, secret, method, MONTHLY if method == "PUT" else None).status_code
        for method in ("GET", "PUT", "DELETE")
    )
    if is_own:
        assert found == statuses
    else:
        assert found == tuple(404 if status == 200 else status for status in statuses)
        other.refresh_from_db()
        assert other.budget == Budget(Decimal(1), BudgetPeriod.NEVER)


# -- support staff --------------------------------------------------------------------------------


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root@example.com", "a long password"))
    return client


def test_staff_change_a_budget_with_a_reason(staff):
    organization = make_organization()
    page = reverse("admin:accounts_organization_budget", args=[organization.pk])
    assert staff.get(page).status_code == 200
    form = {"amount": "7.5", "period": "weekly", "reason": "agreed by phone"}
    assert staff.post(page, form).status_code == 302
    organization.refresh_from_db()
    assert organization.budget == Budget(Decimal("7.5"), BudgetPeriod.WEEKLY)
    assert BudgetCounter.objects.get().amount == 7_500_000_000
    event = AuditEvent.objects.get()
    assert (event.action, event.actor_kind, event.reason) == (
        "organization.budget_changed", "staff", "agreed by phone",
    )  # fmt: skip
    for wrong in ({"amount": "0"}, {"amount": "-1"}, {"amount": "x"}, {"reason": ""}):
        answer = staff.post(page, {**form, **wrong})
        assert (answer.status_code, "errorlist" in answer.content.decode()) == (200, True), wrong
    assert staff.post(page, {"amount": "", "period": "never", "reason": "over"}).status_code == 302
    assert Organization.objects.get(pk=organization.pk).budget is None
