"""Bodies that hold a budget: an Organization's or a token's."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from accounts.api.serializers import StrictChoiceField
from casola_site.core.budgets import MAX_AMOUNT, PLACES, Budget, BudgetPeriod
from casola_site.core.fields import StrictSerializer

AMOUNT = re.compile(rf"[0-9]{{1,10}}(\.[0-9]{{1,{PLACES}}})?", re.ASCII)


@extend_schema_field(
    {
        "oneOf": [{"type": "string", "example": "12.50"}, {"type": "number"}],
        "description": f"A decimal number above 0, as text or number, of at most {PLACES} places",
    }
)
class AmountField(serializers.Field):
    """Money: a decimal text or a JSON number."""

    default_error_messages = {
        "invalid": f"must be a decimal number of at most {PLACES} places",
        "range": f"must be above 0 and at most {MAX_AMOUNT}",
    }

    def to_internal_value(self, data: Any) -> Decimal:
        """Exactly what was written: a number is taken as its shortest text."""
        if isinstance(data, bool) or not isinstance(data, str | int | float):
            self.fail("invalid")
        text = data if isinstance(data, str) else format(Decimal(repr(data)), "f")
        if isinstance(data, int | float) and data <= 0:
            self.fail("range")
        if not AMOUNT.fullmatch(text.removesuffix(".0")):
            self.fail("invalid")
        value = Decimal(text)
        if not 0 < value <= MAX_AMOUNT:
            self.fail("range")
        return value

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


class BudgetSerializer(StrictSerializer):
    """At most so much in each period of UTC's calendar; weeks begin on Monday."""

    amount = AmountField()
    period = StrictChoiceField(BudgetPeriod.values)

    def validate(self, attrs: dict[str, Any]) -> Any:
        """As a Budget."""
        return Budget(attrs["amount"], BudgetPeriod(attrs["period"]))


class BudgetStateSerializer(serializers.Serializer):
    """How a budget stands: the counter that decides whether a request is let in."""

    amount = serializers.CharField(help_text="a decimal number")
    currency = serializers.CharField()
    period = serializers.CharField(help_text=", ".join(BudgetPeriod.values))
    spent = serializers.CharField(help_text="charged in the present period")
    reserved = serializers.CharField(help_text="held back for requests under way")
    remaining = serializers.CharField(help_text="what a further request may cost")
    resets_at = serializers.IntegerField(allow_null=True)
