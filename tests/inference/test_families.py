"""Every admitted family against transformers' own `generate`, and some that are not admitted."""

from __future__ import annotations

import functools
import json
import random
import time

import pytest
import torch

from inference import estimates
from inference.contracts.chat import TASK, ChatInput, Sampling
from inference.runners.base import Delta, RunnerConfig
from inference.runners.chat import ChatRunner
from inference.runners.families import HYBRID, PLAIN, SLOTS, family_of
from inference.runners.generation import Stem
from inference.runners.loading import cache_layout, read_config
from inference.runners.text import DetokenizerFactory
from tests.inference.engines import generation, started, tokens_of
from tests.inference.recorder import Recorder
from tests.inference.tiny_families import FAMILIES, OTHERS, build, wanted
from tests.inference.tiny_models import random_prompt, tiny_tokenizer

ALL = [*FAMILIES, *OTHERS]


@pytest.mark.parametrize("kind", ALL)
def test_greedy_alone_equals_generate(family_engines, kind):
    engine = family_engines(kind)
    recorder = started(engine)
    rng = random.Random(1)
    prompts = [[5], random_prompt(rng, 2, 3), random_prompt(rng, 70, 100)]
    for number, prompt in enumerate(prompts):
        engine.submit(generation(str(number), prompt, 16))
        assert tokens_of(recorder, str(number)) == wanted(kind, prompt, 16)


@pytest.mark.parametrize("kind", ALL)
def test_mixed_batches_with_joins_and_cancels_equal_generate(family_engines, kind):
    engine = family_engines(kind, prefill_tokens=40)
    recorder = started(engine)
    rng = random.Random(2)
    requests = {}
    for number in range(10):
        prompt, count = random_prompt(rng), rng.randint(1, 20)
        requests[str(number)] = (prompt, count)
        noise = {} if number % 3 == 0 else {"temperature": 1.0, "seed": number, "top_p": 0.9}
        engine.submit(generation(f"noise{number}", random_prompt(rng), 30, **noise))
        engine.submit(generation(str(number), prompt, count))
        time.sleep(rng.random() * 0.01)
        if number % 2:
            engine.cancel(f"noise{rng.randint(0, number)}")
    for request_id, (prompt, count) in requests.items():
        assert tokens_of(recorder, request_id) == wanted(kind, prompt, count)


@pytest.mark.parametrize("prefill_tokens", [1, 7])
@pytest.mark.parametrize("kind", ["qwen3_5_text", "gemma2"])
def test_prompts_in_small_chunks_equal_generate(family_engines, kind, prefill_tokens):
    rng = random.Random(3)
    prompts = [random_prompt(rng, 60, 90) for _ in range(3)]
    engine = family_engines(kind, prefill_tokens=prefill_tokens)
    recorder = started(engine)
    for number, prompt in enumerate(prompts):
        engine.submit(generation(str(number), prompt, 8))
    for number, prompt in enumerate(prompts):
        assert tokens_of(recorder, str(number)) == wanted(kind, prompt, 8)


PREFIXED = ["qwen3", "llama", "gemma3_text", "qwen3_5_text", "qwen3_next"]


@pytest.mark.parametrize("kind", PREFIXED)
def test_kept_prefixes_change_no_token(family_engines, kind):
    engine = family_engines(kind, prefill_tokens=48, prefix_tokens=1024)
    recorder = started(engine)
    rng = random.Random(4)
    stems = [random_prompt(rng, 70, 130) for _ in range(3)]
    asked = {}
    for number in range(18):
        prompt = rng.choice(stems)[: rng.randint(40, 130)] + random_prompt(rng, 1, 40)
        asked[str(number)] = (prompt, rng.randint(1, 12))
        engine.submit(generation(str(number), prompt, asked[str(number)][1], org="a"))
        engine.submit(generation(f"other{number}", prompt, 5, org="b", temperature=1.0))
        time.sleep(rng.random() * 0.01)
        if number % 3 == 0:
            engine.cancel(f"other{rng.randint(0, number)}")
    for request_id, (prompt, count) in asked.items():
        assert tokens_of(recorder, request_id) == wanted(kind, prompt, count)
    assert sum(recorder.end(number).units.cached_tokens for number in asked) > 0


def test_a_hybrid_continues_a_conversation_from_its_last_state(family_engines):
    engine = family_engines("qwen3_5_text", prefix_tokens=1024)
    recorder = started(engine)
    rng = random.Random(5)
    prompt, before = random_prompt(rng, 100, 100), 0
    for turn in range(4):
        engine.submit(generation(str(turn), prompt, 10, org="org"))
        answer = tokens_of(recorder, str(turn))
        assert answer == wanted("qwen3_5_text", prompt, 10)
        cached = recorder.end(str(turn)).units.cached_tokens
        assert cached == before
        before = (len(prompt) - 1) // 32 * 32
        prompt = prompt + answer + random_prompt(rng, 30, 40)


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_5_text", "gemma2", "gpt2", "mamba"])
@pytest.mark.parametrize("prefix_tokens", [0, 512])
def test_choices_of_one_prompt_equal_generate(family_engines, kind, prefix_tokens):
    plain = kind in OTHERS
    engine = family_engines(
        kind, prefill_tokens=32, prefix_tokens=0 if plain else prefix_tokens, slots=6
    )
    recorder = started(engine)
    rng = random.Random(6)
    for number in range(4):
        prompt = random_prompt(rng, 1, 100)
        stem = Stem(waiting=2)
        choices = [
            generation(str(number), prompt, 10, org="org", stem=stem, index=at, follows=at > 0)
            for at in range(3)
        ]
        engine.submit(*choices)
        engine.submit(generation(f"beside{number}", random_prompt(rng), 10, temperature=1.0))
        expected = wanted(kind, prompt, 10)
        recorder.wait(str(number))
        for choice in range(3):
            deltas = [one for one in recorder.by_id[str(number)] if isinstance(one, Delta)]
            text = "".join(one.text for one in deltas if one.choice == choice)
            assert [int(token) for token in text.split()] == expected


def test_the_engine_is_chosen_by_the_configuration():
    engines = {kind: family_of(build(kind).config).engine for kind in ALL}
    hybrid = {"qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"}
    assert {kind for kind, engine in engines.items() if engine == HYBRID} == hybrid
    assert {kind for kind, engine in engines.items() if engine == PLAIN} == set(OTHERS)
    assert {kind for kind, engine in engines.items() if engine == SLOTS} == set(FAMILIES) - hybrid


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    def make(kind):
        folder = tmp_path_factory.mktemp(kind) / "model"
        build(kind).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder

    return functools.cache(make)


@pytest.mark.parametrize(
    ("kind", "engine"), [("qwen3_5_text", HYBRID), ("gpt2", PLAIN), ("gemma2", PLAIN)]
)
def test_a_folder_of_the_family_is_served(folders, kind, engine):
    settings = RunnerConfig(kind, str(folders(kind)), dtype="float32", slots=4)
    runner = ChatRunner(settings)
    memory = runner.load(lambda share, text: None)
    try:
        assert runner.describe() == engine
        assert memory.weights == pytest.approx(ChatRunner.estimate(settings).weights, rel=0.1)
        recorder = Recorder()
        runner.start(recorder)
        messages = [{"role": "user", "content": "the quick fox"}]
        prompt = tiny_tokenizer().apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        chat = ChatInput(messages, Sampling(temperature=0), max_tokens=12, ignore_eos=True)
        for number in range(3):
            runner.submit(str(number), TASK, chat.as_dict(), salt="org")
        detokenizer = DetokenizerFactory(tiny_tokenizer().backend_tokenizer)()
        text = "".join(map(detokenizer.push, wanted(kind, prompt, 12)))
        assert [recorder.text(str(number)) for number in range(3)] == [text] * 3
        assert runner.stats().memory <= memory.total
    finally:
        runner.unload()


@pytest.mark.parametrize("kind", ["qwen3", "qwen3_5_text"])
def test_the_estimate_for_placement_covers_what_is_loaded(folders, kind):
    folder = folders(kind)
    need = estimates.estimate(folder, dtype="float32", slots=4, context=None)
    settings = RunnerConfig(kind, str(folder), dtype="float32", slots=4)
    assert ChatRunner.estimate(settings).total <= need.cpu
    config, _ = read_config(folder)
    layout = cache_layout(config, torch.float32, torch.device("cpu"))
    values = json.loads((folder / "config.json").read_text())
    assert estimates.cache_bytes_per_token(values, 4) == layout.bytes_per_token
    assert estimates.state_bytes(values, 4) == layout.state_bytes
