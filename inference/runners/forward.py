"""One step of a model over the slot cache: what the engine asks of every kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from inference.runners.attention import Chunk, RaggedStep, running
from inference.runners.generation import Generation
from inference.runners.slots import SlotCache


class Forward(Protocol):
    """Runs decode rows and prefill chunks; the engine counts the positions afterwards."""

    def run(
        self,
        decoding: Sequence[Generation],
        chunks: Sequence[Chunk],
        prefilling: Sequence[Generation],
        fed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits `[due, vocabulary]`: of every decode row, then of every chunk that ends a prompt.

        `decoding[i]` is in row i and its `last_token` is the input; `prefilling[i]` is the request
        of `chunks[i]`. `fed` (`[decode rows]`, int64, on the device) takes the place of all the
        `last_token`. Writes the cache, and does not advance its lengths.
        """


class RaggedForward:
    """For models of full and sliding attention: everything in one forward over `[1, tokens]`."""

    def __init__(self, model: torch.nn.Module, cache: SlotCache) -> None:
        """`model` is a transformers causal language model with slot attention set."""
        self._model = model
        self._cache = cache

    def run(
        self,
        decoding: Sequence[Generation],
        chunks: Sequence[Chunk],
        prefilling: Sequence[Generation],
        fed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See Forward."""
        tokens = [generation.last_token for generation in decoding]
        lengths = [self._cache.length(row) for row in range(len(decoding))]
        keep = list(range(len(decoding)))
        for chunk, generation in zip(chunks, prefilling, strict=True):
            end = chunk.start + chunk.count
            tokens += generation.prompt[chunk.start : end]
            if end == len(generation.prompt):
                keep.append(len(tokens) - 1)
        step = RaggedStep(self._cache, lengths, list(chunks))
        device = self._cache.layout.device
        ids = torch.tensor([tokens]).to(device, non_blocking=True)
        if fed is not None:
            ids[0, : len(decoding)] = fed
        with running(step):
            return self._model(
                input_ids=ids,
                position_ids=step.positions[None],
                use_cache=False,
                logits_to_keep=torch.tensor(keep, dtype=torch.long).to(device, non_blocking=True),
            ).logits[0]
