"""What a GPU changes about an engine, and the switches for it.

Switches are in RunnerConfig.options, all on by default: `varlen` (attention by varlen_attn),
`cuda_graphs` (decode steps replayed), `pipelined` (tokens read one step late). They change speed
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from inference.runners.base import LoadError, RunnerConfig
from inference.runners.cuda_attention import usable_varlen
from inference.runners.cuda_forward import CudaGraphs, GraphForward, PackedForward
from inference.runners.families import PLAIN, Family
from inference.runners.pipelined_engine import PipelinedEngine
from inference.runners.slots import CacheLayout, SlotCache
from inference.runners.token_engine import TokenEngine

USUAL_LONGEST = 2048
GRAPH_BYTES = 1024 * 1024  # of a captured graph itself: its kernels and their arguments
WORKSPACE_BYTES = 32 * 1024 * 1024  # what cuBLAS takes for each stream on large GPUs


@dataclass(frozen=True, slots=True)
class GpuSwitches:
    """See the module's text."""

    varlen: bool = True
    cuda_graphs: bool = True
    pipelined: bool = True

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> GpuSwitches:
        """Those of RunnerConfig.options. Raises LoadError for anything but true and false."""
        given = {name: options[name] for name in cls.__dataclass_fields__ if name in options}
        for name, value in given.items():
            if not isinstance(value, bool):
                raise LoadError(f"the option {name} must be true or false")
        return cls(**given)


def is_packed(family: Family, device: torch.device) -> bool:
    """Whether this family's cache has positions before heads there, for PackedForward.

    Models that take images stay with RaggedForward, which knows about them.
    """
    return device.type == "cuda" and family.engine != PLAIN and not family.takes_images


def layout_on(family: Family, layout: CacheLayout) -> CacheLayout:
    """The layout as the family's engine wants it on its device."""
    return replace(layout, positions_first=is_packed(family, layout.device))


def packed_forward(
    model: torch.nn.Module, cache: SlotCache, switches: GpuSwitches
) -> PackedForward:
    """The forward for a cache with positions before heads.

    Recurrent layers change their states in place, padding rows included, so hybrid models run
    without graphs.
    """
    varlen = usable_varlen(cache.layout) if switches.varlen else None
    if switches.cuda_graphs and not cache.layout.states:
        return GraphForward(model, cache, varlen, CudaGraphs(cache.layout.device))
    return PackedForward(model, cache, varlen)


def engine_class(cache: SlotCache, switches: GpuSwitches) -> type[TokenEngine]:
    """Pipelined where steps are launched on a GPU without waiting for it."""
    return PipelinedEngine if cache.layout.positions_first and switches.pipelined else TokenEngine


def graph_room(
    family: Family,
    config: RunnerConfig,
    vocabulary: int,
    dtype: torch.dtype,
    decode_peak: int = 0,
) -> int:
    """Bytes to leave for graphs, where there will be any.

    One pool as large as the largest decode step (`decode_peak`), a workspace of its own for matrix
    products, the logits of all slots, and the graphs: a few spans for each power of two of rows.
    """
    switches = GpuSwitches.of(config.options)
    if not switches.cuda_graphs or not is_packed(family, torch.device(config.device)):
        return 0
    graphs = 4 * (config.slots.bit_length() + 1)
    logits = config.slots * vocabulary * dtype.itemsize
    return decode_peak + WORKSPACE_BYTES + logits + graphs * GRAPH_BYTES


def capture(forward: object) -> None:
    """Capture what decoding will need, if `forward` does such a thing. Some seconds."""
    if isinstance(forward, GraphForward):
        with torch.inference_mode():
            forward.warm_up(USUAL_LONGEST)


def room_on(device: torch.device, workspace: int) -> int:
    """Bytes a cache may take on a GPU now: what is free, or kept by torch unused, less a margin."""
    free, total = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept - workspace - total // 50
