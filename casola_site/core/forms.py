"""Forms of the dashboard: what a service refuses shows at the field it is about."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, ClassVar, TypeVar

from django import forms
from django.http import HttpRequest, QueryDict

from casola_site.core.budgets import (
    CURRENCY,
    MAX_AMOUNT,
    PLACES,
    Budget,
    BudgetPeriod,
    budget_of,
)
from casola_site.core.errors import ApiError
from casola_site.core.ids import random_text

T = TypeVar("T")


def posted(request: HttpRequest) -> QueryDict | None:
    """What a form is bound to: what was posted, be it nothing, and None before that."""
    return request.POST if request.method == "POST" else None


class PageForm(forms.Form):
    """A form whose fields' names are those of the service's parameters, or are told by `params`."""

    params: ClassVar[dict[str, str]] = {}
    """A service's parameter -> the field that it comes from."""

    def refuse(self, error: ApiError) -> None:
        """Show the error at its field, else above the form."""
        name = self.params.get(error.param or "", error.param)
        self.add_error(name if name in self.fields else None, error.message)

    def carry_out(self, service: Callable[..., T], **arguments: Any) -> T | None:
        """What the service returns; None when it refuses, and the form then says why."""
        try:
            return service(**arguments)
        except ApiError as error:
            self.refuse(error)
            return None


class BudgetFields(PageForm):
    """An amount and how often it starts afresh; without an amount there is no budget."""

    params = {"amount": "budget_amount", "budget": "budget_amount", "period": "budget_period"}

    budget_amount = forms.DecimalField(
        required=False,
        min_value=Decimal(1).scaleb(-PLACES),
        max_value=MAX_AMOUNT,
        decimal_places=PLACES,
        label=f"Budget in {CURRENCY}",
        help_text="What it may spend at most. Empty: no budget of its own.",
    )
    budget_period = forms.ChoiceField(
        label="The budget starts afresh",
        choices=[
            (BudgetPeriod.NEVER, "never"),
            (BudgetPeriod.DAILY, "every day"),
            (BudgetPeriod.WEEKLY, "every week, on Monday"),
            (BudgetPeriod.MONTHLY, "every month"),
        ],
        initial=BudgetPeriod.MONTHLY,
        help_text="In UTC.",
    )

    def budget(self) -> Budget | None:
        """What was entered."""
        return budget_of(self.cleaned_data["budget_amount"], self.cleaned_data["budget_period"])


class OnceField(forms.CharField):
    """A random text that makes a form sent twice (a reload) the same request."""

    widget = forms.HiddenInput

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=64, initial=lambda: random_text(22), **options)
