"""What a row can take over instead of computing it: a sibling's prompt, or blocks seen before."""

from __future__ import annotations

import logging

from inference.runners.generation import Generation, Stem
from inference.runners.prefix_cache import BLOCK, Match, PrefixCache, chain
from inference.runners.slots import SlotCache, Snapshot

logger = logging.getLogger(__name__)


class Reuse:
    """Fills rows from Stems and the prefix cache, and fills those from rows. Engine thread only."""

    def __init__(self, cache: SlotCache, prefixes: PrefixCache | None) -> None:
        """`prefixes` None: nothing is kept beyond a request."""
        self._cache = cache
        self._prefixes = prefixes if cache.can_share and cache.can_keep else None

    def must_wait(self, generation: Generation) -> bool:
        """Whether the choice that computes its prompt has not come to the end of it."""
        stem = self._stem(generation)
        return generation.follows and stem is not None and stem.snapshot is None

    def begin(self, generation: Generation, row: int) -> None:
        """Fill a fresh row with what is at hand; at least one token is left to prefill."""
        stem = self._stem(generation)
        if generation.follows and stem is not None and stem.snapshot is not None:
            self._cache.restore(row, stem.snapshot)
            generation.prefilled = stem.snapshot.tokens
            stem.waiting -= 1
            if not stem.waiting:
                stem.snapshot = None
            return
        match, snapshot = self._look_up(generation)
        if snapshot is not None:
            self._cache.restore(row, snapshot)
            generation.prefilled = generation.cached = snapshot.tokens
        if self._cache.needs_state:
            generation.stops = self._stops(generation, match)

    def after_chunk(self, generation: Generation, row: int) -> None:
        """Note what is at hand only now: the state at a stop, the prompt for the siblings."""
        at = generation.prefilled
        stem = self._stem(generation)
        usable = len(generation.prompt) - 1
        if stem is not None and stem.waiting and stem.snapshot is None and at >= usable:
            stem.snapshot = self._cache.snapshot(row, 0, usable)
        if at in generation.stops and at % BLOCK == 0 and self._shares(generation):
            generation.states[at] = self._cache.snapshot(row, at, at).state

    def keep(self, generation: Generation, row: int) -> None:
        """Put the full blocks of a row into the prefix cache: only where its numbers are sound."""
        prefixes = self._prefixes
        if prefixes is None or not self._shares(generation):
            return
        try:
            # of the last token nothing is in the row, or nothing that is known to be sound
            written = (generation.prompt + generation.tokens)[:-1]
            keys = generation.keys = chain(generation.seed, written, generation.keys)
            keys = keys[: prefixes.capacity]
            first = prefixes.missing(keys)
            if first < len(keys) or generation.states:
                new = self._cache.snapshot_kv(row, first * BLOCK, len(keys) * BLOCK)
                prefixes.keep(keys, first, new, generation.states)
            generation.states = {}
        except Exception:  # a cache that fails must not end an answer
            logger.exception("the prefix cache failed and is emptied")
            prefixes.clear()

    def forget(self) -> None:
        """Drop everything (after a failed step, nothing it touched is trusted)."""
        if self._prefixes is not None:
            self._prefixes.clear()

    def _stem(self, generation: Generation) -> Stem | None:
        return generation.stem if self._cache.can_share else None

    def _shares(self, generation: Generation) -> bool:
        return bool(generation.seed) and not generation.follows

    def _look_up(self, generation: Generation) -> tuple[Match, Snapshot | None]:
        """What is known of a prompt, always less than all of it."""
        prefixes, nothing = self._prefixes, Match(0, 0)
        if prefixes is None or not self._shares(generation):
            return nothing, None
        try:
            if not generation.keys:
                generation.keys = chain(generation.seed, generation.prompt)
            keys = generation.keys[: (len(generation.prompt) - 1) // BLOCK]
            match = prefixes.find(keys)
            return match, prefixes.load(keys[: match.reused]) if match.reused else None
        except Exception:  # a cache that fails must not end an answer
            logger.exception("the prefix cache failed and is emptied")
            prefixes.clear()
            return nothing, None

    def _stops(self, generation: Generation, match: Match) -> list[int]:
        """Where prefilling pauses so that a state can be kept.

        At the last block's end, where the next turn will look; and where a known prefix ended
        without a state, since others share it too.
        """
        last = len(generation.prompt) - 1
        stops = set()
        if self._prefixes is not None and self._shares(generation):
            stops |= {match.seen * BLOCK, last // BLOCK * BLOCK}
        if generation.stem is not None and generation.stem.waiting:
            stops.add(last)
        return sorted(stop for stop in stops if stop > generation.prefilled)
