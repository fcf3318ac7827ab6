"""What consumption costs (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

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
    return total.quantize(Decimal("0.000000001"))
