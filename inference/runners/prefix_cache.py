"""The prefix cache: K and V of prompts seen before, in blocks, within a byte budget.

A block is BLOCK tokens. Its key is a hash over its tokens and the key of the block before it; the
first block's is seeded with the organization's salt (and the images of the prompt), so that equal
text of another organization never meets. What is stored is copied out of the rows and copied into
rows: nothing here is shared with a running request.

Models with recurrent layers can continue only from a kept state. States are attached to blocks, as
many as half of the budget holds, and only blocks that have one count as found.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from inference.runners.device import to_device
from inference.runners.slots import CacheLayout, Snapshot

BLOCK = 32
_KEY_BYTES = 32


def chain_seed(salt: str, images: bytes = b"") -> bytes:
    """Where the keys of an organization's prompts start; `images` is a digest of a prompt's own."""
    owner = hashlib.blake2b(salt.encode(), digest_size=_KEY_BYTES).digest()
    return hashlib.blake2b(owner + images, digest_size=_KEY_BYTES, person=b"prefix").digest()


def chain(seed: bytes, tokens: Sequence[int], known: Sequence[bytes] = ()) -> list[bytes]:
    """The keys of all full blocks of `tokens`; `known` are the first of them."""
    keys = list(known)
    previous = keys[-1] if keys else seed
    for start in range(len(keys) * BLOCK, len(tokens) - BLOCK + 1, BLOCK):
        block = array("q", tokens[start : start + BLOCK]).tobytes()
        previous = hashlib.blake2b(previous + block, digest_size=_KEY_BYTES).digest()
        keys.append(previous)
    return keys


@dataclass(frozen=True, slots=True)
class Match:
    """How many blocks can be `reused`, and how many were `seen` (not fewer) but lack a state."""

    reused: int
    seen: int


class PrefixCache:
    """For one thread. Least recently used blocks go first, the end of a chain before its start."""

    def __init__(self, layout: CacheLayout, budget: int, *, state_bytes: int = 0) -> None:
        """`budget` in bytes; `state_bytes` is the size of one state, 0 where a model needs none."""
        self._needs_state = state_bytes > 0
        self._state_bytes = state_bytes
        self._most_states = budget // 2 // state_bytes if state_bytes else 0
        pool = budget - self._most_states * state_bytes
        self._block_bytes = BLOCK * layout.bytes_per_token
        self.capacity = pool // self._block_bytes
        shape = (self.capacity, BLOCK, layout.width)
        self._pool = torch.empty(shape, dtype=layout.dtype, device=layout.device)
        self._places: OrderedDict[bytes, int] = OrderedDict()
        self._states: OrderedDict[bytes, Any] = OrderedDict()
        self._free = list(range(self.capacity))

    @property
    def bytes_used(self) -> int:
        """Bytes of what is stored."""
        return len(self._places) * self._block_bytes + len(self._states) * self._state_bytes

    @property
    def bytes_total(self) -> int:
        """The most it can hold."""
        return self.capacity * self._block_bytes + self._most_states * self._state_bytes

    def __len__(self) -> int:
        """How many blocks are stored."""
        return len(self._places)

    def find(self, keys: Sequence[bytes]) -> Match:
        """How much of a prompt is here; changes nothing."""
        seen = 0
        while seen < len(keys) and keys[seen] in self._places:
            seen += 1
        reused = seen
        while self._needs_state and reused and keys[reused - 1] not in self._states:
            reused -= 1
        return Match(reused, seen)

    def load(self, keys: Sequence[bytes]) -> Snapshot:
        """A copy of the blocks of `keys`, all of which must be here (see `find`)."""
        places = [self._places[key] for key in keys]
        index = to_device(places, torch.long, self._pool.device)
        kv = self._pool.index_select(0, index).flatten(0, 1)
        self._touch(keys)
        if not self._needs_state:
            return Snapshot(kv)
        self._states.move_to_end(keys[-1])
        return Snapshot(kv, self._states[keys[-1]])

    def missing(self, keys: Sequence[bytes]) -> int:
        """The first block that is not here: what `keep` wants the numbers from."""
        return self.find(keys[: self.capacity]).seen

    def keep(
        self,
        keys: Sequence[bytes],
        first: int,
        kv: torch.Tensor,
        states: Mapping[int, Any] | None = None,
    ) -> None:
        """Store the blocks `first...` of a chain; `kv` is `[blocks * BLOCK, width]`, copied.

        `states` are by position (a multiple of BLOCK), each as it was after that many tokens, and
        are taken over, not copied. What does not fit is left out, from the end.
        """
        keys = keys[: self.capacity]
        self._touch(keys)
        fresh = {key: at for at, key in enumerate(keys[first:]) if key not in self._places}
        places = [self._place(key) for key in fresh]
        if places:
            device = self._pool.device
            fresh_blocks = to_device(list(fresh.values()), torch.long, device)
            blocks = kv.unflatten(0, (-1, BLOCK)).index_select(0, fresh_blocks)
            self._pool.index_copy_(0, to_device(places, torch.long, device), blocks)
        self._touch(keys)
        for position, state in (states or {}).items():
            if 0 < position // BLOCK <= len(keys):
                self._keep_state(keys[position // BLOCK - 1], state)

    def clear(self) -> None:
        """Forget everything."""
        self._places.clear()
        self._states.clear()
        self._free = list(range(self.capacity))

    def _touch(self, keys: Sequence[bytes]) -> None:
        for key in reversed(keys):
            if key in self._places:
                self._places.move_to_end(key)

    def _place(self, key: bytes) -> int:
        if self._free:
            place = self._free.pop()
        else:
            oldest, place = self._places.popitem(last=False)
            self._states.pop(oldest, None)
        self._places[key] = place
        return place

    def _keep_state(self, key: bytes, state: Any) -> None:
        if not self._most_states or key not in self._places:
            return
        self._states[key] = state
        self._states.move_to_end(key)
        if len(self._states) > self._most_states:
            self._states.popitem(last=False)
