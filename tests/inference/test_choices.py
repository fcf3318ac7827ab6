"""Several choices of one request: one prefill, one terminal event, answers as if alone."""

from __future__ import annotations

import random
import time

import pytest
import torch

from inference.runners.base import Delta, Ended, Failed, Started
from tests.inference.engines import choices, generation, started, tokens_of
from tests.inference.recorder import Recorder
from tests.inference.tiny_models import expected_tokens, random_prompt, slot_model
from tests.waiting import until


def ends(recorder, request_id):
    """The reason of each choice, in the order they ended."""
    deltas = [one for one in recorder.by_id[request_id] if isinstance(one, Delta)]
    return {one.choice: one.reason for one in deltas if one.reason}


class Counting(torch.nn.Module):
    """Counts the tokens a model is given."""

    def __init__(self, nan_for=None):
        super().__init__()
        self.inner = slot_model()
        self.config = self.inner.config
        self.dtype = self.inner.dtype
        self.tokens = 0
        self.nan_for = nan_for

    def forward(self, input_ids, **kwargs):
        self.tokens += input_ids.shape[1]
        output = self.inner(input_ids=input_ids, **kwargs)
        if self.nan_for is not None and kwargs["logits_to_keep"].numel():
            kept = input_ids[0, kwargs["logits_to_keep"]]
            output.logits[0, kept == self.nan_for] = float("nan")
        return output


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("prefill_tokens", [8, 64])
def test_all_choices_equal_generate_with_fewer_slots_than_choices(engines, slots, prefill_tokens):
    engine = engines(slots=slots, prefill_tokens=prefill_tokens)
    recorder = started(engine)
    rng = random.Random(1)
    prompts = [random_prompt(rng, 1, 40) for _ in range(2)] + [[7]]
    engine.submit(*choices("one", prompts, 3, 12))
    recorder.wait("one")
    for number, prompt in enumerate(prompts):
        for stream in range(3):
            wanted = expected_tokens(prompt, 12)
            assert tokens_of(recorder, "one", 3 * number + stream) == wanted
    end = recorder.end("one")
    assert isinstance(end, Ended)
    assert ends(recorder, "one") == dict.fromkeys(range(9), "length")
    assert end.units.prompt_tokens == sum(map(len, prompts))
    assert end.units.completion_tokens == 9 * 12
    starts = [one for one in recorder.by_id["one"] if isinstance(one, Started)]
    assert [one.prompt_tokens for one in starts] == [sum(map(len, prompts))]
    assert engine.stats().active == engine.stats().waiting == 0
    assert engine._cache.rows == 0


def test_the_prompt_is_computed_once(engines):
    model = Counting()
    engine = engines(model=model)
    recorder = started(engine)
    prompt = random_prompt(random.Random(2), 80, 80)
    engine.submit(*choices("one", [prompt], 5, 4))
    recorder.wait("one")
    assert model.tokens == 80 + 4 + 5 * 3


def test_the_snapshot_goes_with_its_last_use(engines):
    engine = engines(slots=2)
    recorder = started(engine)
    several = choices("one", [random_prompt(random.Random(3), 50, 50)], 4, 6)
    engine.submit(*several)
    recorder.wait("one")
    assert several[0].stem.waiting == 0
    assert several[0].stem.snapshot is None


def test_a_request_of_one_choice_leaves_its_reason_to_the_end(engines):
    engine = engines()
    recorder = started(engine)
    engine.submit(*choices("one", [[5, 6]], 1, 4))
    assert recorder.end("one").reason == "length"
    assert ends(recorder, "one") == {}


def test_each_choice_has_numbers_of_its_own_and_the_first_those_of_a_single(engines):
    engine = engines(slots=4)
    recorder = started(engine)
    prompt = random_prompt(random.Random(4), 20, 20)
    settings = {"temperature": 1.0, "seed": 5}
    engine.submit(generation("single", prompt, 15, **settings))
    for request_id in ("first", "second"):
        engine.submit(*choices(request_id, [prompt], 3, 15, **settings))
    first, second = (
        [tokens_of(recorder, request_id, choice) for choice in range(3)]
        for request_id in ("first", "second")
    )
    assert first == second
    assert first[0] == tokens_of(recorder, "single")
    assert len({tuple(one) for one in first}) == 3


def test_choices_in_a_mixed_batch_with_joins_and_cancels_equal_generate(engines):
    engine = engines(slots=5, prefill_tokens=32, prefix_tokens=1024)
    recorder = started(engine)
    rng = random.Random(5)
    wanted = {}
    for number in range(20):
        prompts, count = [random_prompt(rng) for _ in range(rng.randint(1, 2))], rng.randint(1, 12)
        noise = choices(f"noise{number}", [random_prompt(rng)], 3, 30, temperature=1.0)
        n = rng.randint(1, 3)
        wanted[str(number)] = (prompts, n, count)
        engine.submit(*noise)
        engine.submit(*choices(str(number), prompts, n, count, org="a"))
        time.sleep(rng.random() * 0.01)
        engine.cancel(f"noise{rng.randint(0, number)}")
    for request_id, (prompts, n, count) in wanted.items():
        for index in range(len(prompts) * n):
            answer = expected_tokens(prompts[index // n], count)
            assert tokens_of(recorder, request_id, index) == answer
    recorder.wait(*(f"noise{number}" for number in range(20)))
    until(lambda: engine.stats().active == 0)
    assert all(len(recorder.terminals(one)) == 1 for one in recorder.by_id)


def test_others_wait_behind_all_choices(engines):
    engine = engines(slots=2)
    recorder = Recorder()
    engine.submit(*choices("many", [[5, 6, 7]], 5, 6))
    engine.submit(generation("late", [9, 10, 11], 6))
    engine.start(recorder)
    assert tokens_of(recorder, "late") == expected_tokens([9, 10, 11], 6)
    events = [event for events in recorder.batches for event in events]
    started_late = next(
        at for at, one in enumerate(events) if one.request_id == "late" and isinstance(one, Started)
    )
    before = {one.choice for one in events[:started_late] if isinstance(one, Delta)}
    assert before >= {0, 1, 2, 3}


@pytest.mark.parametrize("slots", [2, 8])
def test_cancel_ends_all_choices(engines, slots):
    engine = engines(slots=slots)
    recorder = started(engine)
    engine.submit(*choices("one", [[5, 6], [7, 8]], 4, 400))
    recorder.wait_for_delta("one")
    engine.cancel("one")
    end = recorder.end("one")
    assert (type(end), end.reason) == (Ended, "cancelled")
    until(lambda: engine.stats().active == 0)
    assert engine.stats().waiting == 0
    assert engine._cache.bytes_used == 0


class Breaks:
    """Fails at its third token."""

    def __init__(self):
        self.calls = 0

    def push(self, token):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("trouble")
        return f"{token} "


@pytest.mark.parametrize("bad", [0, 1, 4])
@pytest.mark.parametrize("slots", [2, 8])
def test_a_failing_choice_fails_its_request_alone(engines, bad, slots):
    from inference.runners.text import TextStream

    engine = engines(slots=slots)
    recorder = Recorder()
    several = choices("bad", [[5, 6, 7]], 5, 20)
    several[bad].answer = type(several[bad].answer)(TextStream(Breaks()))
    engine.submit(generation("before", [9, 10], 10))
    engine.submit(*several)
    engine.submit(generation("after", [9, 10, 11], 10))
    engine.start(recorder)
    assert isinstance(recorder.end("bad"), Failed)
    assert tokens_of(recorder, "before") == expected_tokens([9, 10], 10)
    assert tokens_of(recorder, "after") == expected_tokens([9, 10, 11], 10)
    until(lambda: engine.stats().active == 0)
    assert (engine.stats().waiting, engine._cache.rows) == (0, 0)
    assert isinstance(recorder.by_id["bad"][-1], Failed)


def test_invalid_numbers_in_a_shared_prompt_fail_the_request_alone(engines):
    engine = engines(model=Counting(nan_for=300), prefix_tokens=512)
    recorder = Recorder()
    engine.submit(*choices("bad", [[5] * 40 + [300]], 3, 8, org="a"))
    engine.submit(generation("good", [9, 10, 11], 8))
    engine.start(recorder)
    assert isinstance(recorder.end("bad"), Failed)
    assert tokens_of(recorder, "good") == expected_tokens([9, 10, 11], 8)
    assert engine.stats().prefix_used == 0


def test_stopping_fails_what_waits_for_its_siblings(engines):
    engine = engines(slots=1)
    recorder = started(engine)
    engine.submit(*choices("one", [[5, 6]], 3, 400))
    recorder.wait_for_delta("one")
    assert engine.stop()
    assert recorder.end("one").retryable


def test_the_prompt_comes_first_where_echo_is_asked(engines):
    engine = engines()
    recorder = started(engine)
    several = choices("one", [[5, 6]], 2, 3)
    for one in several:
        one.echo = "0 0 "
    engine.submit(*several)
    for index in range(2):
        assert tokens_of(recorder, "one", index) == [0, 0, *expected_tokens([5, 6], 3)]


def test_a_cache_that_cannot_share_computes_each_choice(engines, monkeypatch):
    monkeypatch.setattr("inference.runners.slots.SlotCache.can_share", False)
    model = Counting()
    engine = engines(model=model, prefix_tokens=512)
    recorder = started(engine)
    engine.submit(*choices("one", [list(range(5, 45))], 2, 3, org="a"))
    for index in range(2):
        assert tokens_of(recorder, "one", index) == expected_tokens(list(range(5, 45)), 3)
    assert model.tokens == 2 * (40 + 2)
