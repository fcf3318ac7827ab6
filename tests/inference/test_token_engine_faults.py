"""Faults inside a TokenEngine end what they must, and nothing else."""

from __future__ import annotations

import pytest
import torch

from inference.runners.base import Busy, Failed, Started
from inference.runners.text import TextStream
from tests.inference.engines import generation, started, tokens_of
from tests.inference.recorder import Recorder
from tests.inference.tiny_models import (
    expected_tokens,
    slot_model,
)
from tests.waiting import until


class Breaks:
    """A processor or detokeniser that fails at its third call."""

    def __init__(self):
        self.calls = 0

    def _count(self):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("secret inside")

    def process(self, logits):
        self._count()

    def accept(self, token):
        pass

    def push(self, token):
        self._count()
        return "x"


@pytest.mark.parametrize("where", ["processor", "text"])
def test_an_error_in_one_request_ends_only_that_one(engines, where):
    engine = engines()
    recorder = Recorder()
    prompt = [9, 10, 11]
    text = TextStream(Breaks()) if where == "text" else None
    bad = generation("bad", [5, 6, 7], 20, text=text)
    if where == "processor":
        bad.processors = [Breaks()]
    engine.submit(generation("before", prompt, 15))
    engine.submit(bad)
    engine.submit(generation("after", prompt, 15))
    engine.start(recorder)
    end = recorder.end("bad")
    assert isinstance(end, Failed)
    assert (end.code, end.retryable) == ("worker_error", False)
    assert "secret" not in end.message
    for request_id in ("before", "after"):
        assert tokens_of(recorder, request_id) == expected_tokens(prompt, 15)


class Faulty(torch.nn.Module):
    """A model whose forward fails for chosen steps, or answers NaN to one token."""

    def __init__(self, fail_at=(), nan_for=None):
        super().__init__()
        self.inner = slot_model()
        self.config = self.inner.config
        self.dtype = self.inner.dtype
        self.steps = 0
        self.fail_at = fail_at
        self.nan_for = nan_for

    def forward(self, input_ids, **kwargs):
        self.steps += 1
        if self.steps in self.fail_at:
            raise RuntimeError("device trouble")
        output = self.inner(input_ids=input_ids, **kwargs)
        if self.nan_for is not None and kwargs["logits_to_keep"].numel():
            kept = input_ids[0, kwargs["logits_to_keep"]]
            output.logits[0, kept == self.nan_for] = float("nan")
        return output


def test_a_failed_step_fails_its_requests_and_the_engine_goes_on(engines):
    engine = engines(model=Faulty(fail_at={3}), slots=2)
    recorder = Recorder()
    for number in range(4):
        engine.submit(generation(str(number), [5, 6, number + 3], 8))
    engine.start(recorder)
    for number in range(2):
        end = recorder.end(str(number))
        assert isinstance(end, Failed)
        assert end.retryable
    for number in range(2, 4):
        assert tokens_of(recorder, str(number)) == expected_tokens([5, 6, number + 3], 8)
    assert engine.healthy


def test_an_engine_that_keeps_failing_gives_up_and_says_so(engines):
    told = []
    engine = engines(model=Faulty(fail_at=range(100)), slots=1, on_fatal=told.append)
    recorder = Recorder()
    for number in range(6):
        engine.submit(generation(str(number), [5, 6], 8))
    engine.start(recorder)
    recorder.wait(*map(str, range(6)))
    until(lambda: told)
    assert not engine.healthy
    assert all(recorder.end(str(number)).retryable for number in range(6))
    with pytest.raises(Busy):
        engine.submit(generation("late", [5], 2))


def test_invalid_numbers_end_only_their_request(engines):
    engine = engines(model=Faulty(nan_for=300))
    recorder = Recorder()
    engine.submit(generation("bad", [5, 300], 8))
    engine.submit(generation("good", [9, 10, 11], 8))
    engine.start(recorder)
    assert isinstance(recorder.end("bad"), Failed)
    assert tokens_of(recorder, "good") == expected_tokens([9, 10, 11], 8)


def test_an_emit_that_raises_does_not_end_the_engine(engines):
    def trip(events):
        if any(isinstance(one, Started) for one in events):
            raise RuntimeError("host trouble")

    engine = engines()
    recorder = started(engine, trip)
    engine.submit(generation("one", [9, 10, 11], 8))
    assert tokens_of(recorder, "one") == expected_tokens([9, 10, 11], 8)


def test_penalties_that_fail_end_only_the_requests_that_have_any(engines):
    engine = engines()
    recorder = Recorder()
    engine.submit(generation("bad", [5, 6, 7], 8, bias={10**6: 1.0}))
    engine.submit(generation("good", [9, 10, 11], 8))
    engine.start(recorder)
    assert isinstance(recorder.end("bad"), Failed)
    assert tokens_of(recorder, "good") == expected_tokens([9, 10, 11], 8)


def test_a_cache_that_fails_while_it_grows_is_set_up_anew(engines, monkeypatch):
    engine = engines(slots=2)
    recorder = Recorder()
    cache, whole = engine._cache, engine._cache._copy_to
    broken = []

    def half(rows, length):
        if length > 256 and not broken:
            broken.append((rows, length))
            cache.row_capacity, cache.max_len = rows, length
            raise MemoryError
        whole(rows, length)

    monkeypatch.setattr(cache, "_copy_to", half)
    for module in ("generation", "token_engine"):
        monkeypatch.setattr(f"inference.runners.{module}.OPEN_RESERVE", 128)
    engine.submit(generation("grows", [5, 6, 7], 300, open_ended=True))
    engine.submit(generation("beside", [9, 10, 11], 240))
    engine.start(recorder)
    for request_id in ("grows", "beside"):  # no row of a half grown cache can be trusted
        end = recorder.end(request_id)
        assert isinstance(end, Failed)
        assert end.retryable
    assert broken
    engine.submit(generation("after", [9, 10, 11], 15))
    assert tokens_of(recorder, "after") == expected_tokens([9, 10, 11], 15)
