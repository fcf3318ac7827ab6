"""The pipelined engine gives what the synchronous one gives; the rest is that one's own tests."""

from __future__ import annotations

import inspect
import random
import threading
from dataclasses import replace

import pytest
import torch

from inference.runners.base import Delta, Ended, Failed, Started
from inference.runners.forward import RaggedForward
from inference.runners.generation import Stem
from inference.runners.launch import Reading
from inference.runners.pipelined_engine import PipelinedEngine, all_end
from inference.runners.prefix_cache import PrefixCache, chain_seed
from inference.runners.sampling import Choice, SamplingDefaults, choose
from inference.runners.token_engine import EngineLimits, TokenEngine
from tests.inference import (
    test_choices,
    test_logprobs,
    test_prefix_cache,
    test_token_engine,
    test_token_engine_faults,
)
from tests.inference.engines import generation, started, tokens_of
from tests.inference.packed import Watch, packed_cache, packed_forward
from tests.inference.recorder import Recorder
from tests.inference.tiny_models import cache_for, expected_tokens, random_prompt, slot_model

# what must differ: a step's tokens come with the next one (so do kept prompts), one row too many is run
TIMED = {
    "test_events_come_in_order_and_once_per_step",
    "test_the_prompt_is_computed_once",
    "test_a_shared_start_is_found_by_all_that_come_after",
}


def needs_engines(test):
    return {"engines", "family_engines"} & inspect.signature(test).parameters.keys()


for _module in (
    test_choices,
    test_logprobs,
    test_prefix_cache,
    test_token_engine,
    test_token_engine_faults,
):
    for _name in dir(_module):
        _test = getattr(_module, _name)
        if _name.startswith("test_") and _name not in TIMED and needs_engines(_test):
            globals()[_name] = _test


@pytest.fixture
def engine_kind():
    """What the tests of the synchronous engine run with here."""
    return PipelinedEngine


def new_engine(kind, model, slots, tokens, eos_ids, settings):
    cache = cache_for(model, slots=slots, tokens=tokens)
    own = {name: settings.pop(name) for name in ("on_fatal", "prefixes") if name in settings}
    limits = EngineLimits(**{"waiting_tokens": 10**6, **settings})
    own.setdefault("prefixes", PrefixCache(cache.layout, 40 * 32 * cache.layout.bytes_per_token))
    return kind(RaggedForward(model, cache), cache, eos_ids=eos_ids, limits=limits, **own)


PLAIN = [{}, {"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9}, {"top_k": 7}]
BY_HOST = [{"temperature": 1.1, "frequency_penalty": 0.6}, {"repetition_penalty": 1.2}]


def random_requests(rng, count, ways=PLAIN):
    """As arguments of `generation`, so that both engines get fresh ones; `n` choices each."""
    shared = random_prompt(rng, 80, 80)
    return [
        (
            f"r{number}",
            rng.choice([[], shared]) + random_prompt(rng, 1, 120),
            rng.choice([1, 2, rng.randint(3, 40)]),
            {
                **rng.choice(ways),
                "seed": number,
                "stop": ("3 1",) if rng.random() < 0.3 else (),
                "ignore_eos": rng.random() < 0.2,
                "open_ended": rng.random() < 0.2,
            },
            rng.choice([1, 1, 1, 2, 3]),
        )
        for number in range(count)
    ]


def choices_of(request_id, prompt, limit, settings, count):
    """The first computes the prompt, the others follow it."""
    stem = Stem(waiting=count - 1) if count > 1 else None
    made = [generation(request_id, prompt, limit, **settings) for _ in range(count)]
    for index, one in enumerate(made):
        one.index, one.stem, one.follows = index, stem, index > 0
        one.choice.random.seed(f"{settings['seed']} {index}")
        one.seed = chain_seed("org")
    return made


def answers(engine, requests):
    """Of each request: its end, and for each choice its text, token count and reason."""
    recorder = Recorder()
    for request in requests:
        engine.submit(*choices_of(*request))
    engine.start(recorder)
    recorder.wait(*(request[0] for request in requests))
    assert engine.stop()
    given = {}
    for request_id, *_, count in requests:
        deltas = [one for one in recorder.by_id[request_id] if isinstance(one, Delta)]
        end = recorder.end(request_id)
        texts = ["".join(one.text for one in deltas if one.choice == n) for n in range(count)]
        reasons = {one.choice: one.reason for one in deltas if one.reason}
        units = replace(end.units, compute_ms=0, cached_tokens=0)
        given[request_id] = (texts, reasons, end.reason, units)
    return given


@pytest.mark.parametrize("seed", range(6))
def test_random_mixes_give_the_same_as_the_synchronous_engine(seed):
    rng = random.Random(seed)
    requests = random_requests(rng, 40, PLAIN if seed % 3 else PLAIN + BY_HOST)
    eos_ids = {rng.randrange(3, 320) for _ in range(12)}
    prefill = rng.choice([1, 16, 64, 512])
    slots = rng.choice([1, 3, 8])
    given = [
        answers(
            new_engine(kind, slot_model(), slots, 4096, eos_ids, {"prefill_tokens": prefill}),
            requests,
        )
        for kind in (TokenEngine, PipelinedEngine)
    ]
    assert given[0] == given[1]
    assert {"stop", "length"} <= {reason for *_, reason, _ in given[0].values()}


@pytest.mark.parametrize("kind", ["varlen", "varlen graphs", "sdpa graphs"])
def test_the_whole_path_of_a_gpu_equals_the_synchronous_engine(kind):
    rng = random.Random(21)
    requests = random_requests(rng, 24)
    eos_ids = {rng.randrange(3, 320) for _ in range(12)}
    model = slot_model()
    wanted = answers(
        new_engine(TokenEngine, model, 6, 4096, eos_ids, {"prefill_tokens": 64}), requests
    )
    cache = packed_cache(model, slots=6, tokens=4096)
    engine = PipelinedEngine(
        packed_forward(kind, model, cache),
        cache,
        eos_ids=eos_ids,
        limits=EngineLimits(waiting_tokens=10**6, prefill_tokens=64),
        prefixes=PrefixCache(cache.layout, 40 * 32 * cache.layout.bytes_per_token),
    )
    assert answers(engine, requests) == wanted


def test_cancels_at_random_leave_the_others_answers_alone(engines):
    engine = engines(slots=5, prefill_tokens=32)
    recorder = started(engine)
    rng = random.Random(8)
    kept = {f"kept{number}": random_prompt(rng, 2, 60) for number in range(25)}
    lost = [f"lost{number}" for number in range(25)]
    stop = threading.Event()

    def cancel_some():
        chaos = random.Random(9)
        while not stop.wait(0.002):
            engine.cancel(chaos.choice(lost))

    thread = threading.Thread(target=cancel_some)
    thread.start()
    for (request_id, prompt), other in zip(kept.items(), lost, strict=True):
        engine.submit(generation(other, random_prompt(rng), 200, temperature=1.0))
        engine.submit(generation(request_id, prompt, 15))
    wanted = {request_id: expected_tokens(prompt, 15) for request_id, prompt in kept.items()}
    assert {request_id: tokens_of(recorder, request_id) for request_id in kept} == wanted
    for request_id in lost:
        engine.cancel(request_id)
    recorder.wait(*lost)
    stop.set()
    thread.join()
    assert {len(recorder.terminals(one)) for one in (*kept, *lost)} == {1}


class Steps:
    """Notes, for each step of a forward, whether tokens were fed to it."""

    def __init__(self, forward):
        self._forward = forward
        self.fed = []

    def run(self, decoding, chunks, prefilling, fed=None):
        self.fed.append(fed is not None)
        return self._forward.run(decoding, chunks, prefilling, fed)


def test_tokens_are_fed_unless_the_host_has_a_say(engines):
    for settings, fed in (
        ({}, [False, True, True, True]),
        ({"presence_penalty": 1.0}, [False] * 4),
    ):
        engine = engines()
        engine._model = steps = Steps(engine._model)
        recorder = started(engine)
        engine.submit(generation("one", [5, 6], 4, **settings))
        recorder.wait("one")
        assert engine.stop()
        assert steps.fed == fed


def test_events_come_one_step_late_and_in_order(engines):
    engine = engines()
    recorder = Recorder()
    for number in range(3):
        engine.submit(generation(str(number), [5, 6, 7 + number], 6))
    engine.start(recorder)
    recorder.wait("0", "1", "2")
    assert [type(one) for one in recorder.by_id["1"]] == [Started, *[Delta] * 6, Ended]
    assert [len(batch) for batch in recorder.batches] == [3, 3, 3, 3, 3, 3, 6]


def test_a_row_with_invalid_numbers_fails_alone_and_feeds_nothing(engines):
    class Poison(Steps):
        def run(self, decoding, chunks, prefilling, fed=None):
            assert fed is None or int(fed.min()) >= 0
            logits = super().run(decoding, chunks, prefilling, fed)
            for row, one in enumerate(decoding):
                if one.request_id == "bad" and len(self.fed) > 3:
                    logits[row] = float("nan")
            return logits

    engine = engines()
    engine._model = Poison(engine._model)
    recorder = Recorder()
    engine.submit(generation("bad", [9, 9], 40))
    engine.submit(generation("good", [9, 10, 11], 12))
    engine.start(recorder)
    assert tokens_of(recorder, "good") == expected_tokens([9, 10, 11], 12)
    assert isinstance(recorder.end("bad"), Failed)


def test_choosing_reads_nothing_back_from_the_device():
    settings = [{"temperature": 0}, {}, {"top_p": 0.5}, {"top_k": 5}, {"min_p": 0.2}]
    from inference.contracts.chat import Sampling

    choices = [Choice(Sampling(seed=1, **one), SamplingDefaults()) for one in settings]
    logits = torch.randn(len(choices), 50)
    logits[0] = float("nan")
    with Watch() as watch:
        chosen = choose(logits, choices)
    assert not watch.reads
    assert Reading(chosen).tokens()[0] is None
    assert all(0 <= token < 50 for token in Reading(chosen).tokens()[1:])


def test_when_nothing_is_left_to_go_on_with():
    one, other = generation("one", [5], 3), generation("other", [5], 3)
    assert not all_end([one, other])
    one.tokens = [7, 7]
    assert not all_end([one, other])
    other.over = True
    assert all_end([one, other])
