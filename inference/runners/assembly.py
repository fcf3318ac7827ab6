"""Puts together what a family of models needs: attention, cache and forward."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from inference.runners.attention import IMPLEMENTATION
from inference.runners.cuda_setup import GpuSwitches, layout_on, packed_forward
from inference.runners.families import HYBRID, PLAIN, Family
from inference.runners.forward import Forward, RaggedForward
from inference.runners.hybrid import split_mixers
from inference.runners.plain import PlainForward, RowCaches
from inference.runners.slots import CacheLayout, SlotCache
from inference.runners.states import StateSlotCache
from inference.runners.vision import SeeingForward


def prepare(model: PreTrainedModel, family: Family) -> None:
    """Have a freshly loaded model run within engine steps."""
    if family.engine == PLAIN:
        return
    text = model.config.get_text_config(decoder=True)
    if text is model.config:
        model.set_attn_implementation(IMPLEMENTATION)
    else:  # the vision part keeps its own attention
        model.set_attn_implementation({"text_config": IMPLEMENTATION})
    if family.engine == HYBRID:
        split_mixers(model)


def make_cache(family: Family, layout: CacheLayout, **limits: Any) -> SlotCache:
    """The cache of the family's engine; `limits` as in SlotCache.

    On a GPU all of it is taken at once: graphs of its tensors are dear.
    """
    layout = layout_on(family, layout)
    limits.setdefault("whole", layout.positions_first)
    if family.engine == PLAIN:
        return RowCaches(layout, **limits)
    if layout.states:
        return StateSlotCache(layout, **limits)
    return SlotCache(layout, **limits)


def make_forward(
    family: Family, model: PreTrainedModel, cache: SlotCache, switches: GpuSwitches | None = None
) -> Forward:
    """The forward of the family's engine over a cache that `make_cache` made."""
    if isinstance(cache, RowCaches):
        return PlainForward(model, cache)
    if family.takes_images:
        return SeeingForward(model, cache)
    if cache.layout.positions_first:
        return packed_forward(model, cache, switches or GpuSwitches())
    return RaggedForward(model, cache)
