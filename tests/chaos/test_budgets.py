"""Whoever dies, what a request held back of its budget comes back."""

from __future__ import annotations

import time

import pytest

from tests.chaos.world import World
from tests.live import wait_until

pytestmark = pytest.mark.slow
TOKENS = 400
DOLLAR = 10**9


def counted(world: World) -> tuple[int, int]:
    """(spent, reserved) of the demo organization in dollars; a token costs one."""
    [(spent, reserved)] = world.query(
        "SELECT spent / 1000000000, reserved / 1000000000 FROM usage_budgetcounter"
        " ORDER BY id LIMIT 1"
    )
    return spent, reserved


def settled(world: World, before: int) -> int:
    """What was spent since, once nothing is reserved."""
    wait_until(lambda: counted(world)[1] == 0, seconds=10, what="the reservation's end")
    return counted(world)[0] - before


def test_a_killed_runner_gives_the_reservation_back(world: World):
    before, reserved = counted(world)
    assert reserved == 0
    with world.open_stream(TOKENS) as stream:
        stream.read(words=5)
        assert counted(world) == (before, 1 << 17)  # no max_tokens: all that a context may hold
        world.kill_runner()
        assert stream.read().error["code"] == "worker_error"
    assert settled(world, before) == 0


def test_a_job_keeps_its_reservation_over_a_crash_and_pays_once(world: World):
    before, _ = counted(world)
    job_id = world.submit(duration_ms=1000, units=4)
    wait_until(lambda: world.row(job_id)["status"] == "processing", seconds=5)
    world.kill_runner()
    time.sleep(0.3)
    assert counted(world) == (before, 4)
    assert world.wait_row(job_id, 20)["amount"] == 4
    assert settled(world, before) == 4


def test_a_killed_web_process_gives_it_back(world: World):
    before, _ = counted(world)
    streams = [world.open_stream(TOKENS) for _ in range(4)]
    for stream in streams:
        stream.read(words=2)
    for worker in world.web_workers():
        worker.kill()
    for stream in streams:
        stream.close()
    assert settled(world, before) == 0
    world.wait_ready()


def test_who_leaves_pays_for_what_was_produced(world: World):
    before, _ = counted(world)
    with world.open_stream(TOKENS) as stream:
        stream.read(words=10)
        job_id = stream.seen.job_id
    amount = world.wait_row(job_id)["amount"]
    assert 10 <= amount <= 80
    assert settled(world, before) == amount
