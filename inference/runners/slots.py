"""The slot cache: one K and one V tensor per layer, one row per running request.

A row's positions lie within its heads (`[rows, kv_heads, max_len, head_dim]`, what CPUs like) or
before them (`[rows, max_len, kv_heads, head_dim]`, what kernels for ragged batches want): see
CacheLayout.positions_first. Code outside of attention reaches a row through `SlotCache.part`.

Live rows are always `0..rows-1`. When a request ends its row is wiped and the last live row moves
into the hole, so attention reads plain views (`[:rows, :, :length]`) and never gathers. Wiping also
keeps a request from ever seeing what another one left behind (and a stray NaN from poisoning it).

The cache has a byte budget, counted in token positions. Its shape adapts within the budget: many
short rows or a few long ones. A new shape costs one copy of the live part, layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

LENGTH_STEP = 256
FIRST_ROWS = 4


@dataclass(frozen=True, slots=True)
class StateShape:
    """What one row of a linear-attention layer holds, however long it is."""

    channels: int
    kernel: int
    heads: int
    key_dim: int
    value_dim: int

    def bytes(self, dtype: torch.dtype) -> int:
        """Bytes of a row: the convolution's window, and the recurrent matrices in float32."""
        recurrent = self.heads * self.key_dim * self.value_dim
        return self.channels * self.kernel * dtype.itemsize + 4 * recurrent


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """What one token position needs: `heads[i]` and `dims[i]` are those of layer i.

    A layer without attention has zero heads; `states` lists the linear ones with their index. With
    `positions_first` the tensors are `[rows, max_len, kv_heads, head_dim]`, one position longer
    than that in memory: `SlotCache.scratch` is where padding may be written.
    """

    heads: tuple[int, ...]
    dims: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    states: tuple[tuple[int, StateShape], ...] = ()
    positions_first: bool = False

    @property
    def state_bytes(self) -> int:
        """Bytes a row takes beside its positions."""
        return sum(shape.bytes(self.dtype) for _, shape in self.states)

    @property
    def width(self) -> int:
        """Numbers of K and V for one position in all layers."""
        return 2 * sum(heads * dim for heads, dim in zip(self.heads, self.dims, strict=True))

    @property
    def bytes_per_token(self) -> int:
        """Bytes of K and V for one position in all layers."""
        return self.width * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of consecutive positions of a row, in no cache's own shape.

    `kv` is `[tokens, layout.width]`: K then V of each layer in turn, `[heads, dim]` flattened.
    `state` is what a model with recurrent layers needs besides, as it was after the last position.
    """

    kv: torch.Tensor
    state: Any = None

    @property
    def tokens(self) -> int:
        """How many positions it holds."""
        return self.kv.shape[0]


def round_up(value: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `value`."""
    return -(-value // step) * step


class CacheLost(Exception):
    """The cache failed while its shape changed: no row in it can be trusted any more."""


class SlotCache:
    """K and V per layer: `keys[i]` and `values[i]`, in the shape that the layout says.

    `generation` counts the times the tensors were replaced; what holds their addresses (a captured
    graph) is void once it has changed. A cache with recurrent layers sets `needs_state` and
    `state_bytes`, and keeps its states along with the rows in `take`, `release`, `reset`, `free`,
    `snapshot` and `restore`. A state once in a Snapshot is never changed: it is a copy, and
    `restore` copies from it.
    """

    can_share = True
    """Whether `snapshot` and `restore` work; without them each choice computes its prompt."""
    can_keep = True
    """Whether positions can be kept in blocks, by the prefix cache."""
    needs_state = False
    """Whether a row can be continued only from where a state was kept, not from any position."""
    state_bytes = 0
    """Bytes of one such state."""

    def __init__(
        self,
        layout: CacheLayout,
        *,
        slots: int,
        context: int,
        budget: int,
        whole: bool = False,
    ) -> None:
        """`budget` is in bytes; `context` is the longest a row may ever get, in tokens.

        With `whole` all of the budget is taken at once, evenly over the slots, so that the tensors
        are replaced for a row longer than that only. Raises ValueError if the budget does not hold
        even one row of `LENGTH_STEP` positions.
        """
        self.layout = layout
        self.slots = slots
        positions = budget // layout.bytes_per_token
        self.positions = min(positions, slots * round_up(context, LENGTH_STEP))
        self.context = min(context, self.positions // LENGTH_STEP * LENGTH_STEP)
        if self.context < 1:
            raise ValueError(f"a cache of {budget} bytes holds only {positions} tokens")
        self.generation = 0
        self._whole_at_once = whole
        self.rows = 0
        self.row_capacity = 0
        self.max_len = 0
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._filled: list[int] = []
        self._limits: list[int] = []
        self._reset_storage()

    @property
    def bytes_held(self) -> int:
        """Bytes of the tensors as they are now."""
        return self.row_capacity * self.max_len * self.layout.bytes_per_token

    @property
    def bytes_total(self) -> int:
        """Bytes the cache may grow to."""
        return self.positions * self.layout.bytes_per_token

    @property
    def bytes_used(self) -> int:
        """Bytes of the positions that live rows have written."""
        return sum(self._filled) * self.layout.bytes_per_token

    def fits(self, limit: int) -> bool:
        """Whether one more row of up to `limit` tokens can be taken now."""
        rows = self.rows + 1
        longest = round_up(max([limit, *self._limits]), LENGTH_STEP)
        return rows <= self.slots and limit <= self.context and rows * longest <= self.positions

    def take(self, limit: int) -> int:
        """Reserve the next row for up to `limit` tokens and return its index.

        Raises MemoryError (or torch's own) if `fits` says no or the device has no memory left.
        """
        if not self.fits(limit):
            raise MemoryError("no slot is free for this request")
        self._reshape(self.rows + 1, max([limit, *self._limits]))
        row = self.rows
        self.rows += 1
        self._filled.append(0)
        self._limits.append(limit)
        return row

    def extend(self, row: int, limit: int) -> bool:
        """Raise the reservation of a live row; False (and no change) if the budget is short.

        Raises CacheLost if the device has no memory left.
        """
        longest = round_up(max([limit, *self._limits]), LENGTH_STEP)
        if limit > self.context or self.rows * longest > self.positions:
            return False
        try:
            self._reshape(self.rows, longest)
        except Exception as error:
            raise CacheLost from error
        self._limits[row] = limit
        return True

    def advance(self, row: int, count: int) -> None:
        """Note that `count` more positions of the row have been written."""
        self._filled[row] += count

    def length(self, row: int) -> int:
        """How many positions of the row are written."""
        return self._filled[row]

    def part(self, tensor: torch.Tensor, row: int, start: int, end: int) -> torch.Tensor:
        """Positions `start..end - 1` of a row of `keys[i]` or `values[i]`.

        A view, `[end - start, heads, dim]` in either layout.
        """
        if self.layout.positions_first:
            return tensor[row, start:end]
        return tensor[row, :, start:end].transpose(0, 1)

    @property
    def scratch(self) -> int:
        """The index in `flat` that belongs to no row; for `positions_first` only."""
        return self.row_capacity * self.max_len

    def flat(self, tensor: torch.Tensor) -> torch.Tensor:
        """All rows behind each other and the scratch position: `[positions + 1, heads, dim]`.

        Position p of row r is at `r * max_len + p`. For `positions_first` only.
        """
        heads, dim = tensor.shape[2:]
        return tensor.as_strided((self.scratch + 1, heads, dim), (heads * dim, dim, 1))

    def snapshot(self, row: int, start: int, end: int) -> Snapshot:
        """A copy of positions `start..end - 1` of a row that has written them.

        With `needs_state`, `end` must be the row's length: only that state is at hand.
        """
        return Snapshot(self.snapshot_kv(row, start, end))

    def snapshot_kv(self, row: int, start: int, end: int) -> torch.Tensor:
        """The same without a state, as `[end - start, layout.width]`."""
        kv = torch.empty(
            (end - start, self.layout.width), dtype=self.layout.dtype, device=self.layout.device
        )
        for tensor, part in zip(self._tensors(), self._parts(kv), strict=True):
            part.copy_(self.part(tensor, row, start, end))
        return kv

    def restore(self, row: int, snapshot: Snapshot) -> None:
        """Write a snapshot to the positions that follow what the row holds, and count them."""
        start = self._filled[row]
        end = start + snapshot.tokens
        for tensor, part in zip(self._tensors(), self._parts(snapshot.kv), strict=True):
            self.part(tensor, row, start, end).copy_(part)
        self._filled[row] = end

    def release(self, row: int, group_end: int) -> list[tuple[int, int]]:
        """Wipe a row and close the hole; returns the moves made, as (from, to).

        Rows `0..group_end - 1` decode, the rest are being prefilled, and both stay together: the
        last row of the group moves into the hole and the last row of all into the one it left.
        """
        moves = []
        hole = row
        for source in (group_end - 1, self.rows - 1):
            if source > hole:
                self._move(source, hole)
                moves.append((source, hole))
                hole = source
        span = self._filled.pop()
        self._limits.pop()
        self.rows -= 1
        self._wipe(hole, 0, span)
        return moves

    def reset(self) -> None:
        """Forget all rows and every number in them (after a failed step)."""
        self.rows = 0
        self._filled.clear()
        self._limits.clear()
        self._reset_storage()

    def free(self) -> None:
        """Give the memory back; the cache cannot be used afterwards."""
        self.keys.clear()
        self.values.clear()
        self.rows = self.row_capacity = self.max_len = 0
        self.generation += 1

    def _tensors(self) -> Iterator[torch.Tensor]:
        """K and V of each layer in turn, the order of a Snapshot."""
        for keys, values in zip(self.keys, self.values, strict=True):
            yield keys
            yield values

    def _parts(self, kv: torch.Tensor) -> Iterator[torch.Tensor]:
        """Views `[tokens, heads, dim]` of a snapshot's numbers, in the same order."""
        at = 0
        for heads, dim in zip(self.layout.heads, self.layout.dims, strict=True):
            for _ in range(2):
                yield kv[:, at : at + heads * dim].unflatten(1, (heads, dim))
                at += heads * dim

    def _move(self, source: int, target: int) -> None:
        """Overwrite a row with another one and wipe what the old one had beyond it."""
        span, old = self._filled[source], self._filled[target]
        parts = self._every(target, 0, span) if span else []
        if parts:
            # all layers in one call: on a GPU that is a few launches in place of hundreds
            torch._foreach_copy_(parts, self._every(source, 0, span))
        self._wipe(target, span, old)
        self._filled[target], self._limits[target] = span, self._limits[source]

    def _every(self, row: int, start: int, end: int) -> list[torch.Tensor]:
        """That part of a row in all layers that have K and V."""
        return [self.part(tensor, row, start, end) for tensor in self._tensors() if tensor.numel()]

    def _wipe(self, row: int, start: int, end: int) -> None:
        parts = self._every(row, start, end) if end > start else []
        if parts:
            torch._foreach_zero_(parts)

    def _reset_storage(self) -> None:
        self.free()
        length, rows = min(LENGTH_STEP, self.context), FIRST_ROWS
        if self._whole_at_once:
            length, rows = self._even_length, self.slots
        self.max_len = length
        self.row_capacity = max(1, min(self.slots, rows, self.positions // length))
        for heads, dim in zip(self.layout.heads, self.layout.dims, strict=True):
            self.keys.append(self._zeros(heads, dim))
            self.values.append(self._zeros(heads, dim))

    def _zeros(self, heads: int, dim: int) -> torch.Tensor:
        kind = {"dtype": self.layout.dtype, "device": self.layout.device}
        if not self.layout.positions_first:
            return torch.zeros((self.row_capacity, heads, self.max_len, dim), **kind)
        flat = torch.zeros((self.scratch + 1, heads, dim), **kind)
        return flat[: self.scratch].view(self.row_capacity, self.max_len, heads, dim)

    def _reshape(self, rows: int, longest: int) -> None:
        """Make room for `rows` rows of `longest` tokens; doubles so that copies stay rare."""
        longest = round_up(longest, LENGTH_STEP)
        if rows <= self.row_capacity and longest <= self.max_len:
            return
        if self._whole_at_once:
            longest = self._whole_length(rows, longest)
            self._copy_to(min(self.slots, self.positions // longest), longest)
            return
        if longest > self.max_len:
            wished = min(2 * self.max_len, round_up(self.context, LENGTH_STEP))
            longest = max(longest, min(wished, self._whole(self.positions // rows)))
        elif rows * self.max_len <= self.positions:
            longest = self.max_len
        if rows > self.row_capacity:
            rows = max(rows, min(2 * self.row_capacity, self.slots, self.positions // longest))
        else:
            rows = max(rows, min(self.row_capacity, self.positions // longest))
        self._copy_to(rows, longest)

    @property
    def _even_length(self) -> int:
        """What every slot gets where all of the budget is shared out."""
        even = self._whole(self.positions // self.slots)
        return max(min(LENGTH_STEP, self.context), min(even, round_up(self.context, LENGTH_STEP)))

    def _whole_length(self, rows: int, longest: int) -> int:
        """The even length, doubled as often as it takes: few shapes, so few changes of shape."""
        length = self._even_length
        while length < longest:
            length *= 2
        length = min(length, round_up(self.context, LENGTH_STEP))
        return length if rows * length <= self.positions else longest

    @staticmethod
    def _whole(length: int) -> int:
        return length // LENGTH_STEP * LENGTH_STEP

    def _copy_to(self, rows: int, length: int) -> None:
        """Move the live part to tensors of the new shape, one layer at a time."""
        self.row_capacity, self.max_len = rows, length
        self.generation += 1
        span = max(self._filled, default=0)
        layers = zip(self.layout.heads, self.layout.dims, strict=True)
        for index, (heads, dim) in enumerate(layers):
            for tensors in (self.keys, self.values):
                new = self._zeros(heads, dim)
                self._live(new, span).copy_(self._live(tensors[index], span))
                tensors[index] = new

    def _live(self, tensor: torch.Tensor, span: int) -> torch.Tensor:
        """The first `span` positions of the live rows, as a view."""
        if self.layout.positions_first:
            return tensor[: self.rows, :span]
        return tensor[: self.rows, :, :span]
