"""How many threads a step on a CPU is worth.

A decode step of few rows is bound by memory: past some number of threads it only waits for them,
and they are missing elsewhere (web processes, the database). What is enough is measured once, while
a model warms up. Long prompts always get all threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from inference.runners.attention import Chunk
from inference.runners.forward import Forward
from inference.runners.generation import Generation

MANY_TOKENS = 256
TRIES = 3
WORTH = 0.9  # more threads are taken where they need at most this share of the time


def enough_threads(step: Callable[[], object], most: int) -> int:
    """The threads, 1 to `most`, that a step is worth; doubles as long as that pays."""
    before = torch.get_num_threads()
    try:
        enough, seconds = 1, _seconds(step, 1)
        while enough < most:
            more = min(2 * enough, most)
            faster = _seconds(step, more)
            if faster > WORTH * seconds:
                break
            enough, seconds = more, faster
        return enough
    finally:
        torch.set_num_threads(before)


def _seconds(step: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    step()
    spent = []
    for _ in range(TRIES):
        began = time.perf_counter()
        step()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def threaded(forward: Forward, few: int) -> Forward:
    """The same forward with `few` threads for small steps; 0 means that nobody knows better."""
    many = torch.get_num_threads()
    return ThreadedForward(forward, few=few, many=many) if 0 < few < many else forward


class ThreadedForward:
    """Sets the number of threads before every step; the engine's thread alone is affected."""

    def __init__(self, forward: Forward, *, few: int, many: int) -> None:
        """`few` threads for decode steps and short prompts, `many` from MANY_TOKENS on."""
        self._forward = forward
        self._few = few
        self._many = many

    def run(
        self,
        decoding: Sequence[Generation],
        chunks: Sequence[Chunk],
        prefilling: Sequence[Generation],
        fed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See Forward."""
        tokens = len(decoding) + sum(chunk.count for chunk in chunks)
        torch.set_num_threads(self._many if tokens >= MANY_TOKENS else self._few)
        return self._forward.run(decoding, chunks, prefilling, fed)
