"""Forms of the support console."""

from __future__ import annotations

from django import forms

from accounts.models import Plan


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
