"""Placement decides alone from values; nothing it does disturbs what is busy or already placed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.placement import (
    GIB,
    Candidate,
    Device,
    Evict,
    Host,
    Place,
    Placed,
    Spec,
    backoff_seconds,
    next_to_load,
    plan,
)

NOW = 10_000.0


def spec(name: str, gib: float = 1, **columns) -> Spec:
    memory = int(gib * GIB)
    return Spec(id=name, memory=memory, memory_on_cpu=memory, **{"wanted_at": NOW, **columns})


def placed(name: str, gib: float = 1, node: str = "n", device: str = "cpu", **columns) -> Placed:
    columns = {"used_at": NOW - 100, **columns}
    return Placed(f"p-{name}", name, node, device, int(gib * GIB), **columns)


def host(gib: float = 10, name: str = "n", slots: int = 8, **gpus: float) -> Host:
    cards = [Device(key.replace("_", ":"), int(size * GIB)) for key, size in gpus.items()]
    return Host(name, slots, (*cards, Device("cpu", int(gib * GIB))))


def decide(specs, placements=(), hosts=None, now=NOW):
    hosts = [host()] if hosts is None else hosts
    return plan(specs=specs, placements=placements, hosts=hosts, now=now, idle_seconds=900)


def test_a_wanted_model_is_placed_where_most_is_free():
    hosts = [host(4, "a"), host(8, "b"), host(8, "c")]
    assert decide([spec("m", 2)], hosts=hosts).actions == [Place("m", "b", "cpu", 2 * GIB)]


def test_a_model_nobody_wants_is_not_placed():
    assert decide([spec("m", wanted_at=None)]).actions == []
    assert decide([spec("m", enabled=False)]).actions == []


def test_a_placed_model_is_left_where_it_is():
    hosts = [host(4, "n"), host(100, "roomy")]
    assert decide([spec("m")], [placed("m")], hosts).actions == []


def test_a_second_copy_goes_to_another_node():
    hosts = [host(4, "n"), host(4, "o")]
    result = decide([spec("m", copies=2)], [placed("m")], hosts)
    assert result.actions == [Place("m", "o", "cpu", GIB)]


def test_a_copy_on_a_dead_node_does_not_count():
    result = decide([spec("m")], [placed("m", node="dead")])
    assert result.actions == [Place("m", "n", "cpu", GIB)]


def test_one_copy_too_many_leaves_when_idle():
    hosts = [host(name="n"), host(name="o")]
    older = placed("m", used_at=NOW - 50)
    newer = replace(placed("m", node="o", used_at=NOW - 10), id="p-m2")
    result = decide([spec("m")], [older, newer], hosts)
    assert result.actions == [Evict("p-m", "n", "one copy too many")]
    assert (
        decide([spec("m")], [replace(older, busy=True), newer], hosts).evicts[0].placement_id
        == "p-m2"
    )


def test_the_least_recently_used_idle_model_makes_room():
    there = [
        placed("old", 4, used_at=NOW - 500),
        placed("new", 4, used_at=NOW - 5),
        placed("busy", 2, used_at=NOW - 900, busy=True),
    ]
    specs = [spec("m", 3), *(spec(p.spec_id, 4, wanted_at=None) for p in there)]
    result = decide(specs, there)
    assert result.actions == [Evict("p-old", "n", "makes room")]
    assert result.reasons == {"m": "waits until another model has left"}


def test_no_more_are_evicted_than_needed():
    there = [placed("small", 1, used_at=NOW - 500), placed("large", 8, used_at=NOW - 400)]
    specs = [spec("m", 8), *(spec(p.spec_id, wanted_at=None) for p in there)]
    assert decide(specs, there).actions == [Evict("p-large", "n", "makes room")]


@pytest.mark.parametrize("column", ["busy", "pinned"])
def test_busy_and_kept_models_stay(column):
    there = [placed("a", 9, **{column: True})]
    specs = [spec("m", 3), spec("a", 9, wanted_at=None, keep_loaded=column == "pinned")]
    result = decide(specs, there)
    assert result.actions == []
    assert result.reasons == {"m": "waits until a busy model becomes idle"}


def test_a_model_used_after_the_demand_is_not_evicted_for_it():
    there = [placed("a", 9, used_at=NOW - 1)]
    specs = [spec("m", 3, wanted_at=NOW - 5), spec("a", 9, wanted_at=None)]
    assert decide(specs, there).actions == []


def test_nothing_more_is_evicted_while_one_is_leaving():
    there = [placed("a", 5, leaving=True), placed("b", 5)]
    specs = [spec("m", 4), spec("a", 5, wanted_at=None), spec("b", 5, wanted_at=None)]
    result = decide(specs, there)
    assert result.actions == []
    assert result.reasons == {"m": "waits until another model has left"}


def test_room_that_becomes_free_is_kept_for_the_first_in_line():
    there = [placed("a", 8, leaving=True)]
    specs = [spec("m", 9, wanted_at=NOW - 50), spec("late", 2), spec("a", 8, wanted_at=None)]
    assert decide(specs, there).actions == []


def test_an_unused_model_leaves_after_the_idle_time():
    specs = [spec("m", wanted_at=None)]
    assert decide(specs, [placed("m", used_at=NOW - 901)]).actions == [Evict("p-m", "n", "idle")]
    assert decide(specs, [placed("m", used_at=NOW - 899)]).actions == []
    kept = [spec("m", wanted_at=None, keep_loaded=True)]
    assert decide(kept, [placed("m", used_at=NOW - 9_000, pinned=True)]).actions == []


def test_a_disabled_model_leaves_once_it_is_idle():
    specs = [spec("m", enabled=False)]
    assert decide(specs, [placed("m", busy=True)]).actions == []
    assert decide(specs, [placed("m")]).actions == [Evict("p-m", "n", "disabled")]


def test_slots_are_limited_too():
    specs = [spec("m"), spec("a", wanted_at=None)]
    result = decide(specs, [placed("a", 1)], [host(10, slots=1)])
    assert result.actions == [Evict("p-a", "n", "makes room")]
    result = decide(specs, [placed("a", 1, busy=True)], [host(10, slots=1)])
    assert result.reasons == {"m": "waits until a busy model becomes idle"}


def test_auto_takes_an_accelerator_when_one_is_large_enough():
    hosts = [host(100, cuda_0=8, cuda_1=16)]
    assert decide([spec("m", 4)], hosts=hosts).places[0].device == "cuda:1"
    assert decide([spec("m", 20)], hosts=hosts).places[0].device == "cpu"
    assert decide([spec("m", 4, device="cuda:0")], hosts=hosts).places[0].device == "cuda:0"
    assert decide([spec("m", 4, device="cpu")], hosts=hosts).places[0].device == "cpu"


def test_the_reason_says_why_a_model_fits_nowhere():
    assert decide([spec("m", 20)]).reasons == {
        "m": "needs 20.0 GiB, the largest device has 10.0 GiB"
    }
    assert decide([spec("m", device="cuda")]).reasons == {"m": "no node has the device 'cuda'"}
    assert decide([spec("m")], hosts=[]).reasons == {"m": "no node is alive"}


def test_backoff_grows_to_a_minute():
    assert [backoff_seconds(n) for n in range(10)] == [0, 0, 1, 2, 5, 10, 20, 40, 60, 60]


def test_only_one_loads_at_a_time():
    first = Candidate("a", loading=False, due=True, wanted_since=2)
    second = Candidate("b", loading=False, due=True, wanted_since=1)
    assert next_to_load([first, second]) == "b"
    assert next_to_load([first, replace(second, failures=1)]) == "a"
    assert next_to_load([first, replace(second, loading=True, due=False)]) is None
    assert next_to_load([replace(first, due=False)]) is None
    assert next_to_load([]) is None


names = st.sampled_from("abcdef")
sizes = st.integers(1, 12).map(lambda gib: gib * GIB)
times = st.floats(NOW - 2000, NOW)
spec_lists = st.lists(
    st.builds(
        Spec,
        id=names,
        memory=sizes,
        memory_on_cpu=sizes,
        device=st.sampled_from(["auto", "cpu", "cuda", "cuda:0"]),
        enabled=st.booleans(),
        keep_loaded=st.booleans(),
        wanted_at=st.none() | times,
        copies=st.integers(1, 3),
    ),
    unique_by=lambda s: s.id,
)
host_lists = st.lists(
    st.builds(
        Host,
        name=st.sampled_from(["n", "o"]),
        slots=st.integers(1, 4),
        devices=st.sampled_from(
            [
                (Device("cpu", 10 * GIB),),
                (Device("cuda:0", 8 * GIB), Device("cpu", 10 * GIB)),
                (Device("cuda:0", 8 * GIB), Device("cuda:1", 4 * GIB), Device("cpu", 5 * GIB)),
            ]
        ),
    ),
    unique_by=lambda h: h.name,
)
placed_lists = st.lists(
    st.builds(
        Placed,
        id=st.uuids().map(str),
        spec_id=names,
        node=st.sampled_from(["n", "o", "dead"]),
        device=st.sampled_from(["cpu", "cuda:0"]),
        memory=sizes,
        used_at=times,
        busy=st.booleans(),
        leaving=st.booleans(),
        pinned=st.booleans(),
    ),
    unique_by=lambda p: (p.spec_id, p.node),
)


@given(specs=spec_lists, placements=placed_lists, hosts=host_lists)
def test_a_plan_is_safe_and_always_the_same(specs, placements, hosts):
    result = decide(specs, placements, hosts)
    assert decide(specs[::-1], placements[::-1], hosts[::-1]) == result
    by_id = {p.id: p for p in placements}
    known = {s.id: s for s in specs}
    for evict in result.evicts:
        victim = by_id[evict.placement_id]
        assert not victim.busy
        assert not victim.leaving
        assert evict.reason != "makes room" or not victim.pinned
    assert len({e.placement_id for e in result.evicts}) == len(result.evicts)
    for place in result.places:
        assert known[place.spec_id].enabled
        assert not any(p.spec_id == place.spec_id and p.node == place.node for p in placements)
    for one in hosts:
        for device in one.devices:
            new = [p for p in result.places if (p.node, p.device) == (one.name, device.name)]
            there = [p for p in placements if (p.node, p.device) == (one.name, device.name)]
            assert not new or sum(p.memory for p in [*new, *there]) <= device.memory
        fresh = [p for p in result.places if p.node == one.name]
        assert not fresh or len(fresh) + sum(p.node == one.name for p in placements) <= one.slots
