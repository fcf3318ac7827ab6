"""The agent's cycle with a clock of its own; the cluster is only its queue."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest
from django_q.models import OrmQ

from casola_site.core import processes, queue
from inference import hosting
from inference.agent import Agent
from inference.devices import DeviceMemory
from inference.enums import PlacementState
from inference.models import ModelSpec, Node, Placement
from jobs import leases
from jobs.enums import RunnerState
from jobs.models import Runner
from tests.waiting import until

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
MB = 1 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """An agent whose workers and time are in the test's hand."""

    def __init__(self, node: str | None = "n", slots: int = 3) -> None:
        self.clock = Clock()
        self.busy = 0
        self.cluster = f"gpu-{node}" if node else "default"
        self.agent = Agent(
            cluster=self.cluster,
            node=node,
            slots=slots,
            busy=lambda: self.busy,
            devices=[DeviceMemory("cpu", 1000 * MB)],
            clock=self.clock,
        )

    def cycle(self, seconds: float = 0.5) -> str | None:
        self.clock.now += seconds
        return self.agent.cycle()

    def queued(self) -> list[str]:
        return [row.name() for row in OrmQ.objects.filter(key=self.cluster).order_by("pk")]

    def take(self) -> None:
        """A worker begins the oldest task."""
        OrmQ.objects.filter(key=self.cluster).order_by("pk").first().delete()
        self.busy += 1

    def register(self, placement: Placement, process=None, **columns) -> Runner:
        pid = process.pid if process else os.getpid()
        return leases.register_runner(
            placement_id=placement.public_id,
            queue_id=placement.spec.queue_id,
            model_id=placement.spec.model_id,
            node="n",
            pid=pid,
            pid_start=processes.started_at(pid),
            **{"state": RunnerState.LIVE, **columns},
        )


@pytest.fixture
def process():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield child
    child.kill()
    child.wait()


def want(model_id: str = "m", **columns) -> ModelSpec:
    columns = {"keep_loaded": True, "options": {"memory_mb": 100}, **columns}
    return ModelSpec.objects.create(model_id=model_id, engine="echo", **columns)


def name(placement: Placement) -> str:
    return f"runner:{placement.public_id}"


def hosted(scene: Scene, process=None, **columns) -> tuple[Placement, Runner]:
    """A placement whose Runner has come up and was seen."""
    scene.cycle()
    placement = Placement.objects.order_by("-pk").first()
    scene.take()
    runner = scene.register(placement, process, **columns)
    scene.cycle()
    return placement, runner


def test_the_node_gives_a_sign_of_life():
    scene = Scene()
    scene.cycle()
    node = Node.objects.get()
    assert (node.name, node.pid, node.slots) == ("n", os.getpid(), 3)
    assert node.devices == [{"name": "cpu", "memory_bytes": 1000 * MB}]


def test_a_wanted_placement_gets_one_task():
    want()
    scene = Scene()
    scene.cycle()
    assert scene.queued() == [name(Placement.objects.get())]
    scene.cycle()
    scene.take()
    for _ in range(4):
        scene.cycle()
    assert scene.queued() == []
    scene.register(Placement.objects.get())
    for _ in range(20):
        scene.cycle(5)
    assert scene.queued() == []


def test_a_runner_that_registers_within_a_cycle_is_not_started_twice(monkeypatch):
    want()
    scene = Scene()
    scene.cycle()
    placement = Placement.objects.get()
    waiting = queue.waiting

    def just_taken(*args):
        """Its task is taken and its Runner registers after this cycle has read the Runners."""
        monkeypatch.undo()
        scene.take()
        scene.register(placement, state=RunnerState.LOADING)
        return waiting(*args)

    monkeypatch.setattr(queue, "waiting", just_taken)
    for _ in range(4):
        scene.cycle(30)
        assert scene.queued() == []
    placement.refresh_from_db()
    assert placement.failures == 0
    assert Runner.objects.count() == 1


def test_the_start_drops_what_an_earlier_node_left():
    spec = want()
    row = Placement.objects.create(spec=spec, node="n", device="cpu", memory_bytes=1)
    queue.host_runner(placement_id="stale", node="n")
    queue.enqueue("x.y")
    scene = Scene()
    scene.cycle()
    assert scene.queued() == [name(row)]
    assert OrmQ.objects.filter(key="default").count() == 1


def test_models_load_one_after_another():
    want("a")
    want("b")
    scene = Scene()
    scene.cycle()
    first, second = Placement.objects.order_by("pk")
    assert scene.queued() == [name(first)]
    scene.take()
    runner = scene.register(first, state=RunnerState.LOADING)
    scene.cycle()
    assert scene.queued() == []
    Runner.objects.filter(pk=runner.pk).update(state=RunnerState.LIVE)
    scene.cycle()
    assert scene.queued() == [name(second)]


def test_no_task_without_a_free_slot():
    want("a")
    scene = Scene(slots=1)
    hosted(scene)
    Placement.objects.create(spec=want("b"), node="n", device="cpu", memory_bytes=1)
    scene.cycle()
    assert scene.queued() == []
    scene.busy = 0
    Runner.objects.update(state=RunnerState.STOPPED)
    scene.cycle()
    assert len(scene.queued()) == 1


def test_a_dead_runner_is_fenced_and_replaced_at_once(process):
    want()
    scene = Scene()
    placement, runner = hosted(scene, process)
    process.kill()
    process.wait()
    scene.busy = 0
    scene.cycle()
    runner.refresh_from_db()
    placement.refresh_from_db()
    assert (runner.state, runner.detail) == (RunnerState.DEAD, "its process is gone")
    assert (placement.failures, scene.queued()) == (1, [name(placement)])


def test_a_runner_that_fails_again_and_again_has_to_wait():
    want()
    scene = Scene()
    waits = []
    for _ in range(6):
        waits.append(0.0)
        while not scene.queued():
            scene.cycle(0.25)
            waits[-1] += 0.25
        scene.take()
        scene.register(Placement.objects.get(), state=RunnerState.STOPPED, detail="cannot load")
        scene.busy = 0
    assert [round(wait - 0.25) for wait in waits] == [0, 0, 1, 2, 5, 10]
    assert Placement.objects.get().detail == "cannot load"


def test_failures_are_forgiven_after_a_steady_minute(process):
    want()
    scene = Scene()
    hosted(scene, process)
    Placement.objects.update(failures=5)
    scene.cycle(59)
    assert Placement.objects.get().failures == 5
    scene.cycle(10)
    assert Placement.objects.get().failures == 0


def test_a_task_that_vanished_without_a_runner_is_asked_again(settings):
    want()
    scene = Scene()
    scene.cycle()
    scene.take()
    scene.cycle(settings.RUNNER_START_SECONDS - 1)
    assert scene.queued() == []
    scene.cycle(settings.RUNNER_START_SECONDS)
    assert len(scene.queued()) == 1
    assert Placement.objects.get().detail == "the runner did not start"


def test_a_frozen_runner_is_fenced_and_killed(process):
    want()
    scene = Scene()
    _, runner = hosted(scene, process)
    Runner.objects.update(heartbeat_at=leases.ago(3600))
    scene.cycle(6)
    runner.refresh_from_db()
    assert (runner.state, runner.detail) == (RunnerState.DEAD, "lease expired")
    assert process.wait(5) == -9


def test_a_runner_that_ended_its_lease_must_end_its_process(process):
    want()
    scene = Scene()
    hosted(scene, process)
    Runner.objects.update(state=RunnerState.STOPPED)
    scene.cycle()
    scene.cycle(9)
    assert process.poll() is None
    scene.cycle(2)
    assert process.wait(5) == -9


def test_a_stopping_placement_is_stopped_when_its_process_is_gone(process):
    spec = want()
    scene = Scene()
    placement, _ = hosted(scene, process)
    ModelSpec.objects.update(enabled=False)
    scene.cycle()
    assert state(placement) == PlacementState.STOPPING
    Runner.objects.update(state=RunnerState.STOPPED)
    scene.cycle()
    assert state(placement) == PlacementState.STOPPING
    process.kill()
    process.wait()
    scene.cycle()
    assert state(placement) == PlacementState.STOPPED
    assert spec.placements.get().pk == placement.pk
    assert scene.queued() == []


def test_a_runner_that_ended_between_two_cycles_is_waited_for(process):
    want()
    scene = Scene()
    scene.cycle()
    placement = Placement.objects.get()
    scene.take()
    scene.register(placement, process, state=RunnerState.STOPPED)
    ModelSpec.objects.update(enabled=False)
    Placement.objects.update(state=PlacementState.STOPPING)
    scene.cycle()
    assert state(placement) == PlacementState.STOPPING
    scene.cycle()
    scene.cycle(11)
    assert process.wait(5) == -9
    scene.cycle()
    assert state(placement) == PlacementState.STOPPED


def test_a_runner_that_does_not_leave_is_ended_without_blame(process):
    want()
    scene = Scene()
    placement, runner = hosted(scene, process)
    hosting.stop_placement(placement_id=placement.public_id, reason="test", now=runner.started_at)
    ModelSpec.objects.update(enabled=False)
    scene.cycle()
    for _ in range(25):
        scene.cycle(5)
        with contextlib.suppress(leases.LeaseLost):
            leases.heartbeat(runner_id=runner.pk)
        runner.refresh_from_db()
        if runner.state != RunnerState.LIVE:
            break
    assert (runner.state, runner.detail) == (RunnerState.STOPPED, "did not leave in time")
    assert process.wait(5) == -9
    scene.cycle()
    assert state(placement) == PlacementState.STOPPED


def test_a_runner_without_a_placement_is_ended_in_the_end(process):
    want()
    scene = Scene()
    hosted(scene, process)
    ModelSpec.objects.all().delete()
    for _ in range(26):
        scene.cycle(5)
    assert process.wait(5) == -9


def test_a_waiting_task_of_a_stopping_placement_is_dropped():
    want()
    scene = Scene()
    scene.cycle()
    ModelSpec.objects.update(enabled=False)
    Placement.objects.update(state=PlacementState.STOPPING)
    scene.cycle()
    assert scene.queued() == []
    until(lambda: scene.cycle(1) or state(Placement.objects.get()) == PlacementState.STOPPED, 5)


def test_a_task_whose_acknowledgement_was_lost_is_dropped():
    want()
    scene = Scene()
    scene.cycle()
    scene.register(Placement.objects.get())
    scene.cycle()
    assert scene.queued() == []
    assert scene.cycle(100) is None


def test_a_task_nobody_takes_means_a_wedge(settings):
    want()
    scene = Scene()
    scene.cycle()
    scene.cycle()
    assert scene.cycle(settings.RUNNER_START_SECONDS - 0.5) is None
    assert "not taken" in scene.cycle(2)


def test_busy_workers_or_an_absent_database_are_no_wedge(settings):
    want()
    scene = Scene()
    scene.cycle()
    scene.busy = 3
    assert scene.cycle(100) is None
    scene.busy = 2
    assert scene.cycle(100) is None
    scene.agent.pause()
    assert scene.cycle(100) is None
    assert scene.cycle(settings.RUNNER_START_SECONDS + 1) is not None


def test_the_default_cluster_is_asked_for_a_sign_of_life(settings):
    queue.send_beat("default")
    scene = Scene(node=None, slots=2)
    scene.cycle()
    assert scene.queued() == ["beat:default"]
    assert Node.objects.count() == 0
    scene.take()
    scene.busy = 0
    assert scene.cycle(29) is None
    assert scene.queued() == []
    scene.cycle(2)
    assert scene.queued() == ["beat:default"]
    assert scene.cycle() is None
    assert scene.cycle(settings.RUNNER_START_SECONDS + 1) is not None


def test_the_end_gives_back_what_the_node_held(process):
    want()
    scene = Scene()
    placement, runner = hosted(scene, process)
    scene.agent.end(crashed=False, detail="drained")
    runner.refresh_from_db()
    assert (runner.state, runner.detail) == (RunnerState.STOPPED, "drained")
    assert state(placement) == PlacementState.WANTED


def state(placement: Placement) -> str:
    return Placement.objects.get(pk=placement.pk).state
