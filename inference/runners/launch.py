"""A step that has been started: whose tokens it chooses, and how to read them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from inference.runners.generation import Generation
from inference.runners.logprobs import StepLogprobs


class Reading:
    """Chosen tokens on their way from the device to the host."""

    def __init__(self, chosen: torch.Tensor) -> None:
        """`chosen` is `[rows]`, int64, -1 where a row's numbers were invalid; the copy starts now."""
        self.chosen = chosen
        self._event: torch.cuda.Event | None = None
        if chosen.device.type != "cuda":
            self._host = chosen
            return
        self._host = torch.empty(chosen.shape, dtype=chosen.dtype, pin_memory=True)
        self._host.copy_(chosen, non_blocking=True)
        # blocking: the waiting thread sleeps; the next step is queued by then, so nothing idles
        self._event = torch.cuda.Event(blocking=True)
        self._event.record(torch.cuda.current_stream(chosen.device))

    def tokens(self) -> list[int | None]:
        """The tokens; None for -1. Waits for the device."""
        if self._event is not None:
            self._event.synchronize()
        return [None if token < 0 else token for token in self._host.tolist()]


@dataclass(frozen=True, slots=True)
class Launched:
    """`due` are the choices that get a token each; `failed` those whose processors failed.

    `raw` is there where log probabilities are asked for; `shares` is how many of the step's tokens
    each choice had; `began` is of time.perf_counter.
    """

    due: Sequence[Generation]
    reading: Reading
    raw: StepLogprobs | None
    failed: Collection[Generation]
    shares: Sequence[tuple[Generation, int]]
    began: float

    def share_time(self, spent: float) -> None:
        """Charge each choice for its part of the step's seconds."""
        per_token = spent / sum(count for _, count in self.shares)
        for generation, count in self.shares:
            generation.compute_s += per_token * count
