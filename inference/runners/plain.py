"""The plain engine: any causal model of transformers, one row after another.

For families that the slot cache does not know (absolute positions, soft caps, caches of their own
kind). It is a Forward like the others, so a request has the same settings, answers, limits and
cancelling; only the batching is missing. Each row owns whatever cache the model makes for itself.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from inference.runners.attention import Chunk
from inference.runners.generation import Generation
from inference.runners.slots import SlotCache, Snapshot


class RowCaches(SlotCache):
    """Counts positions like a SlotCache and keeps, in place of tensors, one cache per row.

    A Snapshot's state is a copy of the whole cache, so siblings can share a prompt; its `kv` has
    no width. There is nothing here that a prefix cache could keep in blocks.
    """

    can_keep = False
    needs_state = True

    def __init__(self, *args: Any, **settings: Any) -> None:
        """As SlotCache. `caches[row]` is transformers' object, None before the first token."""
        self.caches: list[Any] = []
        super().__init__(*args, **settings)

    @property
    def bytes_held(self) -> int:
        """Bytes of what live rows have written."""
        return self.bytes_used

    def take(self, limit: int) -> int:
        """See SlotCache."""
        row = super().take(limit)
        self.caches.append(None)
        return row

    def release(self, row: int, group_end: int) -> list[tuple[int, int]]:
        """See SlotCache."""
        moves = super().release(row, group_end)
        self.caches.pop()
        return moves

    def snapshot(self, row: int, start: int, end: int) -> Snapshot:
        """See SlotCache."""
        return Snapshot(self.snapshot_kv(row, start, end), copy.deepcopy(self.caches[row]))

    def snapshot_kv(self, row: int, start: int, end: int) -> torch.Tensor:
        """See SlotCache: positions without numbers."""
        return torch.empty((end - start, 0))

    def restore(self, row: int, snapshot: Snapshot) -> None:
        """See SlotCache; without tokens there is nothing to take over."""
        if snapshot.tokens:
            self.caches[row] = copy.deepcopy(snapshot.state)
            self._filled[row] += snapshot.tokens

    def free(self) -> None:
        """See SlotCache."""
        super().free()
        self.caches.clear()

    def _move(self, source: int, target: int) -> None:
        super()._move(source, target)
        self.caches[target] = self.caches[source]

    def _zeros(self, heads: int, dim: int) -> torch.Tensor:
        return torch.zeros((self.row_capacity, 0, self.max_len, 0))


class PlainForward:
    """Runs each row by itself through the model's own `forward`."""

    def __init__(self, model: torch.nn.Module, cache: RowCaches) -> None:
        """`model` is any transformers causal language model that can use a cache."""
        self._model = model
        self._cache = cache
        accepted = inspect.signature(model.forward).parameters
        self._past = "past_key_values" if "past_key_values" in accepted else "cache_params"
        # recurrent models are sure of a prompt only where they get it whole
        self._whole = bool(getattr(model, "_is_stateful", False))
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def run(
        self,
        decoding: Sequence[Generation],
        chunks: Sequence[Chunk],
        prefilling: Sequence[Generation],
        fed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See Forward."""
        last = [generation.last_token for generation in decoding] if fed is None else fed.tolist()
        due = [self._row(row, [token]) for row, token in enumerate(last)]
        for chunk, generation in zip(chunks, prefilling, strict=True):
            end = chunk.start + chunk.count
            ends = end == len(generation.prompt)
            if self._whole and not ends:
                continue
            start = 0 if self._whole else chunk.start
            logits = self._row(chunk.row, generation.prompt[start:end])
            if ends:
                due.append(logits)
        if not due:
            return torch.empty((0, 0))
        return torch.stack(due)

    def _row(self, row: int, tokens: list[int]) -> torch.Tensor:
        """Logits `[vocabulary]` after `tokens`, which follow what the row's cache holds."""
        device = self._cache.layout.device
        output = self._model(
            input_ids=torch.tensor([tokens], device=device),
            use_cache=True,
            **{self._past: self._cache.caches[row]},
            **self._last_only,
        )
        self._cache.caches[row] = output[self._past]
        return output.logits[0, -1]
