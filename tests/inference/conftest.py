"""Engines that are stopped at the end."""

from __future__ import annotations

import pytest

from inference.runners.forward import RaggedForward
from inference.runners.prefix_cache import PrefixCache
from inference.runners.token_engine import EngineLimits, TokenEngine
from tests.inference.tiny_families import forward_and_cache
from tests.inference.tiny_models import (
    cache_for,
    slot_model,
)


@pytest.fixture
def engine_kind():
    """Another module may run the same tests with another engine."""
    return TokenEngine


@pytest.fixture
def engines(engine_kind):
    """Makes engines and stops them at the end; `prefix_tokens` is the prefix cache's budget."""
    made = []

    def make(
        kind="qwen3",
        *,
        model=None,
        slots=8,
        tokens=8192,
        eos_ids=(),
        on_fatal=None,
        prefix_tokens=0,
        **limits,
    ):
        model = model or slot_model(kind)
        cache = cache_for(model, slots=slots, tokens=tokens)
        budget = prefix_tokens * cache.layout.bytes_per_token
        prefixes = PrefixCache(cache.layout, budget, state_bytes=cache.state_bytes)
        engine = engine_kind(
            RaggedForward(model, cache),
            cache,
            eos_ids=eos_ids,
            limits=EngineLimits(**{"waiting_tokens": 10**6, **limits}),
            prefixes=prefixes if prefix_tokens else None,
            on_fatal=on_fatal,
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        assert engine.stop(timeout=10)


@pytest.fixture
def family_engines(engine_kind):
    """Makes engines for tiny models of any family and stops them at the end."""
    made = []

    def make(kind, *, slots=8, tokens=8192, eos_ids=(), prefix_tokens=0, states=8, **limits):
        forward, cache = forward_and_cache(kind, slots=slots, tokens=tokens)
        engine_limits = EngineLimits(**{"waiting_tokens": 10**6, **limits})
        prefixes = None
        if prefix_tokens:
            budget = prefix_tokens * cache.layout.bytes_per_token + 2 * states * cache.state_bytes
            prefixes = PrefixCache(cache.layout, budget, state_bytes=cache.state_bytes)
        engine = engine_kind(
            forward, cache, eos_ids=eos_ids, limits=engine_limits, prefixes=prefixes
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        assert engine.stop(timeout=10)
