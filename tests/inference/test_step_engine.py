"""The StepEngine without a model: runs, turns, progress, cancelling between steps, errors."""

from __future__ import annotations

import io
import threading

import pytest

from inference.runners.base import Busy, Ended, Failed, InvalidInput, Media, Progress, Started
from inference.runners.step_engine import MAX_FAILED_RUNS, StepEngine, StepLimits
from inference.runners.step_line import StepLine, StepRequest
from tests.inference.recorder import Recorder

STEPS = 4
BAD, WRONG = "bad", "wrong"


class Model:
    """Spells wishes in capitals over four steps; waits before each step while the gate is shut."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self.steps = 0
        self.gate = threading.Semaphore(0)
        self.is_open = True
        self.is_broken = False

    def __call__(self, batch, on_step):
        self.runs.append([f"{item.request.request_id}{item.index}" for item in batch])
        for step in range(STEPS):
            if not self.is_open:
                assert self.gate.acquire(timeout=20)
            wishes = [item.wish for item in batch]
            if self.is_broken or BAD in wishes:
                raise RuntimeError("no")
            if WRONG in wishes:
                raise InvalidInput("not that", param="prompt")
            self.steps += 1
            on_step(step + 1, STEPS)
        return [item.wish.upper() for item in batch]


def files(values):
    return tuple(Media(io.BytesIO(value.encode()), "png") for value in values)


def request(name, *wishes, owner="a", key="k", size=1, finish=files):
    made = StepRequest(name, owner, finish)
    for wish in wishes:
        made.add(key, wish, size=size, images=1, pixels=10)
    return made


def contents(end: Ended) -> list[bytes]:
    return [item.content.read() for item in end.media]


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def engines(model):
    made = []

    def make(on_fatal=None, **limits):
        engine = StepEngine(
            model,
            limits=StepLimits(**{"rows": 4, "room": 100, "waiting": 50, **limits}),
            on_fatal=on_fatal,
        )
        made.append(engine)
        return engine

    yield make
    model.is_open = True
    model.gate.release(1000)
    for engine in made:
        assert engine.stop(timeout=10)


def test_files_come_in_the_order_of_the_wishes_and_are_counted(engines):
    engine, seen = engines(rows=2), Recorder()
    engine.start(seen)
    engine.submit(request("x", "one", "two", "three"))
    end = seen.end("x")
    assert contents(end) == [b"ONE", b"TWO", b"THREE"]
    assert (end.reason, end.units.images, end.units.pixels) == ("stop", 3, 30)
    assert engine.stats().active == engine.stats().waiting == 0


def test_every_step_is_told_from_nothing_to_all(engines):
    engine, seen = engines(rows=1), Recorder()
    engine.start(seen)
    engine.submit(request("x", "one", "two"))
    seen.end("x")
    assert isinstance(seen.by_id["x"][0], Started)
    told = [event for event in seen.by_id["x"] if isinstance(event, Progress)]
    shares = [event.fraction for event in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (pytest.approx(0.97 / 8, abs=1e-3), pytest.approx(0.97))
    assert [event.message for event in told[:4]] == [f"step {n} of 4" for n in (1, 2, 3, 4)]
    assert [event.units.images for event in told] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_equal_shapes_of_several_requests_run_together_and_others_apart(engines, model):
    engine, seen = engines(), Recorder()
    for made in (request("x", "a", key=1), request("y", "b", key=2), request("z", "c", key=1)):
        engine.submit(made)
    engine.start(seen)
    for name in "xyz":
        seen.end(name)
    assert model.runs == [["x0", "z0"], ["y0"]]


def test_a_run_has_no_more_than_its_room_but_always_something(engines, model):
    engine, seen = engines(room=100), Recorder()
    engine.submit(request("x", "a", "b", "c", size=50))
    engine.submit(request("y", "d", size=500, key=2))
    engine.start(seen)
    assert [seen.end(name).reason for name in "xy"] == ["stop", "stop"]
    assert model.runs == [["x0", "x1"], ["y0"], ["x2"]]


def test_organizations_take_turns_however_much_one_of_them_wants(engines, model):
    engine, seen = engines(rows=1), Recorder()
    engine.submit(request("many", "a", "b", "c", owner="a"))
    engine.submit(request("more", "d", owner="a"))
    engine.submit(request("one", "e", owner="b"))
    engine.start(seen)
    for name in ("many", "more", "one"):
        seen.end(name)
    assert model.runs == [["many0"], ["one0"], ["more0"], ["many1"], ["many2"]]


def test_company_comes_from_all_organizations():
    line = StepLine()
    for made in (request("x", *"abcdef", owner="a"), request("y", "g", owner="b")):
        line.append(made)
    names = [item.request.request_id for item in line.take(rows=3, room=100)]
    assert names == ["x", "y", "x"]
    assert len(line) == 4


def test_a_cancelled_run_ends_after_its_step(engines, model):
    engine, seen = engines(), Recorder()
    model.is_open = False
    engine.start(seen)
    engine.submit(request("x", "one"))
    model.gate.release(2)
    seen.wait_for("x", Progress, 2)
    engine.cancel("x")
    model.gate.release(1)
    end = seen.end("x")
    assert (end.reason, end.media, end.units.images) == ("cancelled", (), 0)
    assert model.steps == 3
    model.is_open = True
    engine.submit(request("y", "two"))
    assert contents(seen.end("y")) == [b"TWO"]


def test_who_is_not_cancelled_gets_the_files_of_a_shared_run(engines, model):
    engine, seen = engines(), Recorder()
    model.is_open = False
    engine.submit(request("x", "one", owner="a"))
    engine.submit(request("y", "two", owner="b"))
    engine.start(seen)
    model.gate.release(1)
    seen.wait_for("x", Progress)
    engine.cancel("x")
    model.gate.release(10)
    assert seen.end("x").reason == "cancelled"
    assert contents(seen.end("y")) == [b"TWO"]
    assert model.runs == [["x0", "y0"]]


def test_what_waits_is_cancelled_at_once(engines, model):
    engine, seen = engines(rows=1), Recorder()
    model.is_open = False
    engine.start(seen)
    engine.submit(request("x", "one"))
    seen.wait_for("x", Started)
    engine.submit(request("y", "two"))
    engine.cancel("y")
    engine.cancel("unknown")
    assert seen.end("y").reason == "cancelled"
    model.gate.release(10)
    assert seen.end("x").reason == "stop"
    assert model.runs == [["x0"]]


def test_an_error_ends_the_request_it_belongs_to(engines):
    engine, seen = engines(), Recorder()
    for name, wish in (("x", "one"), ("y", BAD), ("z", WRONG)):
        engine.submit(request(name, wish))
    engine.start(seen)
    assert contents(seen.end("x")) == [b"ONE"]
    failed, refused = seen.end("y"), seen.end("z")
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("worker_error", False)
    assert (refused.code, refused.message, refused.param) == ("invalid_value", "not that", "prompt")


def test_files_that_cannot_be_made_fail_their_request_only(engines):
    def broken(values):
        raise OSError("disk")

    engine, seen = engines(), Recorder()
    engine.submit(request("x", "one", finish=broken))
    engine.submit(request("y", "two"))
    engine.start(seen)
    assert seen.end("x").code == "worker_error"
    assert contents(seen.end("y")) == [b"TWO"]


def test_a_broken_model_ends_the_engine_and_what_is_open_may_run_again(engines, model):
    reasons = []
    engine, seen = engines(reasons.append, rows=1), Recorder()
    model.is_broken = True
    names = [f"r{number}" for number in range(MAX_FAILED_RUNS + 1)]
    for name in names:
        engine.submit(request(name, "one"))
    engine.start(seen)
    ends = [seen.end(name) for name in names]
    assert [end.retryable for end in ends] == [False] * MAX_FAILED_RUNS + [True]
    assert engine.stop(timeout=10)
    assert reasons == [f"{MAX_FAILED_RUNS} runs failed in a row"]
    with pytest.raises(Busy):
        engine.submit(request("late", "one"))


def test_the_line_is_bounded_and_ids_are_used_once(engines, model):
    engine = engines(waiting=2)
    engine.submit(request("x", "a", "b"))
    with pytest.raises(Busy):
        engine.submit(request("y", "c"))
    with pytest.raises(ValueError, match="already running"):
        engine.submit(request("x", "c"))
    with pytest.raises(ValueError, match="at least one"):
        engine.submit(request("z"))


def test_what_is_under_way_when_it_stops_may_run_again(engines, model):
    engine, seen = engines(), Recorder()
    model.is_open = False
    engine.start(seen)
    engine.submit(request("x", "one"))
    seen.wait_for("x", Started)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    model.gate.release(10)
    end = seen.end("x")
    stopping.join(10)
    assert (end.code, end.retryable) == ("worker_error", True)
    assert model.steps == 1
