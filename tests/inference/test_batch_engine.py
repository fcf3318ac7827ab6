"""The BatchEngine without a model: order, cancelling, errors, limits."""

from __future__ import annotations

import threading

import pytest

from inference.runners.base import Busy, Ended, Failed, Progress
from inference.runners.batch_engine import MAX_FAILED_STEPS, BatchEngine, BatchLimits
from inference.runners.batch_line import BatchRequest
from tests.inference.recorder import Recorder

BAD = 13


class Model:
    """Sums tokens; waits when told to; fails on steps with the token 13, or always."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[str, int]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.is_broken = False

    def __call__(self, items):
        self.steps.append([(item.request.request_id, item.index) for item in items])
        self.entered.set()
        assert self.gate.wait(20)
        if self.is_broken or any(BAD in item.tokens for item in items):
            raise RuntimeError("no")
        return [None if 0 in item.tokens else sum(item.tokens) for item in items]


def request(name, *texts, owner="a"):
    made = BatchRequest(name, owner, lambda values: {"values": list(values)})
    for tokens in texts:
        made.add(list(tokens))
    return made


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def engines(model):
    made = []

    def make(on_fatal=None, **limits):
        engine = BatchEngine(
            model, limits=BatchLimits(**{"waiting_tokens": 10**6, **limits}), on_fatal=on_fatal
        )
        made.append(engine)
        return engine

    yield make
    model.gate.set()
    for engine in made:
        assert engine.stop(timeout=10)


def test_values_come_in_the_order_of_the_texts(engines):
    engine, seen = engines(), Recorder()
    engine.start(seen)
    engine.submit(request("x", [1] * 30, [2], [3] * 20, [4] * 2))
    end = seen.end("x")
    assert end == Ended("x", "stop", end.units, {"values": [30, 2, 60, 8]})
    assert end.units.prompt_tokens == 53
    assert seen.by_id["x"][0].prompt_tokens == 53
    assert engine.stats().active == engine.stats().waiting == 0


def test_requests_that_wait_share_the_next_step(engines, model):
    engine, seen = engines(), Recorder()
    model.gate.clear()
    engine.start(seen)
    engine.submit(request("first", [1]))
    assert model.entered.wait(10)
    for number in range(20):
        engine.submit(request(f"r{number}", [1, number + 20], owner=f"o{number % 3}"))
    model.gate.set()
    seen.wait("first", *[f"r{number}" for number in range(20)])
    assert len(model.steps) == 2
    assert seen.end("r7").result == {"values": [28]}


def test_a_request_of_several_steps_says_how_far_it_is(engines):
    engine, seen = engines(rows=1), Recorder()
    engine.start(seen)
    asked = request("x", [1], [2, 2], [3], [4] * 3)
    asked.item_name = "windows"
    engine.submit(asked)
    end = seen.end("x")
    found = [event for event in seen.by_id["x"] if isinstance(event, Progress)]
    assert [(one.fraction, one.message) for one in found] == [
        (0.25, "1 of 4 windows"),
        (0.5, "2 of 4 windows"),
        (0.75, "3 of 4 windows"),
    ]
    used = [one.units.prompt_tokens for one in found]
    assert used == sorted(set(used))
    assert used[-1] < end.units.prompt_tokens == 7


def test_cancel_ends_a_request_before_the_next_step(engines, model):
    engine, seen = engines(rows=1), Recorder()
    model.gate.clear()
    engine.start(seen)
    engine.submit(request("x", *[[1, 1]] * 50))
    assert model.entered.wait(10)
    engine.cancel("x")
    engine.cancel("unknown")
    model.gate.set()
    end = seen.end("x")
    assert (end.reason, end.result, end.units.prompt_tokens) == ("cancelled", None, 2)
    assert len(model.steps) == 1
    engine.submit(request("y", [5]))
    assert seen.end("y").result == {"values": [5]}


def test_a_request_that_waits_is_cancelled_without_a_step(engines, model):
    engine, seen = engines(rows=1), Recorder()
    model.gate.clear()
    engine.start(seen)
    engine.submit(request("x", [1]))
    assert model.entered.wait(10)
    engine.submit(request("y", [1]))
    engine.cancel("y")
    model.gate.set()
    seen.wait("x", "y")
    assert seen.end("y").units.prompt_tokens == 0
    assert model.steps == [[("x", 0)]]


def test_an_error_ends_the_request_it_belongs_to(engines, model):
    engine, seen = engines(), Recorder()
    model.gate.clear()
    engine.start(seen)
    engine.submit(request("first", [1]))
    assert model.entered.wait(10)
    for name, texts in (("a", [[1]]), ("bad", [[2], [BAD]]), ("c", [[3], [4]])):
        engine.submit(request(name, *texts))
    model.gate.set()
    seen.wait("first", "a", "bad", "c")
    assert seen.end("a").result == {"values": [1]}
    assert seen.end("c").result == {"values": [3, 4]}
    failed = seen.end("bad")
    assert isinstance(failed, Failed)
    assert (failed.code, failed.retryable) == ("worker_error", False)
    assert engine.healthy


def test_invalid_numbers_fail_their_request_only(engines):
    engine, seen = engines(), Recorder()
    engine.submit(request("bad", [0]))
    engine.submit(request("good", [1]))
    engine.start(seen)
    seen.wait("bad", "good")
    assert isinstance(seen.end("bad"), Failed)
    assert seen.end("good").result == {"values": [1]}


def test_a_result_that_cannot_be_made_fails_its_request(engines):
    engine, seen = engines(), Recorder()
    engine.start(seen)
    broken = BatchRequest("x", "a", lambda values: {}["nothing"])
    broken.add([1])
    engine.submit(broken)
    assert isinstance(seen.end("x"), Failed)


def test_the_engine_gives_up_when_nothing_works_any_more(engines, model):
    told = []
    engine, seen = engines(on_fatal=told.append), Recorder()
    model.is_broken = True
    engine.start(seen)
    for number in range(MAX_FAILED_STEPS):
        engine.submit(request(f"x{number}", [1]))
        assert isinstance(seen.end(f"x{number}"), Failed)
    assert engine.stop(timeout=10)
    assert not engine.healthy
    assert told == [f"{MAX_FAILED_STEPS} engine steps failed in a row"]
    with pytest.raises(Busy):
        engine.submit(request("late", [1]))


def test_the_line_is_bounded_and_a_large_request_has_its_turn(engines, model):
    engine, seen = engines(waiting_tokens=10), Recorder()
    engine.submit(request("large", [1] * 500))
    with pytest.raises(Busy) as caught:
        engine.submit(request("next", [1]))
    assert 1 <= caught.value.retry_after <= 60
    with pytest.raises(ValueError, match="already running"):
        engine.submit(request("large", [1]))
    with pytest.raises(ValueError, match="at least one"):
        engine.submit(request("empty"))
    engine.start(seen)
    assert seen.end("large").result == {"values": [500]}


def test_a_small_request_does_not_wait_for_a_large_one(engines, model):
    engine, seen = engines(rows=4), Recorder()
    model.gate.clear()
    engine.start(seen)
    engine.submit(request("large", *[[1] * 40] * 400))
    assert model.entered.wait(10)
    engine.submit(request("small", [2], owner="b"))
    model.gate.set()
    seen.wait("large", "small")
    turn = next(n for n, step in enumerate(model.steps) if ("small", 0) in step)
    assert turn <= 2
    assert len(model.steps) > 90


def test_stopping_fails_what_is_open(engines, model):
    engine, seen = engines(rows=1), Recorder()
    model.gate.clear()
    engine.start(seen)
    engine.submit(request("x", [1], [2]))
    assert model.entered.wait(10)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    model.gate.set()
    stopping.join(10)
    failed = seen.end("x")
    assert isinstance(failed, Failed)
    assert failed.retryable


def test_each_request_has_one_end_under_load(engines):
    engine, seen = engines(rows=8, step_tokens=64), Recorder()
    engine.start(seen)

    def work(owner: str) -> None:
        for number in range(60):
            name = f"{owner}{number}"
            engine.submit(
                request(name, *[[1] * ((number + i) % 17 + 1) for i in range(5)], owner=owner)
            )
            if number % 5 == 0:
                engine.cancel(name)

    threads = [threading.Thread(target=work, args=(owner,)) for owner in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [f"{owner}{number}" for owner in "abcd" for number in range(60)]
    seen.wait(*names)
    for name in names:
        end = seen.end(name)
        number = int(name[1:])
        assert end.reason in ("stop", "cancelled")
        if end.reason == "stop":
            assert end.result == {"values": [(number + i) % 17 + 1 for i in range(5)]}
    assert engine.stats().active == engine.stats().waiting == 0
