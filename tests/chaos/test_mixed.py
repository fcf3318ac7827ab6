"""The short form of the chaos run: everything at once, from one seed."""

from __future__ import annotations

import os
import random

import pytest

from tests.chaos.run import Plan, chaos
from tests.chaos.world import World

pytestmark = pytest.mark.slow


def test_mixed_chaos(tmp_path):
    plan = Plan(
        jobs=int(os.environ.get("CHAOS_JOBS", "1000")),
        streams=int(os.environ.get("CHAOS_STREAMS", "100")),
        faults=int(os.environ.get("CHAOS_FAULTS", "10")),
        seed=int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6),
    )
    print(f"CHAOS_SEED={plan.seed}")
    world = World.from_environment(tmp_path / "var", workers=2, slots=16)
    try:
        found = chaos(world.start(), plan)
    finally:
        world.finish()
    assert not found, "\n".join([f"CHAOS_SEED={plan.seed}", *found])
    assert sum(plan.applied.values()) == plan.faults
