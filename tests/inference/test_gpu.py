"""The same suites on a CUDA device, and what only a device can show."""

from __future__ import annotations

import random

import pytest
import torch

from inference.contracts.chat import TASK, ChatInput, Sampling
from inference.runners.attention import Chunk
from inference.runners.base import RunnerConfig
from inference.runners.chat import ChatRunner
from inference.runners.cuda_attention import supports, usable_varlen, varlen_attn
from inference.runners.cuda_forward import CudaGraphs, GraphForward, PackedForward
from inference.runners.launch import Reading
from inference.runners.pipelined_engine import PipelinedEngine
from inference.runners.sampling import choose
from inference.runners.slots import CacheLayout, SlotCache
from inference.runners.token_engine import EngineLimits
from tests.inference.engines import generation, started, tokens_of
from tests.inference.packed import packed_cache
from tests.inference.recorder import Recorder
from tests.inference.tiny_models import expected_tokens, random_prompt, save_folder, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GPU = torch.device("cuda", 0)


@pytest.fixture
def model():
    """Token for token comparisons want float32, so attention is SDPA's here."""
    made = tiny_model()
    made.set_attn_implementation("slot_attention")
    return made.to(GPU).requires_grad_(False)


def wide_model(dtype=torch.bfloat16):
    """Heads of a size that the kernels know."""
    made = tiny_model("llama", hidden_size=384)
    made.set_attn_implementation("slot_attention")
    return made.to(GPU, dtype).requires_grad_(False)


def cache_of(model, *, slots=8, tokens=8192):
    config = model.config
    layers, dim = config.num_hidden_layers, config.hidden_size // config.num_attention_heads
    layout = CacheLayout(
        (config.num_key_value_heads,) * layers,
        (dim,) * layers,
        model.dtype,
        GPU,
        positions_first=True,
    )
    budget = tokens * layout.bytes_per_token
    return SlotCache(layout, slots=slots, context=512, budget=budget, whole=True)


def prefilled(forward, cache, prompts):
    requests = [generation(str(row), prompt, 100) for row, prompt in enumerate(prompts)]
    for request in requests:
        chunk = Chunk(cache.take(request.reserved), 0, len(request.prompt))
        logits = forward.run([], [chunk], [request])
        cache.advance(chunk.row, chunk.count)
        request.prefilled = chunk.count
        request.last_token = int(logits[0].argmax())
    return requests


@pytest.mark.parametrize("dim", [64, 96, 128, 256])
def test_varlen_attention_agrees_with_sdpa(dim):
    assert supports(varlen_attn), "this torch is older than the path was written for"
    layout = CacheLayout((4,), (dim,), torch.bfloat16, GPU, positions_first=True)
    assert usable_varlen(layout) is varlen_attn


@pytest.mark.parametrize("graphs", [True, False])
def test_greedy_in_mixed_batches_equals_generate(model, graphs):
    cache = packed_cache(model, device=GPU, whole=True)
    if graphs:
        forward = GraphForward(model, cache, None, CudaGraphs(GPU))
    else:
        forward = PackedForward(model, cache)
    engine = PipelinedEngine(
        forward, cache, eos_ids=(), limits=EngineLimits(10**6, prefill_tokens=48)
    )
    recorder = started(engine)
    rng = random.Random(2)
    requests = {str(number): (random_prompt(rng), rng.randint(1, 30)) for number in range(16)}
    for number, (request_id, (prompt, count)) in enumerate(requests.items()):
        engine.submit(generation(f"noise{number}", random_prompt(rng), 40, temperature=1.0))
        engine.submit(generation(request_id, prompt, count))
        if number % 2:
            engine.cancel(f"noise{rng.randint(0, number)}")
    for request_id, (prompt, count) in requests.items():
        assert tokens_of(recorder, request_id) == expected_tokens(prompt, count)
    assert engine.stop()
    if graphs:
        assert forward.captures > 0


@pytest.mark.parametrize("varlen", [True, False])
def test_a_replayed_step_gives_the_logits_of_an_eager_one(varlen):
    model = wide_model()
    prompts = [[5, 6, 7], list(range(3, 90)), [9] * 20]
    function = varlen_attn if varlen else None
    with torch.inference_mode():
        caches = [cache_of(model), cache_of(model)]
        forwards = [
            PackedForward(model, caches[0], function),
            GraphForward(model, caches[1], function, CudaGraphs(GPU)),
        ]
        rows = [
            prefilled(forward, cache, prompts)
            for forward, cache in zip(forwards, caches, strict=True)
        ]
        for _ in range(20):
            logits = []
            for forward, cache, requests in zip(forwards, caches, rows, strict=True):
                logits.append(forward.run(requests, [], []).float().clone())
                for row in range(len(requests)):
                    cache.advance(row, 1)
            torch.testing.assert_close(logits[0], logits[1], rtol=0.05, atol=0.05)
            for one, other, token in zip(*rows, logits[0].argmax(-1).tolist(), strict=True):
                one.last_token = other.last_token = token
    assert forwards[1].captures == 1


def test_new_tensors_of_the_cache_make_graphs_void(model):
    with torch.inference_mode():
        cache = packed_cache(model, slots=8, tokens=4096, device=GPU)
        forward = GraphForward(model, cache, None, CudaGraphs(GPU))
        rows = prefilled(forward, cache, [[5, 6, 7], [8, 9]])
        before = forward.run(rows, [], []).clone()
        assert cache.extend(0, 500)
        torch.testing.assert_close(forward.run(rows, [], []), before, rtol=1e-3, atol=1e-3)
    assert forward.captures == 2


def test_steps_and_choices_never_wait_for_the_device():
    model = wide_model()
    settings = [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}]
    with torch.inference_mode():
        cache = cache_of(model)
        forward = GraphForward(model, cache, varlen_attn, CudaGraphs(GPU))
        rows = prefilled(forward, cache, [[5, 6, 7], list(range(3, 50)), [9, 9]])
        choices = [generation(str(n), [5], 9, **one).choice for n, one in enumerate(settings)]
        forward.run(rows, [], [])
        new = generation("new", [3, 4, 5, 6], 9)
        row = cache.take(100)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            fed = choose(forward.run(rows, [], []), choices)
            reading = Reading(fed)
            forward.run(rows, [], [], fed=fed.clamp(min=0))
            forward.run(rows, [Chunk(row, 0, 4)], [new], fed=fed.clamp(min=0))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len(reading.tokens()) == 3


def test_memory_stays_flat_while_decoding():
    model = wide_model()
    with torch.inference_mode():
        cache = cache_of(model)
        forward = GraphForward(model, cache, varlen_attn, CudaGraphs(GPU))
        rows = prefilled(forward, cache, [[5, 6, 7], [8, 9]])
        held = []
        for step in range(300):
            forward.run(rows, [], [])
            if step in (20, 299):
                torch.cuda.synchronize()
                held.append(torch.cuda.memory_reserved(GPU))
    assert held[0] == held[1]


def test_the_runner_loads_within_its_budget_and_answers(tmp_path):
    folder = save_folder(tmp_path / "tiny", "llama", hidden_size=384)
    budget = 512 * 1024 * 1024
    config = RunnerConfig("tiny", str(folder), device="cuda:0", slots=8, memory_budget=budget)
    runner = ChatRunner(config)
    memory = runner.load(lambda share, text: None)
    assert 0 < memory.total <= budget
    recorder = Recorder()
    runner.start(recorder)
    messages = [{"role": "user", "content": "the quick fox"}]
    for number in range(20):
        chat = ChatInput(messages, Sampling(temperature=0.0), max_tokens=20)
        runner.submit(str(number), TASK, chat.as_dict(), salt="org")
    ends = [recorder.end(str(number)) for number in range(20)]
    assert {end.units.completion_tokens > 0 for end in ends} == {True}
    runner.unload()
