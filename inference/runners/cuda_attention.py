"""Attention over rows with positions before heads: what a GPU runs.

The decode rows are one call, the prefill chunks another, whatever their number. The calls are
torch's `varlen_attn` (FlashAttention), which reads the slot cache as one long sequence: row r
begins at `r * max_len` and `seqused_k` says how much of it is written. Nothing here waits for the
device: lengths are tensors there, and the integers given to a kernel are rounded up by the caller.

Where `varlen_attn` cannot be used (float32, an old GPU, an older torch), scaled_dot_product_
attention does the same over the same tensors, several times slower.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from inference.runners.attention import Chunk, attend_decode
from inference.runners.device import to_device
from inference.runners.slots import CacheLayout, SlotCache

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # an older torch
    varlen_attn = None  # type: ignore[assignment]

Varlen = Callable[..., torch.Tensor]
NEEDED = frozenset({"scale", "window_size", "enable_gqa", "seqused_k"})
KERNEL_DTYPES = frozenset({torch.bfloat16, torch.float16})
WIDEST_HEAD = 256
TOLERANCE = 0.03

logger = logging.getLogger(__name__)


class PackedStep:
    """A Step for `positions_first`; see RaggedStep for the other layout."""

    def __init__(
        self,
        cache: SlotCache,
        *,
        positions: torch.Tensor,
        places: torch.Tensor,
        decode_rows: int,
        span: int,
        chunks: Sequence[Chunk] = (),
        varlen: Varlen | None = None,
    ) -> None:
        """`positions` and `places` are `[tokens]`, int64: decode rows first, then the chunks.

        A token's place is its index in `SlotCache.flat`. `span` is at least the length of every
        decode row, this token included, and at most `max_len`; a row whose place is the scratch is
        padding, and its answer means nothing. Chunks come in ascending order of their rows.
        """
        self.cache = cache
        self._positions = positions
        self._places = places
        self.decode_rows = decode_rows
        self._span = span
        self.chunks = chunks
        self._varlen = varlen
        self._decode_ranges: dict[int | None, tuple[torch.Tensor, torch.Tensor]] = {}
        self._decode_masks: dict[int | None, torch.Tensor] = {}
        self._chunk_masks: dict[tuple[int, int | None], torch.Tensor] = {}
        self._one_each: torch.Tensor | None = None
        self._chunk_ranges: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        if varlen is not None and chunks:
            self._chunk_ranges = self._ranges_of_chunks()

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
        self.cache.flat(keys)[self._places] = key[0].transpose(0, 1)
        self.cache.flat(values)[self._places] = value[0].transpose(0, 1)
        rows = self.decode_rows
        parts = []
        if rows:
            decode = self._decode_sdpa if self._varlen is None else self._decode_varlen
            parts.append(decode(query[:, :, :rows], keys, values, scaling, window))
        if self.chunks:
            prefill = self._prefill_sdpa if self._varlen is None else self._prefill_varlen
            parts.append(prefill(query[:, :, rows:], keys, values, scaling, window))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode_varlen(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """No causal or window argument: with one, the kernel would not pack the heads of a group.

        A sliding row begins later instead.
        """
        starts, used = self._ranges(window)
        return self._call(
            query,
            keys,
            values,
            cu_seq_q=self._counting(),
            cu_seq_k=starts,
            max_q=1,
            max_k=self._span if window is None else min(self._span, window),
            scale=scaling,
            window_size=(-1, -1),
            seqused_k=used,
        )

    def _prefill_varlen(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Causal from the end: the last token of a chunk sees all that is used of its row."""
        assert self._chunk_ranges is not None  # noqa: S101 - for the type checker
        queries, starts, used = self._chunk_ranges
        return self._call(
            query,
            keys,
            values,
            cu_seq_q=queries,
            cu_seq_k=starts,
            max_q=max(chunk.count for chunk in self.chunks),
            max_k=max(chunk.start + chunk.count for chunk in self.chunks),
            scale=scaling,
            window_size=(-1 if window is None else window - 1, 0),
            seqused_k=used,
        )

    def _call(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, **settings: Any
    ) -> torch.Tensor:
        assert self._varlen is not None  # noqa: S101 - for the type checker
        return self._varlen(
            query[0].transpose(0, 1),
            self.cache.flat(keys),
            self.cache.flat(values),
            enable_gqa=True,
            **settings,
        )

    def _counting(self) -> torch.Tensor:
        """One query per decode row: `[rows + 1]`, int32."""
        if self._one_each is None:
            device = self._positions.device
            self._one_each = torch.arange(self.decode_rows + 1, dtype=torch.int32, device=device)
        return self._one_each

    def _ranges(self, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each decode row begins (`[rows + 1]`) and how much of it counts (`[rows]`)."""
        ranges = self._decode_ranges.get(window)
        if ranges is None:
            used = (self._positions[: self.decode_rows] + 1).to(torch.int32)
            starts = self._counting() * self.cache.max_len
            if window is not None:
                hidden = (used - window).clamp(min=0)
                starts[:-1] += hidden
                used = used - hidden
            ranges = self._decode_ranges[window] = (starts, used)
        return ranges

    def _ranges_of_chunks(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the chunks: where queries begin, where rows begin, how much of each row counts."""
        rows = [chunk.row for chunk in self.chunks]
        if any(first >= second for first, second in pairwise(rows)):
            raise ValueError("chunks must come in ascending order of their rows")
        queries = [0]
        for chunk in self.chunks:
            queries.append(queries[-1] + chunk.count)
        starts = [row * self.cache.max_len for row in (*rows, rows[-1] + 1)]
        used = [chunk.start + chunk.count for chunk in self.chunks]
        device = self._positions.device
        count = len(rows)
        packed = to_device([*queries, *starts, *used], torch.int32, device)
        # each with memory of its own: a kernel may want its arguments aligned
        return (
            packed[: count + 1].clone(),
            packed[count + 1 : 2 * count + 2].clone(),
            packed[2 * count + 2 :].clone(),
        )

    def _decode_sdpa(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        rows, span = self.decode_rows, self._span
        mask = self._decode_masks.get(window)
        if mask is None:
            last = self._positions[:rows, None]
            mask = self._additive(torch.arange(span, device=last.device), last, window)
            mask = self._decode_masks[window] = mask[:, None, None]
        return attend_decode(
            query[0],
            keys[:rows, :span].transpose(1, 2),
            values[:rows, :span].transpose(1, 2),
            mask,
            scaling,
        )

    def _prefill_sdpa(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        parts, at = [], 0
        group = query.shape[1] // keys.shape[2]
        for index, chunk in enumerate(self.chunks):
            end = chunk.start + chunk.count
            seen = [
                tensor[chunk.row : chunk.row + 1, :end].transpose(1, 2) for tensor in (keys, values)
            ]
            # heads are repeated, as the kernels that take a mask know nothing of groups
            wide = [tensor.repeat_interleave(group, 1) for tensor in seen]
            attended = scaled_dot_product_attention(
                query[:, :, at : at + chunk.count],
                *wide,
                attn_mask=self._chunk_mask(index, window),
                scale=scaling,
            )
            parts.append(attended[0].transpose(0, 1))
            at += chunk.count
        return torch.cat(parts)

    def _chunk_mask(self, index: int, window: int | None) -> torch.Tensor:
        mask = self._chunk_masks.get((index, window))
        if mask is None:
            chunk = self.chunks[index]
            keys = torch.arange(chunk.start + chunk.count, device=self._positions.device)
            mask = self._additive(keys, keys[chunk.start :, None], window)
            self._chunk_masks[index, window] = mask
        return mask

    def _additive(
        self, keys: torch.Tensor, queries: torch.Tensor, window: int | None
    ) -> torch.Tensor:
        hidden = keys > queries
        if window is not None:
            hidden = hidden | (keys <= queries - window)
        mask = torch.zeros(hidden.shape, dtype=self.cache.layout.dtype, device=hidden.device)
        return mask.masked_fill_(hidden, float("-inf"))


def supports(function: Varlen | None) -> bool:
    """Whether this torch's function takes all that is needed (older ones lack some)."""
    return function is not None and inspect.signature(function).parameters.keys() >= NEEDED


def usable_varlen(layout: CacheLayout, function: Varlen | None = varlen_attn) -> Varlen | None:
    """`varlen_attn` where it can serve this cache, else None; what speaks against it is logged."""
    reason = _objection(layout, function)
    if reason is None:
        return function
    logger.warning("varlen attention is not used: %s", reason)
    return None


def _objection(layout: CacheLayout, function: Varlen | None) -> str | None:
    if function is None or not supports(function):
        return "this torch has no varlen_attn with seqused_k"
    if layout.dtype not in KERNEL_DTYPES:
        return f"{layout.dtype} is not one of its types"
    if any(dim % 8 or dim > WIDEST_HEAD for dim in layout.dims):
        return f"head sizes {sorted(set(layout.dims))}"
    try:
        return None if agrees(layout, function) else "its results are wrong on this device"
    except Exception:  # whatever a kernel makes of a device it does not know
        logger.exception("varlen_attn cannot run here")
        return "it fails on this device"


def agrees(layout: CacheLayout, function: Varlen) -> bool:
    """Try the function against SDPA on random numbers in every shape of layer there is."""
    with torch.inference_mode():
        return all(
            _agrees(layout, heads, dim, window, function)
            for heads, dim in sorted(set(zip(layout.heads, layout.dims, strict=True)))
            if heads
            for window in (None, 5)
        )


def _agrees(
    layout: CacheLayout, heads: int, dim: int, window: int | None, function: Varlen
) -> bool:
    """Two decode rows of 30 and 9 positions, a chunk in the middle of a prompt, one at its start."""
    one = CacheLayout((heads,), (dim,), layout.dtype, layout.device, positions_first=True)
    cache = SlotCache(one, slots=4, context=256, budget=1024 * one.bytes_per_token, whole=True)
    source = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=source).to(layout.device, layout.dtype)

    for tensor in (*cache.keys, *cache.values):
        tensor.copy_(numbers(*tensor.shape))
    chunks = [Chunk(2, 11, 7), Chunk(3, 0, 13)]
    positions = [29, 8, *range(11, 18), *range(13)]
    rows = [0, 1, *[2] * 7, *[3] * 13]
    places = [row * cache.max_len + at for row, at in zip(rows, positions, strict=True)]
    query = numbers(1, 2 * heads, len(rows), dim)
    key, value = numbers(1, heads, len(rows), dim), numbers(1, heads, len(rows), dim)
    answers = [
        PackedStep(
            cache,
            positions=to_device(positions, torch.int64, layout.device),
            places=to_device(places, torch.int64, layout.device),
            decode_rows=2,
            span=64,
            chunks=chunks,
            varlen=choice,
        ).attend(0, query, key, value, dim**-0.5, window)
        for choice in (function, None)
    ]
    return torch.allclose(answers[0].float(), answers[1].float(), rtol=TOLERANCE, atol=TOLERANCE)
