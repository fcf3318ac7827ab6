"""Models that another server serves: put one into the table, or have a model of it served there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction

from inference import hosting, weights
from inference.models import ModelSpec
from inference.runners.base import LoadError, RunnerConfig
from inference.runners.upstream import UpstreamRunner
from inference.runners.upstream_link import Access
from inference.weights import WeightsError


@dataclass(frozen=True, slots=True)
class Offer:
    """What an operator says of an upstream; empty tasks and aliases leave a known model's as they
    are. `options` are those of UpstreamRunner."""

    model_id: str
    source: str
    tasks: Sequence[str] = ()
    aliases: Sequence[str] = ()
    context: int | None = None
    slots: int = 256
    options: dict[str, Any] = field(default_factory=dict)


def check(offer: Offer) -> None:
    """Ask the upstream whether it answers, takes the key and has the model. Raises WeightsError."""
    runner = UpstreamRunner(
        RunnerConfig(
            offer.model_id,
            offer.source,
            slots=1,
            options=offer.options,
            tasks=tuple(offer.tasks) or tuple(_known_tasks(offer)),
        )
    )
    try:
        runner.load(lambda fraction, text: None)
    except LoadError as error:
        raise WeightsError(str(error)) from None


def _known_tasks(offer: Offer) -> list[str]:
    spec = ModelSpec.objects.filter(model_id__iexact=offer.model_id).first()
    return spec.tasks if spec else []


@transaction.atomic
def serve(offer: Offer, *, now: datetime) -> ModelSpec:
    """Have the model served by the upstream from now on; what served it before drains and leaves.

    Raises WeightsError for a new model without Tasks, and for a secret where it would be shown.
    """
    try:
        Access.of(offer.source, offer.options, model_id=offer.model_id)
    except LoadError as error:
        raise WeightsError(str(error)) from None
    spec = ModelSpec.objects.select_for_update().filter(model_id__iexact=offer.model_id).first()
    if spec is None:
        if not offer.tasks:
            raise WeightsError("A new model needs --task")
        spec = ModelSpec(model_id=offer.model_id)
    spec.engine, spec.device, spec.dtype = hosting.UPSTREAM, "cpu", "auto"
    spec.source, spec.revision, spec.manifest, spec.loaded_as = offer.source, "", {}, ""
    spec.tasks = list(offer.tasks) or spec.tasks
    spec.aliases = list(offer.aliases) or spec.aliases
    spec.context, spec.slots, spec.options = offer.context, offer.slots, offer.options
    spec.is_demo, spec.keep_loaded = False, True
    is_known = spec.pk is not None
    spec.save()
    if is_known:
        weights.stop_all(spec, reason="served by an upstream", now=now)
    return spec
