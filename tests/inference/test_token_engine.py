"""The TokenEngine against transformers' own `generate`, and its behaviour under stress."""

from __future__ import annotations

import random
import threading
import time

import pytest
import torch

from inference.runners.base import Busy, Delta, Ended, Failed, Started
from inference.runners.generation import OPEN_RESERVE
from inference.runners.text import DetokenizerFactory, TextStream
from tests.inference.engines import generation, started, tokens_of
from tests.inference.recorder import Recorder
from tests.inference.tiny_models import (
    expected_tokens,
    random_prompt,
    tiny_model,
    tiny_tokenizer,
)
from tests.waiting import until


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_greedy_alone_equals_generate(engines, kind):
    engine = engines(kind)
    recorder = started(engine)
    rng = random.Random(1)
    for number in range(4):
        prompt = random_prompt(rng)
        engine.submit(generation(str(number), prompt, 24))
        assert tokens_of(recorder, str(number)) == expected_tokens(prompt, 24, kind)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_greedy_in_a_mixed_batch_with_joins_and_cancels_equals_generate(engines, kind):
    engine = engines(kind, prefill_tokens=48)
    recorder = started(engine)
    rng = random.Random(2)
    requests = {}
    for number in range(30):
        prompt, count = random_prompt(rng), rng.randint(1, 30)
        requests[str(number)] = (prompt, count)
        noise = {} if number % 3 == 0 else {"temperature": 1.0, "seed": number, "top_p": 0.9}
        engine.submit(generation(f"noise{number}", random_prompt(rng), 40, **noise))
        engine.submit(generation(str(number), prompt, count))
        time.sleep(rng.random() * 0.01)
        if number % 2:
            engine.cancel(f"noise{rng.randint(0, number)}")
    for request_id, (prompt, count) in requests.items():
        assert tokens_of(recorder, request_id) == expected_tokens(prompt, count, kind)


@pytest.mark.parametrize("prefill_tokens", [1, 7, 64])
def test_chunked_prefill_equals_unchunked(engines, prefill_tokens):
    rng = random.Random(3)
    prompts = [random_prompt(rng, 100, 300) for _ in range(3)]
    engine = engines(prefill_tokens=prefill_tokens)
    recorder = started(engine)
    for number, prompt in enumerate(prompts):
        engine.submit(generation(str(number), prompt, 10))
    for number, prompt in enumerate(prompts):
        assert tokens_of(recorder, str(number)) == expected_tokens(prompt, 10)


def test_long_answers_survive_growth_of_the_cache(engines):
    engine = engines(slots=6, tokens=3072)
    recorder = started(engine)
    rng = random.Random(4)
    prompts = [random_prompt(rng, 5, 20) for _ in range(7)]
    for number, prompt in enumerate(prompts):
        engine.submit(generation(str(number), prompt, 40 if number % 2 else 300))
    for number, prompt in enumerate(prompts):
        count = 40 if number % 2 else 300
        assert tokens_of(recorder, str(number))[:40] == expected_tokens(prompt, 40)
        assert recorder.end(str(number)).units.completion_tokens == count


def test_sliding_window_layers_equal_generate(engines):
    changes = {
        "use_sliding_window": True,
        "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    }
    plain = tiny_model(**changes)
    plain.generation_config.eos_token_id = None
    model = tiny_model(**changes)
    model.set_attn_implementation("slot_attention")
    engine = engines(model=model, prefill_tokens=24)
    recorder = started(engine)
    rng = random.Random(5)
    prompts = [random_prompt(rng, 5, 70) for _ in range(4)]
    for number, prompt in enumerate(prompts):
        engine.submit(generation(str(number), prompt, 30))
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        wanted = plain.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=30,
        )
        assert tokens_of(recorder, str(number)) == wanted[0, len(prompt) :].tolist()


def test_the_same_seed_gives_the_same_text_alone_and_in_company(engines):
    rng = random.Random(6)
    prompt = random_prompt(rng, 20, 20)
    kinds = [
        {"temperature": 1.0},
        {"temperature": 0.9, "top_p": 0.8},
        {"temperature": 0.9, "top_k": 12},
        {"temperature": 1.2, "min_p": 0.05, "frequency_penalty": 0.7},
        {"temperature": 0.8, "repetition_penalty": 1.2},
    ]
    engine = engines(slots=16)
    recorder = started(engine)
    alone = []
    for number, settings in enumerate(kinds):
        engine.submit(generation(f"alone{number}", prompt, 25, seed=number, **settings))
        alone.append(tokens_of(recorder, f"alone{number}"))
    for number, settings in enumerate(kinds):
        engine.submit(generation(f"noise{number}", random_prompt(rng), 30, temperature=1.0))
        engine.submit(generation(f"mixed{number}", prompt, 25, seed=number, **settings))
    assert [tokens_of(recorder, f"mixed{number}") for number in range(len(kinds))] == alone


def test_penalties_change_the_answer_of_their_request_only(engines):
    prompt = random_prompt(random.Random(7), 12, 12)
    engine = engines()
    recorder = started(engine)
    engine.submit(generation("plain", prompt, 40))
    engine.submit(generation("strict", prompt, 40, frequency_penalty=2.0, presence_penalty=2.0))
    strict = tokens_of(recorder, "strict")
    assert tokens_of(recorder, "plain") == expected_tokens(prompt, 40)
    assert len(set(strict)) > len(set(tokens_of(recorder, "plain")))


def test_max_tokens_is_exact_and_counted(engines):
    engine = engines()
    recorder = started(engine)
    for limit in (1, 2, 17):
        engine.submit(generation(str(limit), [5, 6, 7], limit))
        end = recorder.end(str(limit))
        assert (end.reason, end.units.completion_tokens, end.units.prompt_tokens) == (
            "length",
            limit,
            3,
        )
        assert len(tokens_of(recorder, str(limit))) == limit
        deltas = [one for one in recorder.by_id[str(limit)] if isinstance(one, Delta)]
        assert [one.completion_tokens for one in deltas] == list(range(1, limit + 1))


def test_an_end_token_stops_unless_ignored(engines):
    prompt = [9, 10, 11]
    wanted = expected_tokens(prompt, 12)
    eos = wanted[6]
    at = wanted.index(eos)
    engine = engines(eos_ids={eos})
    recorder = started(engine)
    engine.submit(generation("stops", prompt, 12))
    engine.submit(generation("goes on", prompt, 12, ignore_eos=True))
    assert recorder.end("stops").reason == "stop"
    assert recorder.end("stops").units.completion_tokens == at + 1
    assert tokens_of(recorder, "stops") == wanted[:at]
    assert tokens_of(recorder, "goes on") == wanted


def test_a_stop_string_across_tokens_ends_the_answer(engines):
    prompt = [9, 10, 11]
    wanted = expected_tokens(prompt, 12)
    stop = f"{wanted[4]} {wanted[5]}"
    engine = engines()
    recorder = started(engine)
    engine.submit(generation("one", prompt, 12, stop=(stop,)))
    text = "".join(f"{token} " for token in wanted)
    assert recorder.text("one") == text[: text.index(stop)]
    assert recorder.end("one").reason == "stop"
    assert recorder.end("one").units.completion_tokens <= 7


def test_text_held_back_for_a_stop_string_is_given_out_at_the_end(engines):
    prompt = [9, 10, 11]
    wanted = expected_tokens(prompt, 3)
    engine = engines()
    recorder = started(engine)
    engine.submit(generation("one", prompt, 3, stop=(f"{wanted[2]} never",)))
    assert tokens_of(recorder, "one") == wanted


def test_events_come_in_order_and_once_per_step(engines):
    engine = engines()
    recorder = Recorder()
    for number in range(3):
        engine.submit(generation(str(number), [5, 6, 7 + number], 6))
    engine.start(recorder)
    recorder.wait("0", "1", "2")
    assert [type(one) for one in recorder.by_id["1"]] == [Started, *[Delta] * 6, Ended]
    assert len(recorder.batches) == 6


def test_cancel_is_seen_within_one_step(engines):
    def cancel_at_five(events):
        for event in events:
            if isinstance(event, Delta) and event.completion_tokens == 5:
                engine.cancel(event.request_id)

    engine = engines()
    recorder = started(engine, cancel_at_five)
    engine.submit(generation("one", [5, 6], 400))
    end = recorder.end("one")
    assert (end.reason, end.units.completion_tokens) == ("cancelled", 5)
    until(lambda: engine.stats().active == 0)


def test_a_waiting_request_can_be_cancelled(engines):
    engine = engines(slots=1)
    recorder = started(engine)
    engine.submit(generation("first", [5, 6], 300))
    engine.submit(generation("second", [5, 6], 300))
    recorder.wait_for_delta("first")
    engine.cancel("second")
    end = recorder.end("second")
    assert (end.reason, end.units.prompt_tokens) == ("cancelled", 0)
    assert not recorder.started("second")
    engine.cancel("first")
    engine.cancel("unknown")
    recorder.wait("first")


def test_an_idle_engine_wakes_for_work_and_for_its_end(engines):
    engine = engines()
    recorder = started(engine)
    time.sleep(0.1)
    engine.submit(generation("one", [5, 6], 2))
    recorder.wait("one")
    began = time.monotonic()
    assert engine.stop()
    assert time.monotonic() - began < 5


def test_stopping_fails_open_requests_as_retryable(engines):
    engine = engines(slots=1)
    recorder = started(engine)
    engine.submit(generation("running", [5, 6], 400))
    engine.submit(generation("waiting", [5, 6], 400))
    recorder.wait_for_delta("running")
    assert engine.stop()
    for request_id in ("running", "waiting"):
        end = recorder.end(request_id)
        assert isinstance(end, Failed)
        assert end.retryable
    with pytest.raises(Busy):
        engine.submit(generation("late", [5], 2))


def test_a_full_waiting_line_is_busy(engines):
    engine = engines(slots=1, waiting_tokens=100)
    recorder = Recorder()
    engine.submit(generation("first in line is always taken", [5] * 90, 60))
    with pytest.raises(Busy) as caught:
        engine.submit(generation("one too many", [5] * 10, 10))
    assert 1 <= caught.value.retry_after <= 60
    assert "one too many" not in recorder.by_id
    engine.start(recorder)
    recorder.wait("first in line is always taken")


def test_a_request_id_in_use_is_refused(engines):
    engine = engines()
    engine.submit(generation("one", [5], 5))
    with pytest.raises(ValueError, match="already running"):
        engine.submit(generation("one", [5], 5))
    started(engine).wait("one")


def test_requests_wait_for_memory_in_order_of_arrival(engines):
    engine = engines(slots=8, tokens=512)
    recorder = Recorder()
    engine.submit(generation("small", [5, 6], 30))
    engine.submit(generation("large", [5, 6], 450))
    engine.submit(generation("late", [5, 6], 30))
    engine.start(recorder)
    recorder.wait("small", "large", "late")
    starts = [
        event.request_id
        for events in recorder.batches
        for event in events
        if isinstance(event, Started)
    ]
    assert starts == ["small", "large", "late"]
    assert recorder.end("large").units.completion_tokens == 450


def test_an_open_ended_request_reserves_little_and_extends(monkeypatch, engines):
    monkeypatch.setattr("inference.runners.generation.OPEN_RESERVE", 16)
    monkeypatch.setattr("inference.runners.token_engine.OPEN_RESERVE", 16)
    engine = engines(tokens=512)
    recorder = Recorder()
    open_one = generation("open", [9, 10, 11], 509, open_ended=True)
    assert open_one.reserved == 19
    engine.submit(open_one)
    engine.start(recorder)
    assert recorder.end("open").units.completion_tokens == 509


def test_an_open_ended_request_ends_where_memory_does(monkeypatch, engines):
    monkeypatch.setattr("inference.runners.generation.OPEN_RESERVE", 16)
    monkeypatch.setattr("inference.runners.token_engine.OPEN_RESERVE", 16)
    engine = engines(tokens=512, slots=2)
    recorder = Recorder()
    engine.submit(generation("open", [9, 10, 11], 509, open_ended=True))
    engine.submit(generation("other", [9, 10, 11], 250))
    engine.start(recorder)
    end = recorder.end("open")
    assert end.reason == "length"
    assert 200 < end.units.completion_tokens < 260
    assert recorder.end("other").units.completion_tokens == 250


def test_the_usual_reserve_is_bounded():
    assert generation("one", [1] * 10, 5000, open_ended=True).reserved == 10 + OPEN_RESERVE
    assert generation("one", [1] * 10, 50, open_ended=True).reserved == 60
    assert generation("one", [1] * 10, 5000).reserved == 5010


def test_five_hundred_random_requests_leave_nothing_behind(engines):
    engine = engines(slots=12, tokens=4096, prefill_tokens=64)
    recorder = started(engine)
    rng = random.Random(11)
    ids = [f"r{number}" for number in range(500)]
    stop = threading.Event()

    def cancel_some():
        chaos = random.Random(12)
        while not stop.is_set():
            engine.cancel(chaos.choice(ids))
            time.sleep(0.003)

    thread = threading.Thread(target=cancel_some)
    thread.start()
    for request_id in ids:
        settings = rng.choice(
            [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 4}]
        )
        engine.submit(
            generation(
                request_id,
                random_prompt(rng, 1, 120),
                rng.randint(1, 40),
                stop=("3 1",) if rng.random() < 0.2 else (),
                open_ended=rng.random() < 0.2,
                **settings,
            )
        )
    recorder.wait(*ids)
    stop.set()
    thread.join()
    until(lambda: engine.stats().active == 0)
    stats = engine.stats()
    assert (stats.active, stats.waiting, stats.cache_used) == (0, 0, 0)
    assert all(len(recorder.terminals(request_id)) == 1 for request_id in ids)
    for request_id in ids:
        assert isinstance(recorder.by_id[request_id][-1], Ended)
    cache = engine._cache
    assert cache.rows == 0
    assert all(not tensor.any() for tensor in (*cache.keys, *cache.values))


def test_text_of_a_real_tokenizer_is_whole(engines):
    tokenizer = tiny_tokenizer()
    factory = DetokenizerFactory(tokenizer.backend_tokenizer)
    engine = engines()
    recorder = started(engine)
    prompt = tokenizer.backend_tokenizer.encode("the quick 中文 👩‍👧").ids
    engine.submit(generation("one", prompt, 60, text=TextStream(factory())))
    wanted = tokenizer.decode(expected_tokens(prompt, 60), skip_special_tokens=True)
    assert wanted.startswith(recorder.text("one"))
    assert len(wanted) - len(recorder.text("one")) <= 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_forces_or_forbids_a_token(engines, temperature):
    engine = engines()
    recorder = started(engine)
    prompt = random_prompt(random.Random(13), 12, 12)
    usual = expected_tokens(prompt, 10)
    engine.submit(generation("plain", prompt, 10))
    engine.submit(generation("forced", prompt, 10, bias={77: 100.0}, temperature=temperature))
    forbidden = dict.fromkeys(usual, -100.0)
    engine.submit(generation("forbidden", prompt, 10, bias=forbidden, temperature=temperature))
    assert tokens_of(recorder, "forced") == [77] * 10
    assert not set(tokens_of(recorder, "forbidden")) & set(usual)
    assert tokens_of(recorder, "plain") == usual


class Only:
    """A mask that allows the tokens of a list in turn, and is over after the last."""

    def __init__(self, allowed, *, ends=True):
        self.allowed = list(allowed)
        self.ends = ends

    @property
    def is_over(self):
        return self.ends and not self.allowed

    def process(self, logits):
        kept = [(token, logits[token].clone()) for token in self.allowed[:1]]
        logits.fill_(float("-inf"))
        for token, value in kept:
            logits[token] = value

    def accept(self, token):
        assert token == self.allowed.pop(0)


def test_a_processor_may_end_the_answer(engines):
    engine = engines()
    recorder = started(engine)
    one = generation("one", [5, 6, 7], 10)
    one.processors = [Only([30, 31, 32])]
    engine.submit(one)
    assert tokens_of(recorder, "one") == [30, 31, 32]
    assert (recorder.end("one").reason, recorder.end("one").units.completion_tokens) == ("stop", 3)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}])
def test_no_bias_brings_back_what_a_mask_forbids(engines, settings):
    engine = engines()
    recorder = started(engine)
    one = generation("one", [5, 6, 7], 10, bias={50: 100.0, 30: -100.0}, **settings)
    one.processors = [*one.processors, Only([30, 31])]
    engine.submit(one)
    assert tokens_of(recorder, "one") == [30, 31]


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 5}])
def test_a_mask_that_allows_nothing_fails_only_its_request(engines, settings):
    engine = engines()
    recorder = Recorder()
    bad = generation("bad", [5, 6, 7], 10, **settings)
    bad.processors = [Only([30, 31], ends=False)]
    engine.submit(bad)
    engine.submit(generation("good", [9, 10, 11], 8, **{**settings, "temperature": 0.0}))
    engine.start(recorder)
    end = recorder.end("bad")
    assert isinstance(end, Failed)
    assert end.units.completion_tokens == 2
    assert tokens_of(recorder, "good") == expected_tokens([9, 10, 11], 8)
