"""Attention over the slot cache: one forward for all decode rows and prefill chunks.

The model runs once over `[1, tokens]`: first one token for each decode row (rows `0..B-1`), then
the prefill chunks. The function registered here writes the new K and V into the rows and attends:
decode rows in one batched call with a length mask, each chunk on its own row.

transformers hands no engine state to an attention function, so the step being run is kept in a
thread-local. No mask function is registered on purpose: transformers then builds no mask at all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from inference.runners.slots import SlotCache, round_up

IMPLEMENTATION = "slot_attention"
VIEW_STEP = 64
FEWEST_ROWS = 4
_LOCAL = threading.local()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a prompt: `tokens[start:start + count]` of the request in `row`."""

    row: int
    start: int
    count: int


class Step(Protocol):
    """One forward of the model: knows where its tokens go and what they may see."""

    cache: SlotCache
    decode_rows: int
    """How many rows, the first ones, decode; their tokens come first."""
    chunks: Sequence[Chunk]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Write K and V into the cache and attend: `[tokens, heads, head_dim]`.

        The shapes are those of `slot_attention`; `window` is that of a sliding layer.
        """


class RaggedStep:
    """A Step over rows with positions within heads, by scaled_dot_product_attention.

    Where each token goes, and the masks, are made once and used in every layer.
    """

    def __init__(self, cache: SlotCache, lengths: list[int], chunks: list[Chunk]) -> None:
        """`lengths[i]` is how many positions decode row i already holds."""
        self.cache = cache
        self.chunks: Sequence[Chunk] = chunks
        self.decode_rows = len(lengths)
        rows = list(range(self.decode_rows))
        positions = list(lengths)
        for chunk in chunks:
            rows.extend([chunk.row] * chunk.count)
            positions.extend(range(chunk.start, chunk.start + chunk.count))
        device = cache.layout.device
        index = torch.tensor((rows, positions)).to(device, non_blocking=True)
        self.rows, self.positions = index[0], index[1]
        longest = max(lengths, default=0) + 1
        self.span = min(round_up(longest, VIEW_STEP), cache.max_len)
        self._decode_masks: dict[int | None, torch.Tensor] = {}
        self._chunk_masks: dict[tuple[int, int | None], torch.Tensor] = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """See Step."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows, :, self.positions] = key[0].transpose(0, 1)
        values[self.rows, :, self.positions] = value[0].transpose(0, 1)
        output = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
        if self.decode_rows:
            rows, span = self.decode_rows, self.span
            output[:rows] = attend_decode(
                query[0, :, :rows],
                keys[:rows, :, :span],
                values[:rows, :, :span],
                self.decode_mask(window),
                scaling,
            )
        at = self.decode_rows
        for index, chunk in enumerate(self.chunks):
            end = chunk.start + chunk.count
            mask = self.chunk_mask(index, window)
            output[at : at + chunk.count] = scaled_dot_product_attention(
                query[:, :, at : at + chunk.count],
                keys[chunk.row : chunk.row + 1, :, :end],
                values[chunk.row : chunk.row + 1, :, :end],
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=True,
            )[0].transpose(0, 1)
            at += chunk.count
        return output

    def decode_mask(self, window: int | None) -> torch.Tensor:
        """What decode rows may see, to be added to the scores: `[B, 1, 1, span]`."""
        mask = self._decode_masks.get(window)
        if mask is None:
            last = self.positions[: self.decode_rows, None]
            mask = self._additive(torch.arange(self.span, device=last.device), last, window)
            mask = self._decode_masks[window] = mask[:, None, None]
        return mask

    def chunk_mask(self, index: int, window: int | None) -> torch.Tensor | None:
        """What a chunk may see: `[count, start + count]`, or None where plain causal will do."""
        chunk = self.chunks[index]
        end = chunk.start + chunk.count
        if window is not None and end <= window:
            window = None
        if chunk.start == 0 and window is None:
            return None
        mask = self._chunk_masks.get((index, window))
        if mask is None:
            keys = torch.arange(end, device=self.positions.device)
            mask = self._additive(keys, keys[chunk.start :, None], window)
            self._chunk_masks[index, window] = mask
        return mask

    def _additive(
        self, keys: torch.Tensor, queries: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        hidden = keys > queries
        if window is not None:
            hidden |= keys <= queries - window
        mask = torch.zeros(hidden.shape, dtype=self.cache.layout.dtype, device=hidden.device)
        return mask.masked_fill_(hidden, float("-inf"))


@contextmanager
def running(step: Step) -> Iterator[None]:
    """Make `step` the one the attention function of this thread works for."""
    _LOCAL.step = step
    try:
        yield
    finally:
        _LOCAL.step = None


def current_step() -> Step:
    """The step this thread is running. Raises RuntimeError outside of `running`."""
    step: Step | None = getattr(_LOCAL, "step", None)
    if step is None:
        raise RuntimeError("slot attention was called outside of an engine step")
    return step


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within the current step.

    `query` is `[1, heads, tokens, head_dim]`, `key` and `value` `[1, kv_heads, tokens, head_dim]`;
    the answer is `[1, tokens, heads, head_dim]`. Raises RuntimeError outside of `running`, and
    NotImplementedError for attention this engine does not know (soft caps, sinks).
    """
    step = current_step()
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"attention with {name}")
    layer: int = module.layer_idx  # type: ignore[assignment]
    output = step.attend(layer, query, key, value, scaling, sliding_window)
    return output[None], None


def attend_decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
) -> torch.Tensor:
    """One token per row, all rows at once; the heads of a KV group stand in for query positions.

    `query` is `[heads, rows, head_dim]`, `keys` and `values` `[rows, kv_heads, span, head_dim]`,
    the mask `[rows, 1, 1, span]`; the answer is `[rows, heads, head_dim]`.
    """
    heads, rows, dim = query.shape
    packed = query.transpose(0, 1).reshape(rows, keys.shape[1], -1, dim)
    attend = _attend_packed if _by_products(packed) else scaled_dot_product_attention
    attended = attend(packed, keys, values, attn_mask=mask, scale=scaling)
    return attended.reshape(rows, heads, -1)


def _by_products(query: torch.Tensor) -> bool:
    """Whether plain matrix products beat torch's kernel: bfloat16 on CPUs, more than a few rows.

    That kernel repacks all keys and values for the two or three queries of a group.
    """
    return (
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and query.shape[0] >= FEWEST_ROWS
    )


def _attend_packed(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attn_mask: torch.Tensor,
    scale: float | None,
) -> torch.Tensor:
    """`query` `[B, kv, group, d]`, `keys` and `values` `[B, kv, span, d]`, mask `[B, 1, 1, span]`.

    Keys times query, not query times keys: so the large operand is read as it lies in memory.
    """
    rows, kv_heads, group, dim = query.shape
    flat = rows * kv_heads
    scale = dim**-0.5 if scale is None else scale
    scores = torch.bmm(keys.flatten(0, 1), (query * scale).view(flat, group, dim).transpose(1, 2))
    scores = scores.transpose(1, 2).contiguous().view(rows, kv_heads, group, -1).add_(attn_mask)
    weights = torch.softmax(scores, -1).view(flat, group, -1)
    return torch.bmm(weights, values.flatten(0, 1)).view(rows, kv_heads, group, -1)


AttentionInterface.register(IMPLEMENTATION, slot_attention)
