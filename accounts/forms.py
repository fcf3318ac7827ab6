"""Forms of the support console, and of the pages about an Organization and its members."""

from __future__ import annotations

from typing import Any

from django import forms

from accounts.models import INVITABLE, Plan, Role
from casola_site.core.budgets import MAX_AMOUNT, PLACES, Budget, BudgetPeriod
from casola_site.core.forms import OnceField, PageForm


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


class NameForm(PageForm):
    """A new Organization's name."""

    name = forms.CharField(max_length=120, help_text="People see it; it can be changed later.")


class OrganizationForm(NameForm):
    """Name and slug."""

    slug = forms.CharField(
        max_length=60, help_text="Short name for addresses: a-z, 0-9 and single hyphens."
    )


class InviteForm(PageForm):
    """Whom to invite, as what."""

    email = forms.EmailField(
        max_length=254,
        required=False,
        label="E-mail address",
        help_text="Gets the invite by mail. Leave it empty for a link that you pass on yourself.",
    )
    role = forms.ChoiceField(initial=Role.MEMBER)
    multi_use = forms.BooleanField(
        required=False, label="Several people may use the link", help_text="For links only."
    )
    max_uses = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=10_000,
        label="How many people at most",
        help_text="Empty: as many as come within seven days.",
    )
    once = OnceField()

    def __init__(self, *args: Any, role: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["role"].choices = role_choices(role, INVITABLE)  # type: ignore[attr-defined]


class RoleForm(PageForm):
    """A member's new role."""

    role = forms.ChoiceField(choices=Role.choices)


class ConfirmForm(PageForm):
    """Asks for a text to be typed before something that cannot be undone."""

    confirm = forms.CharField(
        max_length=254,
        required=False,
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}
        ),
    )

    def __init__(self, *args: Any, expected: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.expected = expected
        self.fields["confirm"].label = f"Type “{expected}” to confirm"
        self.fields["confirm"].required = True
        self.fields["confirm"].widget.attrs["data-confirm"] = expected

    def clean_confirm(self) -> str:
        """The very text, capitals aside."""
        typed = self.cleaned_data["confirm"].strip()
        if typed.casefold() != self.expected.strip().casefold():
            raise forms.ValidationError(f"This is not “{self.expected}”.", code="mismatch")
        return typed


def role_choices(granted_by: str, among: list[str]) -> list[tuple[str, str]]:
    """The roles that somebody of the role may give; only an Owner makes Owners."""
    return [
        (value, str(label))
        for value, label in Role.choices
        if value in among and (value != Role.OWNER or granted_by == Role.OWNER)
    ]


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
