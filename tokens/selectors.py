"""Which tokens a member may see, what they may do with one, and how its budget stands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.conf import settings
from django.db.models import QuerySet
from django.utils.module_loading import import_string

from accounts.models import Membership, Role
from casola_site.core.budgets import BudgetState
from casola_site.core.ids import can_be_id
from tokens.models import ApiToken

MANAGERS = frozenset({Role.OWNER, Role.ADMIN})


def tokens_seen_by(membership: Membership) -> QuerySet[ApiToken]:
    """All of the Organization for Owners and Admins, their own for everybody else."""
    tokens = ApiToken.objects.select_related("created_by", "organization").filter(
        organization_id=membership.organization_id
    )
    if membership.role in MANAGERS:
        return tokens
    return tokens.filter(created_by_id=membership.user_id, is_service_account=False)


def find_seen(membership: Membership, token_id: str) -> ApiToken | None:
    """One of those, by its public id."""
    if not can_be_id(token_id):
        return None
    return tokens_seen_by(membership).filter(public_id=token_id).first()


def is_theirs(membership: Membership, token: ApiToken) -> bool:
    """Whether the member may change and rotate it: their own, and for managers service accounts."""
    if token.is_service_account:
        return membership.role in MANAGERS
    return token.created_by_id == membership.user_id


def onboarding_token(membership: Membership) -> ApiToken | None:
    """The token that was made for the member when they arrived."""
    return ApiToken.objects.filter(
        organization_id=membership.organization_id,
        created_by_id=membership.user_id,
        is_onboarding=True,
    ).first()


def budget_states(tokens: Sequence[ApiToken], now: datetime) -> dict[int, BudgetState]:
    """How the budgets of those tokens stand that have one, by primary key.

    The counters belong to an app above this one (settings.BUDGET_STATES).
    """
    budgeted = [token for token in tokens if token.budget is not None]
    return import_string(settings.BUDGET_STATES)(budgeted, now) if budgeted else {}
