"""What the rows say becomes what each node holds, and what users see."""

from __future__ import annotations

import os
import threading
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from accounts.models import Organization
from casola_site.core import processes
from casola_site.core.clock import now
from inference import hosting
from inference.enums import Availability, PlacementState
from inference.models import ModelSpec, Node, Placement
from jobs import leases
from jobs.enums import RunnerState
from jobs.models import Runner
from tests.factories.accounts import make_organization
from tests.factories.jobs import make_job

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
MB = 1 << 20


@pytest.fixture(autouse=True)
def _fresh_memory():
    hosting._told.clear()


def make_spec(model_id: str = "m", memory_mb: int = 100, **columns) -> ModelSpec:
    options = {"memory_mb": memory_mb, **columns.pop("options", {})}
    return ModelSpec.objects.create(model_id=model_id, engine="echo", options=options, **columns)


def make_node(name: str = "n", memory_mb: int = 1000, slots: int = 4) -> None:
    devices = [{"name": "cpu", "memory_bytes": memory_mb * MB}]
    hosting.beat(node=name, pid=1, slots=slots, devices=devices)


def make_runner(placement: Placement, **columns) -> Runner:
    values = {"state": RunnerState.LIVE, "pid": os.getpid(), "pid_start": processes.own_start()}
    return leases.register_runner(
        placement_id=placement.public_id,
        queue_id=placement.spec.queue_id,
        model_id=placement.spec.model_id,
        node=placement.node,
        **{**values, **columns},
    )


def states() -> list[tuple[str, str]]:
    rows = Placement.objects.order_by("pk").values_list("spec__model_id", "state")
    return list(rows)


def test_demand_places_a_model():
    make_node()
    spec = make_spec()
    assert hosting.reconcile(node="n", now=now()) == {}
    assert states() == []
    assert hosting.want_model(spec_id=spec.public_id, now=now())
    hosting.reconcile(node="n", now=now())
    placement = Placement.objects.get()
    assert (placement.node, placement.device, placement.memory_bytes) == ("n", "cpu", 100 * MB)
    hosting.reconcile(node="n", now=now())
    assert states() == [("m", "wanted")]


def test_jobs_that_wait_place_a_model_unless_their_organization_is_suspended():
    make_node()
    spec = make_spec()
    organization = make_organization(status="suspended")
    make_job(organization=organization, queue_id=spec.queue_id, model_id=spec.model_id)
    hosting.reconcile(node="n", now=now())
    assert states() == []
    Organization.objects.update(status="active")
    hosting.reconcile(node="n", now=now())
    assert states() == [("m", "wanted")]


def test_demand_is_written_once_in_a_few_seconds():
    spec = make_spec()
    start = now()
    assert hosting.want_model(spec_id=spec.public_id, now=start)
    with CaptureQueriesContext(connection) as queries:
        assert not hosting.want_model(spec_id=spec.public_id, now=start + timedelta(seconds=4))
    assert len(queries) == 0
    assert not hosting.want_model(spec_id=spec.public_id, now=start + timedelta(seconds=6))
    ModelSpec.objects.update(wanted_at=start - timedelta(seconds=10))
    assert hosting.want_model(spec_id=spec.public_id, now=start + timedelta(seconds=12))


def test_a_node_does_only_its_own_part():
    make_node("n", 100)
    make_node("o", 1000)
    make_spec(keep_loaded=True)
    hosting.reconcile(node="n", now=now())
    assert states() == []
    hosting.reconcile(node="o", now=now())
    assert Placement.objects.get().node == "o"


def test_a_silent_node_is_not_alive():
    make_node("n")
    make_spec(keep_loaded=True)
    Node.objects.update(heartbeat_at=leases.ago(hosting.NODE_SECONDS + 1))
    assert list(hosting.reconcile(node="n", now=now()).values()) == ["no node is alive"]
    assert states() == []


def test_an_idle_model_makes_room_and_comes_back_on_demand_only():
    make_node("n", 150)
    first, second = make_spec("first"), make_spec("second")
    start = now()
    ModelSpec.objects.filter(pk=first.pk).update(wanted_at=start - timedelta(seconds=60))
    hosting.reconcile(node="n", now=start - timedelta(seconds=50))
    placement = Placement.objects.get()
    make_runner(placement)
    ModelSpec.objects.filter(pk=second.pk).update(wanted_at=start)
    hosting.reconcile(node="n", now=start)
    assert states() == [("first", "stopping")]
    hosting.reconcile(node="n", now=start)
    assert states() == [("first", "stopping")]
    Runner.objects.update(state=RunnerState.STOPPED)
    assert hosting.finish_placement(placement_id=placement.public_id)
    hosting.reconcile(node="n", now=start)
    assert states() == [("first", "stopped"), ("second", "wanted")]
    make_runner(Placement.objects.get(spec=second))
    hosting.reconcile(node="n", now=start + timedelta(seconds=1))
    assert states() == [("first", "stopped"), ("second", "wanted")]


@pytest.mark.parametrize("column", [{"outstanding": 1}, {"state": RunnerState.LOADING}])
def test_a_busy_or_loading_model_is_not_evicted(column):
    make_node("n", 150)
    start = now()
    make_spec("first", wanted_at=start - timedelta(seconds=60))
    hosting.reconcile(node="n", now=start - timedelta(seconds=50))
    make_runner(Placement.objects.get(), **column)
    spec = make_spec("second", wanted_at=start)
    reasons = hosting.reconcile(node="n", now=start)
    assert reasons == {spec.public_id: "waits until a busy model becomes idle"}
    assert states() == [("first", "wanted")]


def test_a_model_that_cannot_load_makes_room():
    make_node("n", 150)
    start = now()
    make_spec("broken", wanted_at=start - timedelta(seconds=60))
    hosting.reconcile(node="n", now=start - timedelta(seconds=50))
    for _ in range(3):
        hosting.count_failure(placement_id=Placement.objects.get().public_id, detail="broken")
    make_spec("second", wanted_at=start)
    hosting.reconcile(node="n", now=start)
    assert states() == [("broken", "stopping")]


def test_a_model_that_cannot_load_is_offline():
    make_node()
    spec = make_spec("broken", wanted_at=Now())
    row = Placement.objects.create(spec=spec, node="n", device="cpu")
    for expected in (Availability.WARMING_UP, Availability.WARMING_UP, Availability.OFFLINE):
        assert not hosting.is_failing(spec_id=spec.public_id)
        hosting.count_failure(placement_id=row.public_id, detail="its package is missing")
        assert hosting.availability(spec) == expected
    assert hosting.is_failing(spec_id=spec.public_id)
    make_node("o")
    Placement.objects.create(spec=spec, node="o", device="cpu")
    assert not hosting.is_failing(spec_id=spec.public_id)
    assert hosting.availability(spec) == Availability.WARMING_UP


def test_an_unused_model_leaves(settings):
    settings.IDLE_UNLOAD_SECONDS = 100
    make_node()
    start = now()
    make_spec("unused", wanted_at=start)
    make_spec("kept", keep_loaded=True)
    hosting.reconcile(node="n", now=start)
    for placement in Placement.objects.all():
        make_runner(placement)
    hosting.reconcile(node="n", now=start + timedelta(seconds=99))
    assert states() == [("kept", "wanted"), ("unused", "wanted")]
    hosting.reconcile(node="n", now=start + timedelta(seconds=101))
    assert states() == [("kept", "wanted"), ("unused", "stopping")]


def test_the_measured_memory_counts():
    make_node("n", 1000)
    start = now()
    make_spec("first", 600, wanted_at=start - timedelta(seconds=9))
    hosting.reconcile(node="n", now=start)
    placement = Placement.objects.get()
    measured = hosting.Progress(placement.public_id, memory_bytes=300 * MB, outstanding=1)
    hosting.record_progress(progress=[measured], now=start)
    make_spec("second", 600, wanted_at=start)
    hosting.reconcile(node="n", now=start)
    assert states() == [("first", "wanted"), ("second", "wanted")]


def test_stopped_rows_do_not_pile_up():
    make_node()
    spec = make_spec()
    for _ in range(3):
        row = Placement.objects.create(spec=spec, node="n", device="cpu")
        assert not hosting.finish_placement(placement_id=row.public_id)
        assert hosting.stop_placement(placement_id=row.public_id, reason="test", now=now())
        assert not hosting.stop_placement(placement_id=row.public_id, reason="test", now=now())
        assert hosting.finish_placement(placement_id=row.public_id)
    assert Placement.objects.get().public_id == row.public_id


def test_availability():
    specs = {name: make_spec(name) for name in ("live", "loading", "placed", "asked", "idle")}
    specs["off"] = make_spec("off", enabled=False)
    every = dict.fromkeys(specs, Availability.OFFLINE)
    assert seen(specs) == every
    make_node()
    assert seen(specs) == {**dict.fromkeys(specs, Availability.STANDBY), "off": "offline"}
    for name in ("live", "loading", "placed"):
        Placement.objects.create(spec=specs[name], node="n", device="cpu")
    make_runner(specs["live"].placements.get())
    make_runner(specs["loading"].placements.get(), state=RunnerState.LOADING)
    ModelSpec.objects.filter(model_id="asked").update(wanted_at=Now())
    with CaptureQueriesContext(connection) as queries:
        assert seen(specs) == {
            "live": "online",
            "loading": "warming_up",
            "placed": "warming_up",
            "asked": "warming_up",
            "idle": "standby",
            "off": "offline",
        }
    assert len(queries) == 4
    Runner.objects.update(heartbeat_at=leases.ago(3600))
    assert seen(specs)["live"] == "warming_up"
    assert hosting.availability(specs["idle"]) == Availability.STANDBY


def seen(specs: dict[str, ModelSpec]) -> dict[str, str]:
    found = hosting.availabilities(specs.values())
    return {name: found[spec.public_id] for name, spec in specs.items()}


@pytest.mark.django_db(transaction=True)
def test_two_nodes_place_a_model_once():
    if connection.vendor == "sqlite":
        pytest.skip("a database in memory cannot be used by two threads")
    for name in ("n", "o"):
        make_node(name)
    for count in range(5):
        make_spec(f"m{count}", keep_loaded=True)
    together = threading.Barrier(2)

    def run(name: str) -> None:
        together.wait()
        for _ in range(5):
            hosting.reconcile(node=name, now=now())
        connections.close_all()

    threads = [threading.Thread(target=run, args=(name,)) for name in ("n", "o")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(states()) == [(f"m{count}", PlacementState.WANTED) for count in range(5)]
