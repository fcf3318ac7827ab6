"""The TokenEngine for a GPU: a step is launched before the tokens of the one before are read.

The tokens just chosen are fed to the next step where they are, on the device; while it runs, the
host reads them, detokenises, and sends them out. Whether an answer ended with them is therefore
known one step late: a row that did has one token too many in the step already running, which is
dropped. What the host must see before the next choice (penalties, grammars, log probabilities)
makes a step synchronous, as long as any running request asks for it.

The answers are those of the TokenEngine: each row draws its random numbers in the same order, and
the surplus one belongs to an answer that is over.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from inference.runners.base import Event
from inference.runners.device import to_device
from inference.runners.generation import Generation
from inference.runners.launch import Launched
from inference.runners.token_engine import TokenEngine


class PipelinedEngine(TokenEngine):
    """See TokenEngine; the forward must take `fed`."""

    _ahead: Launched | None = None
    """The step whose tokens nobody has read."""

    def _step(self, events: list[Event]) -> None:
        if self._any_cancelled:
            self._drop_cancelled(events)
        if self._ahead is not None and self._must_read_first(self._ahead):
            self._read(events)
        step = self._launch(events)
        self._read(events)
        self._ahead = step
        if step is not None and any(map(needs_host, step.due)):
            self._read(events)

    def _read(self, events: list[Event]) -> None:
        step, self._ahead = self._ahead, None
        if step is not None:
            self._settle(step, events)

    def _must_read_first(self, ahead: Launched) -> bool:
        """Whether the host has a say in the next step, or no answer is left to go on with."""
        return any(map(needs_host, self._rows)) or all_end(ahead.due)

    def _fed(self, decoding: list[Generation]) -> torch.Tensor | None:
        """See TokenEngine. Rows may have moved since the last step."""
        if self._ahead is None or not decoding:
            return None
        # -1 stands for invalid numbers; as an index it would end the whole process
        chosen = self._ahead.reading.chosen.clamp(min=0)
        places = {id(generation): place for place, generation in enumerate(self._ahead.due)}
        order = [places[id(generation)] for generation in decoding]
        if order == list(range(len(order))):
            return chosen[: len(order)]
        return chosen[to_device(order, torch.long, chosen.device)]

    def _recover(self, events: list[Event]) -> None:
        self._ahead = None
        super()._recover(events)


def needs_host(generation: Generation) -> bool:
    """Whether its next token depends on what the host makes of the last one."""
    return bool(generation.processors) or generation.logprobs is not None


def all_end(due: Iterable[Generation]) -> bool:
    """Whether every answer is over, or will be with the token on its way."""
    return all(one.over or one.completion_tokens + 1 >= one.limit for one in due)
