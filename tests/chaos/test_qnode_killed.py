"""The processes above the Runner are killed, or told to end."""

from __future__ import annotations

import signal
import time

import pytest

from tests.chaos.world import World
from tests.live import wait_until

pytestmark = pytest.mark.slow
NODE = ("qnode", "gpu-test")


@pytest.mark.parametrize("part", ["main process", "sentinel"])
def test_killed_above_the_runner(world: World, part: str):
    jobs = [world.submit(duration_ms=1500, units=1) for _ in range(3)]
    wait_until(lambda: world.row(jobs[0])["status"] == "processing", seconds=5)
    below = world.tree("gpu")[1:]
    victim = world.processes["gpu"] if part == "main process" else world.sentinel()
    began = time.monotonic()
    victim.kill()
    wait_until(lambda: not any(p.is_running() for p in below), seconds=5, what="no orphan")
    print(f"{part} killed: no process left after {time.monotonic() - began:.1f} s")
    code = world.supervise("gpu", *NODE)
    assert code != 0
    rows = [world.wait_row(job_id, 60) for job_id in jobs]
    print(f"{part} killed: all done {time.monotonic() - began:.1f} s later")
    assert {row["status"] for row in rows} == {"completed"}


def test_sigterm_drains(world: World):
    short = world.in_background(world.stream, 150)  # 3 s of the 8 it may take
    long = world.submit(duration_ms=60_000, units=1)
    wait_until(lambda: world.row(long)["status"] == "processing", seconds=5)
    time.sleep(0.5)
    began = time.monotonic()
    world.processes["gpu"].send_signal(signal.SIGTERM)
    time.sleep(1)
    waiting = world.in_background(world.ask, "!tokens 5")
    assert short.result(20).is_whole
    code = world.supervise("gpu", *NODE, seconds=30)
    print(f"drained: exit {code} after {time.monotonic() - began:.1f} s")
    assert code == 0
    assert waiting.result(40).is_whole
    row = wait_until(
        lambda: (r := world.row(long))["status"] == "processing" and r["attempts"] == 2 and r,
        seconds=15,
        what="the long job's second attempt",
    )
    assert row["crashes"] == 0
    assert world.post(f"/api/jobs/{long}/cancel").status_code == 200
    world.journal.cancel(long)


def test_sigterm_ends_a_stream_that_takes_too_long(world: World):
    with world.open_stream(1000) as stream:
        stream.read(words=5)
        world.processes["gpu"].send_signal(signal.SIGTERM)
        seen = stream.read()
        assert seen.is_done
        assert seen.error["code"] == "model_unavailable"
    assert world.supervise("gpu", *NODE, seconds=15) == 0
    row = world.wait_row(seen.job_id)
    assert (row["status"], row["amount"]) == ("failed", 0)
    assert row["completion_tokens"] > 100
    world.wait_ready()
