"""What consumption costs (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

NANO = Decimal("0.000000001")
Snapshot = dict[str, list[str | int]]  # unit -> [amount, per]


def amount_of(units: Mapping[str, int], prices: Mapping[str, Any]) -> Decimal:
    """The sum over all units of `units * amount / per`, to nine places; unpriced units are free.

    Cached prompt tokens are part of prompt_tokens: where they have their own price they are
    charged by that one alone.
    """
    counts = dict(units)
    if "cached_tokens" in prices and "prompt_tokens" in counts:
        counts["prompt_tokens"] = max(0, counts["prompt_tokens"] - counts.get("cached_tokens", 0))
    total = Decimal(0)
    for unit, (amount, per) in prices.items():
        count = counts.get(unit, 0)
        if count:
            total += Decimal(count) * Decimal(str(amount)) / Decimal(per)
    return total.quantize(NANO)


def ceiling_of(most: Mapping[str, int], prices: Mapping[str, Any]) -> Decimal:
    """The most that `amount_of` can come to when no unit exceeds `most`, to nine places.

    Raises KeyError for a priced unit that `most` does not bound.
    """
    each = {unit: Decimal(str(amount)) / Decimal(per) for unit, (amount, per) in prices.items()}
    cached = each.pop("cached_tokens", None)
    if cached is not None:  # a cached token is paid instead of a prompt token
        each["prompt_tokens"] = max(cached, each.get("prompt_tokens", Decimal(0)))
    total = sum((most[unit] * price for unit, price in each.items()), Decimal(0))
    return total.quantize(NANO, rounding=ROUND_CEILING)
