"""The slot cache of hybrid models: beside K and V, each row has the states of the linear layers.

A linear-attention layer keeps no positions: it folds all tokens so far into a window of its
convolution and one recurrent matrix per head. Both move with their row, are wiped on release, and
are shown to transformers through its Cache interface (RowStates). Full-attention layers keep their
K and V as ever; for linear ones the layout says zero heads, so they take no room there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad
from transformers import Cache

from inference.runners.slots import LENGTH_STEP, CacheLayout, SlotCache, Snapshot, round_up


class StateSlotCache(SlotCache):
    """`convs[layer]` is `[row_capacity, channels, kernel]`, `recurrents[layer]` `[row_capacity,
    heads, key_dim, value_dim]` in float32; only linear-attention layers are listed. The state of a
    Snapshot is a copy of all of a row's, in the order of `_states`."""

    needs_state = True

    def __init__(
        self,
        layout: CacheLayout,
        *,
        slots: int,
        context: int,
        budget: int,
        whole: bool = False,
    ) -> None:
        """As SlotCache; the states of all slots are taken from `budget` first.

        There are fewer slots where the rest could not hold one row of `context` (or, in a small
        budget, where they would take more than half of it).
        """
        self.state_bytes = layout.state_bytes
        self.convs: dict[int, torch.Tensor] = {}
        self.recurrents: dict[int, torch.Tensor] = {}
        row = min(budget // 2, round_up(context, LENGTH_STEP) * layout.bytes_per_token)
        slots = max(1, min(slots, (budget - row) // layout.state_bytes))
        rest = budget - slots * layout.state_bytes
        super().__init__(layout, slots=slots, context=context, budget=rest, whole=whole)

    @property
    def bytes_held(self) -> int:
        """See SlotCache."""
        return super().bytes_held + self.row_capacity * self.layout.state_bytes

    @property
    def bytes_total(self) -> int:
        """See SlotCache."""
        return super().bytes_total + self.slots * self.layout.state_bytes

    @property
    def bytes_used(self) -> int:
        """See SlotCache."""
        return super().bytes_used + self.rows * self.layout.state_bytes

    def view(self, layer: int, first: int, last: int, *, begun: bool) -> RowStates:
        """The states of rows `first..last - 1` in one layer; `begun` if they hold any tokens."""
        return RowStates(self.convs[layer][first:last], self.recurrents[layer][first:last], begun)

    def snapshot(self, row: int, start: int, end: int) -> Snapshot:
        """See SlotCache."""
        state = tuple(tensor[row].clone() for tensor in self._states())
        return Snapshot(self.snapshot_kv(row, start, end), state)

    def restore(self, row: int, snapshot: Snapshot) -> None:
        """See SlotCache; the snapshot's state replaces the row's, unless it has no tokens."""
        super().restore(row, snapshot)
        if not snapshot.tokens:
            return
        for tensor, kept in zip(self._states(), snapshot.state, strict=True):
            tensor[row].copy_(kept)

    def release(self, row: int, group_end: int) -> list[tuple[int, int]]:
        """See SlotCache."""
        moves = super().release(row, group_end)
        for tensor in self._states():
            tensor[self.rows].zero_()  # the hole always ends up behind the last live row
        return moves

    def free(self) -> None:
        """See SlotCache."""
        super().free()
        self.convs.clear()
        self.recurrents.clear()

    def _states(self) -> list[torch.Tensor]:
        return [*self.convs.values(), *self.recurrents.values()]

    def _move(self, source: int, target: int) -> None:
        super()._move(source, target)
        for tensor in self._states():
            tensor[target].copy_(tensor[source])

    def _reset_storage(self) -> None:
        super()._reset_storage()
        self._allocate()

    def _allocate(self) -> None:
        """States for `row_capacity` rows, keeping those of the live ones."""
        for layer, shape in self.layout.states:
            conv = (self.row_capacity, shape.channels, shape.kernel)
            matrix = (self.row_capacity, shape.heads, shape.key_dim, shape.value_dim)
            for kept, size, dtype in (
                (self.convs, conv, self.layout.dtype),
                (self.recurrents, matrix, torch.float32),
            ):
                new = torch.zeros(size, dtype=dtype, device=self.layout.device)
                if layer in kept:
                    new[: self.rows].copy_(kept[layer][: self.rows])
                kept[layer] = new

    def _copy_to(self, rows: int, length: int) -> None:
        grows = rows != self.row_capacity
        super()._copy_to(rows, length)
        if grows:
            self._allocate()


class RowStates(Cache):
    """What a linear-attention layer sees of its rows: states that are read and written in place."""

    def __init__(self, conv: torch.Tensor, recurrent: torch.Tensor, begun: bool) -> None:
        """`conv` and `recurrent` are views of the slot tensors, one line per row."""
        super().__init__(layers=[])
        self._conv = conv
        self._recurrent = recurrent
        self._begun = begun

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """The last inputs of the convolution; None before the first token."""
        return self._conv if self._begun else None

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """The recurrent matrices; None before the first token."""
        return self._recurrent if self._begun else None

    def has_previous_state(
        self, layer_idx: int | None = None, state_idx: int | None = None
    ) -> bool:
        """Whether the rows hold any tokens."""
        return self._begun

    def is_recording_past(self, layer_idx: int) -> bool:
        """Never: rows are not rolled back."""
        return False

    def update_conv_state(
        self, conv_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Keep the last inputs; returns what the convolution has to run over."""
        if self._begun:
            conv_states = torch.cat([self._conv, conv_states], dim=-1)
        kernel = self._conv.shape[-1]
        short = max(0, kernel - conv_states.shape[-1])
        self._conv.copy_(pad(conv_states, (short, 0))[..., -kernel:])
        return conv_states

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Keep the new matrices."""
        self._recurrent.copy_(recurrent_states)
        return self._recurrent
