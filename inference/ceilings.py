"""The most that a request may cost: what its budgets hold back for it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from inference.contracts.bounds import Limits, most_units
from inference.contracts.surfaces import MEDIA_TASKS, TEXT_TASKS, WHOLE_TASKS
from inference.deadlines import cancel_grace, start_to_close
from usage.pricing import ceiling_of
from usage.services import price_snapshot

if TYPE_CHECKING:
    from inference.selectors import Model


def cost_ceiling(*, model: Model, task: str, contract: dict[str, Any], now: datetime) -> Decimal:
    """For an engine's input, at the prices of the moment."""
    prices = price_snapshot(model_id=model.model_id, now=now)
    if not prices:
        return Decimal(0)
    seconds = start_to_close(task) + cancel_grace(task)
    limits = Limits(model.context, model.image_tokens, seconds * 1000)
    return ceiling_of(most_units(task, contract, limits), prices)


def body_ceiling(*, model: Model, task: str, body: dict[str, Any], now: datetime) -> Decimal:
    """For a Job's input, which is the body of the Task's own surface."""
    surface = TEXT_TASKS.get(task) or MEDIA_TASKS.get(task) or WHOLE_TASKS.get(task)
    contract = body if surface is None else surface.from_body(body).as_dict()
    return cost_ceiling(model=model, task=task, contract=contract, now=now)
