"""What is shown of tokens beyond their own columns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.conf import settings
from django.utils.module_loading import import_string

from casola_site.core.budgets import BudgetState
from tokens.models import ApiToken


def budget_states(tokens: Sequence[ApiToken], now: datetime) -> dict[int, BudgetState]:
    """How the budgets of those tokens stand that have one, by primary key.

    The counters belong to an app above this one (settings.BUDGET_STATES).
    """
    budgeted = [token for token in tokens if token.budget is not None]
    return import_string(settings.BUDGET_STATES)(budgeted, now) if budgeted else {}
