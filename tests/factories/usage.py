"""Prices, consumptions and budgets."""

from __future__ import annotations

from decimal import Decimal

from django.utils import timezone

from accounts.models import Organization
from casola_site.core import ids
from casola_site.core.budgets import Budget, BudgetPeriod
from tests.factories.jobs import MODEL, TASK
from tokens.models import ApiToken
from usage.budgets import follow_budget
from usage.models import BudgetCounter, Price
from usage.services import Consumption


def make_price(**columns) -> Price:
    """One dollar for every completion token."""
    return Price.objects.create(
        **{
            "model_id": MODEL,
            "unit": "completion_tokens",
            "amount": Decimal(1),
            "per": 1,
            **columns,
        }
    )


def make_consumption(organization: Organization, **columns) -> Consumption:
    """One completion token of a completed Job."""
    return Consumption(
        organization_id=organization.pk,
        **{
            "job_id": str(ids.job_id()),
            "token_id": None,
            "user_id": None,
            "model_id": MODEL,
            "task": TASK,
            "status": "completed",
            "units": {"completion_tokens": 1},
            "charged": True,
            "at": timezone.now(),
            **columns,
        },
    )


def make_budget(
    owner: Organization | ApiToken, amount: str = "1", period: str = "never", now=None
) -> BudgetCounter:
    """A budget of an Organization or a token, as its services set it; returns its counter."""
    budget = Budget(Decimal(amount), BudgetPeriod(period))
    owner.budget_amount, owner.budget_period = budget.amount, budget.period
    owner.save(update_fields=["budget_amount", "budget_period"])
    is_token = isinstance(owner, ApiToken)
    organization = owner.organization if is_token else owner
    token = owner if is_token else None
    follow_budget(organization=organization, token=token, budget=budget, now=now or timezone.now())
    return BudgetCounter.objects.get(organization=organization, token=token)
