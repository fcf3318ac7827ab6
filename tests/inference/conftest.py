"""Engines that are stopped at the end."""

from __future__ import annotations

import pytest

from inference.runners.forward import RaggedForward
from inference.runners.token_engine import EngineLimits, TokenEngine
from tests.inference.tiny_families import forward_and_cache
from tests.inference.tiny_models import (
    cache_for,
    slot_model,
)


@pytest.fixture
def engines():
    """Makes engines and stops them at the end."""
    made = []

    def make(
        kind="qwen3", *, model=None, slots=8, tokens=8192, eos_ids=(), on_fatal=None, **limits
    ):
        model = model or slot_model(kind)
        cache = cache_for(model, slots=slots, tokens=tokens)
        engine_limits = EngineLimits(**{"waiting_tokens": 10**6, **limits})
        engine = TokenEngine(
            RaggedForward(model, cache),
            cache,
            eos_ids=eos_ids,
            limits=engine_limits,
            on_fatal=on_fatal,
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        assert engine.stop(timeout=10)


@pytest.fixture
def family_engines():
    """Makes engines for tiny models of any family and stops them at the end."""
    made = []

    def make(kind, *, slots=8, tokens=8192, eos_ids=(), **limits):
        forward, cache = forward_and_cache(kind, slots=slots, tokens=tokens)
        engine_limits = EngineLimits(**{"waiting_tokens": 10**6, **limits})
        made.append(TokenEngine(forward, cache, eos_ids=eos_ids, limits=engine_limits))
        return made[-1]

    yield make
    for engine in made:
        assert engine.stop(timeout=10)
