"""The page of limits and the budget."""

from __future__ import annotations

from decimal import Decimal

import pytest

from accounts.models import AuditEvent, Organization, Role
from casola_site.core.budgets import Budget, BudgetPeriod
from tests.factories.accounts import make_organization, make_plan
from tests.factories.jobs import make_job
from tests.factories.usage import make_budget, make_consumption
from tests.pages import Page, visitor
from usage.services import record_usage

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
PATH = "/settings/limits"


def budget_of(client) -> Budget | None:
    return Organization.objects.get(pk=client.organization.pk).budget


def test_a_budget_is_set_and_lifted():
    admin = visitor(Role.ADMIN)

    response = admin.post(PATH, {"budget_amount": "100", "budget_period": "monthly"})

    assert (response.status_code, response["Location"]) == (302, PATH)
    assert budget_of(admin) == Budget(Decimal(100), BudgetPeriod.MONTHLY)
    admin.post(PATH, {"budget_amount": "", "budget_period": "monthly"})
    assert budget_of(admin) is None
    assert AuditEvent.objects.filter(organization=admin.organization).count() == 2


@pytest.mark.parametrize("amount", ["0", "-1", "0.0000001", "much"])
def test_a_budget_that_cannot_be(amount):
    admin = visitor(Role.ADMIN)

    response = admin.post(PATH, {"budget_amount": amount, "budget_period": "monthly"})

    assert response.status_code == 400
    assert "id_budget_amount_error" in Page(response.content.decode()).ids
    assert budget_of(admin) is None


def test_a_member_looks_and_changes_nothing():
    member = visitor(Role.MEMBER)

    assert "budget_amount" not in member.get(PATH).content.decode()
    assert member.post(PATH, {"budget_amount": "1", "budget_period": "never"}).status_code == 403
    assert budget_of(member) is None


def test_the_page_shows_what_is_spent():
    viewer = visitor(Role.VIEWER)
    record_usage([make_consumption(viewer.organization, prices={"completion_tokens": ["0.75", 1]})])
    make_budget(viewer.organization, "1.00", "monthly")

    page = viewer.get(PATH).content.decode()

    for words in ("0.75 / 1.00", 'value="75"', "starts afresh"):
        assert words in page


def test_the_page_shows_what_is_used_of_the_limits():
    plan = make_plan(name="Tiny", api_requests_per_minute=60, max_queued_jobs=5)
    viewer = visitor(Role.VIEWER, make_organization(plan=plan))
    for _ in range(3):
        make_job(organization=viewer.organization)

    shown = {words: row for words, row, _ in viewer.get(PATH).context["standings"]}

    assert (shown["API requests"].used, shown["API requests"].value) == (0, 60)
    assert (shown["Jobs queued"].used, shown["Jobs queued"].value) == (3, 5)
    assert shown["Job submissions"].value is None
