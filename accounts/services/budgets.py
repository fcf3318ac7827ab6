"""Giving an Organization a budget, changing and lifting it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.module_loading import import_string

from accounts.actors import Actor
from accounts.models import Organization
from accounts.services import authority
from accounts.services.audit import Action, record
from accounts.services.organizations import MAX_REASON, check_text
from casola_site.core.budgets import Budget, BudgetPeriod, plain


@transaction.atomic
def change_budget(
    *,
    organization: Organization,
    budget: Budget | None,
    by: Actor,
    now: datetime,
    reason: str = "",
) -> Organization:
    """What all tokens of the Organization together may spend, from the next request on.

    None lifts it; what is the same already changes nothing. Raises RoleTooLow, or InvalidRequest
    for an odd reason.
    """
    if reason:
        reason = check_text(reason, limit=MAX_REASON, param="reason")
    organization = authority.lock_alone(organization)
    authority.manager_role(by, organization)
    old = organization.budget
    if budget == old:
        return organization
    organization.budget_amount, organization.budget_period = budget_columns(budget)
    organization.save(update_fields=["budget_amount", "budget_period"])
    # The counter belongs to an app above this one.
    follow = import_string(settings.BUDGET_CHANGED)
    follow(organization=organization, token=None, budget=budget, now=now)
    record(
        by=by,
        action=Action.BUDGET_CHANGED,
        organization=organization,
        now=now,
        target=organization.public_id,
        target_name=organization.name,
        reason=reason,
        data={"old": told(old), "new": told(budget)},
    )
    authority.renew_stamp(organization)
    return organization


def budget_columns(budget: Budget | None) -> tuple[Any, str]:
    """A budget as `budget_amount` and `budget_period`."""
    return (None, BudgetPeriod.NEVER) if budget is None else (budget.amount, budget.period)


def told(budget: Budget | None) -> dict[str, str] | None:
    """What the audit keeps of it."""
    if budget is None:
        return None
    return {"amount": plain(budget.amount), "period": str(budget.period)}
