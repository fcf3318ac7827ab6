"""Real qnodes, killed for real: one test for each way in which django-q would not survive."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from django.db import connections

from casola_site.core import processes, queue
from jobs.enums import RunnerState
from tests.hosting.live import ALIAS, CLUSTER, World, took
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.sqlite]
START = 60  # seconds a start may take on a loaded machine


def live(world: World, placement, seconds: float = START):
    return until(lambda: world.live(placement), seconds, "a live runner")


def test_named_cluster_serves_its_own_queue_only(world):
    world.start().children()
    world.enqueue("default", "tests.hosting.standin.write", "for-default")
    world.enqueue(CLUSTER, "tests.hosting.standin.write", "for-gpu")
    answer = until(lambda: _read(world, "for-gpu"), START)
    assert answer.split()[0] == CLUSTER
    assert _read(world, "for-default") == ""
    assert world.queued("default") == ["test:tests.hosting.standin.write"]


def test_default_cluster_serves_tasks_signed_elsewhere(world):
    world.start("default")
    world.enqueue("default", "tests.hosting.standin.write", "signed")
    assert until(lambda: _read(world, "signed"), START).split()[0] == "default"


def test_endless_task_is_neither_ended_nor_redelivered(world):
    placement = world.want("a")
    node = world.start(TEST_RETRY="3", TEST_TIMEOUT="2")
    first = live(world, placement)
    assert world.queued(CLUSTER) == []
    time.sleep(5)  # past the timeout, its grace and the retry
    assert [r.pk for r in world.runners(placement)] == [first.pk]
    assert world.live(placement).pk == first.pk
    assert node.process.poll() is None


def test_the_real_runner_lives_is_replaced_and_drains(world):
    placement = world.want("a")
    node = world.start(TEST_RUNNER_FUNCTION="inference.background.run_placement")
    first = live(world, placement, 30)
    os.kill(first.pid, signal.SIGKILL)
    second = until(lambda: replacement(world, placement, first), START)
    node.signal(signal.SIGTERM)
    assert node.wait(15) == 0
    states = [(r.pk, r.state) for r in world.runners(placement)]
    assert states == [(first.pk, RunnerState.DEAD), (second.pk, RunnerState.STOPPED)]


def test_killed_busy_worker_is_replaced_and_fenced(world):
    placement = world.want("a")
    world.start()
    first = live(world, placement)
    os.kill(first.pid, signal.SIGKILL)
    seconds = took(lambda: replacement(world, placement, first), START, "a new runner")
    print(f"busy worker killed: new runner after {seconds:.1f} s")
    assert world.runners(placement)[0].state == RunnerState.DEAD


def test_killed_idle_worker_does_no_harm_to_the_others(world):
    serving = world.want("a")
    node = world.start()
    first = live(world, serving)
    for worker in node.workers():
        if worker.pid != first.pid:
            worker.kill()
    began = time.monotonic()
    second = world.want("b")
    live(world, second)
    print(f"idle workers killed: working again after {time.monotonic() - began:.1f} s")
    assert world.live(serving).pid == first.pid
    assert "took back the queue's lock" in node.text()


def test_killed_idle_worker_of_the_default_cluster(world):
    node = world.start("default")
    for worker in node.workers():
        worker.kill()
    world.enqueue("default", "tests.hosting.standin.write", "after-idle-kill")
    until(lambda: _read(world, "after-idle-kill"), START)


def test_wedged_cluster_is_started_afresh(world):
    node = world.start()
    node.pusher().suspend()
    placement = world.want("a")
    began = time.monotonic()
    assert node.restart_when_ended(START) != 0
    live(world, placement)
    print(f"wedged: working again after {time.monotonic() - began:.1f} s")


def test_killed_main_leaves_no_process_and_next_start_works(world):
    placement = world.want("a", child="session")
    node = world.start()
    first = live(world, placement)
    child = int(first.detail)
    os.kill(node.process.pid, signal.SIGKILL)
    node.wait(5)
    until(lambda: not _own(node, child), START, "the cluster ended")
    node.spawn()
    second = until(lambda: replacement(world, placement, first), START)
    assert second.pid != first.pid
    assert not processes.is_running(child)
    assert world.runners(placement)[0].state == RunnerState.DEAD


def test_killed_sentinel_ends_everything_with_an_error_code(world):
    placement = world.want("a", child="session")
    node = world.start()
    first = live(world, placement)
    node.sentinel().kill()
    assert node.wait(5) != 0
    assert node.family() == []
    assert not processes.is_running(int(first.detail))
    node.spawn()
    until(lambda: replacement(world, placement, first), START)


def test_killed_pusher_and_monitor_are_replaced(world):
    node = world.start("default")
    for process in node.children()[-2:]:
        process.kill()
    world.enqueue("default", "tests.hosting.standin.write", "after-pusher")
    until(lambda: _read(world, "after-pusher"), 15, node.text)
    until(lambda: not world.queued("default", "test:"), 10, node.text)
    world.enqueue("default", "tests.hosting.standin.fail", "for the monitor")
    until(lambda: world.failures() == ["for the monitor"], 10, node.text)
    assert world.queued("default", "test:") == []


def test_function_that_ran_is_not_run_again_for_want_of_a_monitor(world):
    node = world.start("default")
    node.children()[-2].suspend()
    world.enqueue("default", "tests.hosting.standin.write", "unheard")
    until(lambda: _read(world, "unheard"), 15, node.text)
    until(lambda: not world.queued("default", "test:"), 10, node.text)


def test_sigterm_to_the_group_drains_endless_tasks(world):
    placements = [world.want("a"), world.want("b")]
    node = world.start()
    runners = [live(world, placement) for placement in placements]
    began = time.monotonic()
    node.signal(signal.SIGTERM)
    assert node.wait(10) == 0
    print(f"SIGTERM: exit 0 after {time.monotonic() - began:.1f} s")
    assert node.family() == []
    assert world.holders() == 0
    for placement, runner in zip(placements, runners, strict=True):
        assert [(r.pk, r.state) for r in world.runners(placement)] == [
            (runner.pk, RunnerState.STOPPED)
        ]


def test_sigterm_ends_a_deaf_task_after_the_drain_time(world):
    placement = world.want("a", deaf=True)
    node = world.start(DRAIN_SECONDS="2")
    live(world, placement)
    began = time.monotonic()
    node.signal(signal.SIGTERM)
    assert node.wait(15) == 0
    assert time.monotonic() - began >= 2
    assert node.family() == []
    last = world.runners(placement)[-1]
    assert (last.state, last.detail) == (RunnerState.STOPPED, "drained")


def test_sigterm_lets_a_background_function_finish(world):
    node = world.start("default")
    world.enqueue("default", "tests.hosting.standin.sleep", "finishes", 2)
    until(lambda: _read(world, "finishes"), START)
    node.signal(signal.SIGTERM)
    assert node.wait(15) == 0
    assert _read(world, "finishes").split() == ["began", "ended"]
    assert world.queued("default", "test:") == []


@pytest.mark.parametrize("kind", ["spawn", "session"])
def test_children_of_a_worker_are_allowed_and_end_with_the_node(world, kind):
    placement = world.want("a", child=kind)
    node = world.start()
    child = int(live(world, placement).detail)
    assert processes.is_running(child)
    node.signal(signal.SIGTERM)
    assert node.wait(15) == 0
    until(lambda: not processes.is_running(child), 2, "the child's end")
    assert node.family() == []


def test_second_start_is_refused_while_the_first_lives(world):
    first = world.start()
    first.sentinel()
    second = world.start()
    assert second.wait(START) == 1
    assert f"it already runs as process {first.process.pid}" in second.text()
    assert first.process.poll() is None
    assert first.sentinel().is_running()


def test_torch_works_in_the_task(world):
    placement = world.want("a", torch=True)
    node = world.start()
    runner = live(world, placement, 40)
    assert runner.detail == "8000000"
    assert _has_torch(runner.pid)
    assert not _has_torch(node.process.pid)
    assert not _has_torch(node.sentinel().pid)
    environment = Path(f"/proc/{runner.pid}/environ").read_text().split("\0")
    assert "OMP_WAIT_POLICY=passive" in environment
    assert "HF_HUB_OFFLINE=1" in environment
    assert any(entry.startswith("OMP_NUM_THREADS=") for entry in environment)


def test_placing_and_stopping_one_leaves_the_other_alone(world):
    staying = world.want("a")
    world.start()
    pid = live(world, staying).pid
    leaving = world.want("b")
    gone = live(world, leaving)
    world.leave(leaving)
    until(lambda: world.state(leaving) == "stopped", 10, "stopped")
    assert not processes.is_running(gone.pid, gone.pid_start)
    assert world.live(staying).pid == pid
    assert len(world.runners(staying)) == 1


def test_frozen_runner_is_fenced_killed_and_replaced(world):
    placement = world.want("a")
    world.start(LEASE_SECONDS="3")
    first = live(world, placement)
    os.kill(first.pid, signal.SIGSTOP)
    until(lambda: replacement(world, placement, first), 20, "another runner")
    until(
        lambda: not processes.is_running(first.pid, first.pid_start), 3, "the frozen process ended"
    )
    assert world.runners(placement)[0].state == RunnerState.DEAD


def test_lost_database_connections_are_survived(world):
    if connections[ALIAS].vendor != "postgresql":
        pytest.skip("SQLite has no connections to lose")
    nodes = [world.start("default"), world.start()]
    for node in nodes:
        node.children()
    for _ in range(3):
        with connections[ALIAS].cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        time.sleep(0.5)
    world.enqueue("default", "tests.hosting.standin.write", "after-loss")
    until(lambda: _read(world, "after-loss"), 10)
    live(world, world.want("a"))
    assert [node.process.poll() for node in nodes] == [None, None]


def test_models_load_one_at_a_time(world):
    placements = [world.want("a", load_seconds=1), world.want("b", load_seconds=1)]
    world.start()
    rows = [live(world, placement) for placement in placements]
    first, second = sorted(rows, key=lambda row: row.started_at)
    assert (second.started_at - first.started_at).total_seconds() >= 1


def test_stale_runner_tasks_are_dropped_at_start(world):
    world.enqueue(CLUSTER, "tests.hosting.standin.write", "stale", name=f"{queue.RUNNER_PREFIX}x")
    node = world.start()
    node.children()
    until(lambda: not world.queued(CLUSTER), 10)
    assert _read(world, "stale") == ""


def replacement(world: World, placement, first):
    """The placement's live runner once it is another one than `first`."""
    found = world.live(placement)
    return found if found and found.pk != first.pk else None


def _read(world: World, name: str) -> str:
    path = world.var_dir / name
    return path.read_text() if path.exists() else ""


def _has_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def _own(node, child: int) -> list[int]:
    """What is left of the cluster itself (a grandchild may live on until the next start)."""
    return [pid for pid in node.family() if pid != child]
