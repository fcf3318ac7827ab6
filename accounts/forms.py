"""Forms of the support console."""

from __future__ import annotations

from typing import Any

from django import forms

from accounts.models import Plan
from casola_site.core.budgets import MAX_AMOUNT, PLACES, Budget, BudgetPeriod


class ReasonForm(forms.Form):
    """Why; the audit keeps it and the Organization's Admins read it."""

    reason = forms.CharField(
        max_length=500,
        help_text="Kept in the audit, which the organization's Admins can read",
        widget=forms.TextInput(attrs={"class": "vTextField"}),
    )


class PlanForm(ReasonForm):
    """Which Plan, and why."""

    plan_code = forms.ModelChoiceField(
        Plan.objects.order_by("pk"), to_field_name="code", label="Plan", empty_label=None
    )
    field_order = ("plan_code", "reason")

    def clean_plan_code(self) -> str:
        """The service takes the code."""
        return self.cleaned_data["plan_code"].code


class BudgetForm(ReasonForm):
    """What the Organization may spend, and why; without an amount its budget is lifted."""

    amount = forms.DecimalField(
        required=False,
        min_value=0,
        max_value=MAX_AMOUNT,
        decimal_places=PLACES,
        help_text="USD; empty: no budget",
    )
    period = forms.ChoiceField(choices=BudgetPeriod.choices, initial=BudgetPeriod.MONTHLY)
    field_order = ("amount", "period", "reason")

    def clean(self) -> dict[str, Any]:
        """The service takes a Budget."""
        values = super().clean() or self.cleaned_data
        amount, period = values.get("amount"), values.get("period")
        if amount is not None and not amount:
            self.add_error("amount", "must be above 0")
        budget = Budget(amount, BudgetPeriod(period)) if amount and period else None
        return {"reason": values.get("reason", ""), "budget": budget}
