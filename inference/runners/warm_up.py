"""The first steps of a freshly loaded model: everything is set up, and memory is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from inference.contracts.chat import Sampling
from inference.runners.answers import PlainAnswer
from inference.runners.assembly import make_cache, make_forward
from inference.runners.attention import Chunk
from inference.runners.cuda_setup import GpuSwitches
from inference.runners.device import resident_bytes
from inference.runners.families import PLAIN, Family
from inference.runners.generation import Generation
from inference.runners.sampling import Choice, SamplingDefaults
from inference.runners.slots import LENGTH_STEP, CacheLayout, round_up
from inference.runners.text import TextStream
from inference.runners.threads import enough_threads


@dataclass(frozen=True, slots=True)
class Peaks:
    """Bytes taken beyond weights and cache, by the larger of both kinds of step and by decoding.

    `threads` are what a decode step on a CPU is worth; 0 where that was not measured.
    """

    step: int = 0
    decode: int = 0
    threads: int = 0


def warm_up(
    model: PreTrainedModel,
    family: Family,
    layout: CacheLayout,
    switches: GpuSwitches,
    *,
    slots: int,
    tokens: int,
) -> Peaks:
    """Run a prompt part of `tokens` and a decode step of `slots` rows, without graphs.

    On a CPU only what the process keeps afterwards can be seen. A model of the plain engine is
    only tried out; what it takes is left to the estimate.
    """
    if family.engine == PLAIN:
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=model.device))
        return Peaks()
    room = max(round_up(tokens, LENGTH_STEP), slots * LENGTH_STEP)
    budget = room * layout.bytes_per_token + slots * layout.state_bytes
    cache = make_cache(family, layout, slots=slots, context=tokens, budget=budget)
    forward = make_forward(family, model, cache, replace(switches, cuda_graphs=False))
    prompt, rows = _request([0] * tokens), [_request([0]) for _ in range(slots)]
    try:
        row = cache.take(tokens)
        prefill = _measured(layout.device, forward, [], [Chunk(row, 0, tokens)], [prompt])
        cache.reset()
        for _ in range(min(slots, cache.slots)):
            cache.take(1)
        decoding = rows[: cache.rows]
        decode = _measured(layout.device, forward, decoding, [], [])
        threads = 0
        if layout.device.type == "cpu" and not cache.layout.positions_first:
            with torch.inference_mode():
                most = torch.get_num_threads()
                threads = enough_threads(lambda: forward.run(decoding, [], []), most)
    finally:
        cache.free()
    return Peaks(max(prefill, decode), decode, threads)


def _measured(device: torch.device, forward: Any, *step: Any) -> int:
    """Bytes one step takes beyond what is held before it."""
    if device.type != "cuda":
        before = resident_bytes()
        with torch.inference_mode():
            forward.run(*step)
        return max(0, resident_bytes() - before)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_reserved(device)
    with torch.inference_mode():
        forward.run(*step)
    torch.cuda.synchronize(device)
    return max(0, torch.cuda.max_memory_reserved(device) - held)


class _NoText:
    def push(self, token: int) -> str:
        return ""


def _request(prompt: list[int]) -> Generation:
    choice = Choice(Sampling(temperature=0.0), SamplingDefaults())
    return Generation("warm-up", prompt, 1, choice, PlainAnswer(TextStream(_NoText())))
