"""The form of an Organization's budget."""

from __future__ import annotations

from casola_site.core.forms import BudgetFields


class BudgetForm(BudgetFields):
    """What all tokens of the Organization together may spend."""
