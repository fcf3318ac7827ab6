"""A GPU's engine put together as the runner does it, on a CPU with stand-ins for the kernels."""

from __future__ import annotations

import random

import pytest
import torch

from inference.contracts.chat import TASK, ChatInput, Sampling
from inference.runners import cuda_setup
from inference.runners.assembly import make_cache, make_forward
from inference.runners.base import LoadError, RunnerConfig
from inference.runners.chat import ChatRunner
from inference.runners.cuda_forward import GraphForward, PackedForward
from inference.runners.cuda_setup import GpuSwitches, engine_class, is_packed
from inference.runners.families import HYBRID, PLAIN, SLOTS, Family, family_of
from inference.runners.loading import cache_layout
from inference.runners.pipelined_engine import PipelinedEngine
from inference.runners.token_engine import EngineLimits, TokenEngine
from tests.inference.engines import generation, started, tokens_of
from tests.inference.packed import FakeGraphs, reference_varlen
from tests.inference.recorder import Recorder
from tests.inference.tiny_families import engine_model, wanted
from tests.inference.tiny_models import random_prompt, save_folder

KINDS = [
    "llama",
    "gemma3_text",
    "cohere2",
    "phi",
    "qwen3_moe",
    "mixtral",
    "qwen3_5_text",
    "qwen3_next",
]
HYBRIDS = {"qwen3_5_text", "qwen3_next"}


@pytest.fixture
def gpu(monkeypatch):
    """Has the CPU taken for a GPU wherever that can be."""

    def packed(family, device):
        return is_packed(family, torch.device("cuda"))

    monkeypatch.setattr(cuda_setup, "is_packed", packed)
    monkeypatch.setattr(cuda_setup, "CudaGraphs", lambda device: FakeGraphs())
    monkeypatch.setattr(cuda_setup, "usable_varlen", lambda layout: reference_varlen)


@pytest.mark.parametrize("kind", KINDS)
def test_families_equal_generate(gpu, kind):
    model = engine_model(kind)
    family = family_of(model.config)
    layout = cache_layout(model.config, model.dtype, model.device)
    budget = 8192 * layout.bytes_per_token + 6 * layout.state_bytes
    cache = make_cache(family, layout, slots=6, context=512, budget=budget)
    forward = make_forward(family, model, cache)
    assert isinstance(forward, GraphForward) is (kind not in HYBRIDS)
    engine = engine_class(cache, GpuSwitches())(
        forward, cache, eos_ids=(), limits=EngineLimits(10**6, prefill_tokens=40)
    )
    recorder = started(engine)
    rng = random.Random(3)
    prompts = [random_prompt(rng, 1, 70) for _ in range(9)]
    for number, prompt in enumerate(prompts):
        engine.submit(generation(f"noise{number}", random_prompt(rng), 25, temperature=1.0))
        engine.submit(generation(str(number), prompt, 15))
        if number % 2:
            engine.cancel(f"noise{number}")
    given = [tokens_of(recorder, str(number)) for number in range(9)]
    assert engine.stop()
    assert given == [wanted(kind, prompt, 15) for prompt in prompts]


def ask(runner, request_id):
    messages = [{"role": "user", "content": "the quick fox"}]
    request = ChatInput(messages, Sampling(temperature=0.0), max_tokens=12).as_dict()
    runner.submit(request_id, TASK, request, salt="org")


def test_the_runner_answers_the_same(gpu, monkeypatch, tmp_path):
    folder = save_folder(tmp_path / "tiny")
    texts = []
    for switches in (
        {},
        {"cuda_graphs": False},
        {"varlen": False, "pipelined": False},
        None,
    ):
        if switches is None:
            monkeypatch.undo()
        config = RunnerConfig("tiny", str(folder), dtype="float32", slots=4, options=switches or {})
        runner = ChatRunner(config)
        memory = runner.load(lambda share, text: None)
        recorder = Recorder()
        runner.start(recorder)
        for number in range(6):
            ask(runner, str(number))
        texts.append([recorder.text(str(number)) for number in range(6)])
        assert runner.stats().memory > 0
        if switches == {}:
            assert memory.workspace > cuda_setup.WORKSPACE_BYTES
            assert runner._engine._model.captures >= 3
        runner.unload()
    assert texts[1:] == texts[:1] * 3
    assert all(texts[0])


def test_engines_and_forwards_follow_the_switches(gpu):
    model = engine_model("llama")
    family = family_of(model.config)
    layout = cache_layout(model.config, model.dtype, model.device)
    budget = 4096 * layout.bytes_per_token
    cache = make_cache(family, layout, slots=4, context=512, budget=budget)
    assert cache.layout.positions_first
    assert (cache.row_capacity, cache.max_len) == (4, 512)
    eager = make_forward(family, model, cache, GpuSwitches(cuda_graphs=False))
    assert type(eager) is PackedForward
    assert engine_class(cache, GpuSwitches()) is PipelinedEngine
    assert engine_class(cache, GpuSwitches(pipelined=False)) is TokenEngine


def test_who_runs_packed():
    there, here = torch.device("cuda"), torch.device("cpu")
    assert is_packed(Family("llama", SLOTS), there)
    assert is_packed(Family("qwen3_5_text", HYBRID), there)
    assert not is_packed(Family("qwen3_5_text", HYBRID, takes_images=True), there)
    assert not is_packed(Family("gpt2", PLAIN), there)
    assert not is_packed(Family("llama", SLOTS), here)


def test_switches_are_read_from_the_options():
    assert GpuSwitches.of({"waiting_tokens": 7}) == GpuSwitches()
    assert GpuSwitches.of({"varlen": False, "cuda_graphs": False}) == GpuSwitches(False, False)
    with pytest.raises(LoadError, match="pipelined must be true or false"):
        GpuSwitches.of({"pipelined": "no"})
