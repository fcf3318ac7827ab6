"""The Runner's process is killed, frozen or hangs, at every moment of a request's life."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from tests.chaos.world import World
from tests.live import wait_until

pytestmark = pytest.mark.slow


def test_killed_before_its_first_output(world: World):
    assert world.ask().is_whole
    asking = world.in_background(world.ask, "!slow 1500 !tokens 5")
    time.sleep(0.5)
    began = time.monotonic()
    old = world.kill_runner()
    seen = asking.result(30)
    print(f"killed before output: answered {time.monotonic() - began:.1f} s later")
    assert seen.is_whole, seen
    row = world.wait_row(seen.job_id)
    assert (row["status"], row["lane"], row["amount"]) == ("completed", "interactive", 5)
    assert row["runner_id"] > old


def test_killed_in_the_middle_of_a_stream(world: World):
    with world.open_stream(500) as stream:
        stream.read(words=10)
        began = time.monotonic()
        world.kill_runner()
        seen = stream.read()
    seconds = time.monotonic() - began
    print(f"killed while streaming: error event after {seconds:.1f} s")
    assert seen.is_done
    assert seen.error["code"] == "worker_error"
    row = world.wait_row(seen.job_id)
    assert (row["status"], row["amount"]) == ("failed", 0)
    assert row["error"]["code"] == "worker_crashed"


def test_killed_while_idle(world: World):
    old = world.kill_runner()
    began = time.monotonic()
    seen = world.ask()
    print(f"killed while idle: next answer after {time.monotonic() - began:.1f} s")
    assert seen.is_whole, seen
    assert world.new_runner(old)


def test_killed_with_a_persisted_job(world: World):
    job_id = world.submit(duration_ms=1000, units=4)
    wait_until(lambda: world.row(job_id)["status"] == "processing", seconds=5)
    began = time.monotonic()
    world.kill_runner()
    row = world.wait_row(job_id, 20)
    print(f"killed with a job: completed {time.monotonic() - began:.1f} s later")
    assert (row["status"], row["attempts"], row["crashes"]) == ("completed", 2, 1)
    assert row["amount"] == 4


def test_a_poisonous_job_ends_alone(world: World):
    others = [world.submit(duration_ms=300, units=1) for _ in range(10)]
    poison = world.submit(crash=True)
    others += [world.submit(duration_ms=300, units=1) for _ in range(10)]
    row = world.wait_row(poison, 40)
    assert (row["status"], row["crashes"], row["attempts"]) == ("failed", 3, 3)
    assert row["error"]["code"] == "worker_crashed"
    assert row["amount"] == 0
    rows = [world.wait_row(job_id, 30) for job_id in others]
    assert {row["status"] for row in rows} == {"completed"}
    # Those of its batch ran beside it once more; what crashed twice runs alone.
    assert max(row["crashes"] for row in rows) <= 2


def test_a_poisonous_answer_kills_few_runners_and_is_given_up(world: World):
    first, _ = world.runner()
    seen = world.ask("!crash")
    assert (seen.status, seen.error["code"]) == (502, "worker_error"), seen
    dead = "SELECT count(*) FROM jobs_runner WHERE id >= %s AND state = 'dead'"
    killed = wait_until(lambda: world.query(dead, first)[0][0], seconds=5, what="dead runners")
    # Two that had acknowledged it, or four in all.
    assert 2 <= killed <= 4
    rows = world.query(
        "SELECT status, error ->> 'code' FROM jobs_job WHERE lane = 'interactive'"
        " ORDER BY completed_at DESC LIMIT 1"
    )
    assert rows == [("failed", "worker_crashed")]
    assert world.ask().is_whole


def test_frozen_past_its_lease(world: World):
    job_id = world.submit(duration_ms=2000, units=2)
    wait_until(lambda: world.row(job_id)["status"] == "processing", seconds=5)
    old, pid = world.runner()
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    world.new_runner(old)
    print(f"frozen: replaced after {time.monotonic() - began:.1f} s")
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGCONT)
    row = world.wait_row(job_id, 20)
    assert (row["status"], row["attempts"], row["amount"]) == ("completed", 2, 2)
    assert row["runner_id"] > old
    wait_until(lambda: not psutil.pid_exists(pid), seconds=5, what="the end of the frozen process")


def test_frozen_shorter_than_its_lease_records_once(world: World):
    asking = world.in_background(world.ask, "!slow 3000 !tokens 3")
    time.sleep(0.7)
    _, pid = world.runner()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(pid, signal.SIGCONT)
    seen = asking.result(30)
    assert seen.is_whole, seen
    assert world.wait_row(seen.job_id)["amount"] == 3


def test_hanging_engine_is_replaced(world: World):
    job_id = world.submit(hang=True)
    wait_until(lambda: world.row(job_id)["status"] == "processing", seconds=5)
    old, _ = world.runner()
    began = time.monotonic()
    # Its own time (8 s) and the grace (1 s) pass; the process ends and the attempt is counted.
    world.new_runner(old, 30)
    print(f"hanging: replaced after {time.monotonic() - began:.1f} s")
    assert world.row(job_id)["crashes"] >= 1
    assert world.post(f"/api/jobs/{job_id}/cancel").status_code == 200
    world.journal.cancel(job_id)
    row = world.wait_row(job_id)
    assert (row["status"], row["amount"]) == ("cancelled", 0)
    # Whoever works on it again has nobody to answer to.
    wait_until(lambda: world.ask().is_whole, seconds=30, what="an answer")
