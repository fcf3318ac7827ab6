"""Writing the ledger. Always called inside the transaction that ends the Job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from casola_site.core.insert import insert_rows
from usage.models import UNITS, Price, UsageRecord
from usage.pricing import Snapshot, amount_of
from usage.reservations import settle


@dataclass(frozen=True, slots=True)
class Consumption:
    """What one finished Job used; `charged` is False when its end was our fault."""

    job_id: str
    organization_id: int
    token_id: int | None
    user_id: int | None
    model_id: str
    task: str
    status: str
    units: Mapping[str, int]
    charged: bool
    at: datetime
    prices: Snapshot = field(default_factory=dict)


def price_snapshot(*, model_id: str, now: datetime) -> Snapshot:
    """The prices in force for a model: unit -> [amount, per]."""
    snapshot: Snapshot = {}
    rows = Price.objects.filter(model_id=model_id, valid_from__lte=now).order_by("valid_from", "pk")
    for row in rows:
        snapshot[row.unit] = [str(row.amount), row.per]
    return snapshot


def record_usage(consumptions: Iterable[Consumption]) -> None:
    """One UsageRecord each, counted on the budgets. Raises IntegrityError for a Job that has one."""
    rows = [_record(item) for item in consumptions]
    if rows:
        settle(rows)
        insert_rows(UsageRecord, rows)


def _record(item: Consumption) -> dict[str, Any]:
    units: dict[str, Any] = {unit: int(item.units.get(unit, 0)) for unit in UNITS}
    return {
        "job_id": item.job_id,
        "organization_id": item.organization_id,
        "token_id": item.token_id,
        "user_id": item.user_id,
        "model_id": item.model_id,
        "task": item.task,
        "status": str(item.status),
        "prices": item.prices,
        "amount": amount_of(units, item.prices) if item.charged else Decimal(0),
        "created_at": item.at,
        **units,
    }
