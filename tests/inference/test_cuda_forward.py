"""What runs on a GPU, on a CPU: the same steps with stand-ins for the kernels and the graphs."""

from __future__ import annotations

import random
import time

import pytest
import torch

from inference.runners.attention import Chunk
from inference.runners.cuda_attention import PackedStep, agrees, supports, usable_varlen
from inference.runners.cuda_forward import (
    GraphForward,
    PackedForward,
    bucket,
    smaller,
    span_for,
)
from inference.runners.forward import RaggedForward
from inference.runners.slots import CacheLayout
from inference.runners.token_engine import EngineLimits, TokenEngine
from tests.inference.engines import generation, started, tokens_of
from tests.inference.packed import (
    FakeGraphs,
    Watch,
    packed_cache,
    packed_forward,
    reference_varlen,
)
from tests.inference.tiny_models import (
    cache_for,
    expected_tokens,
    random_prompt,
    slot_model,
    tiny_model,
)

KINDS = ["varlen", "sdpa", "varlen graphs", "sdpa graphs"]


@pytest.fixture
def engine_of():
    made = []

    def make(forward, cache, **limits):
        engine = TokenEngine(
            forward, cache, eos_ids=(), limits=EngineLimits(**{"waiting_tokens": 10**6, **limits})
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        assert engine.stop(timeout=10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_mixed_batches_with_joins_and_cancels_equal_generate(engine_of, kind, family):
    model = slot_model(family)
    cache = packed_cache(model)
    engine = engine_of(packed_forward(kind, model, cache), cache, prefill_tokens=48)
    recorder = started(engine)
    rng = random.Random(2)
    requests = {}
    for number in range(16):
        prompt, count = random_prompt(rng), rng.randint(1, 30)
        requests[str(number)] = (prompt, count)
        noise = {} if number % 3 == 0 else {"temperature": 1.0, "seed": number}
        engine.submit(generation(f"noise{number}", random_prompt(rng), 40, **noise))
        engine.submit(generation(str(number), prompt, count))
        time.sleep(rng.random() * 0.01)
        if number % 2:
            engine.cancel(f"noise{rng.randint(0, number)}")
    for request_id, (prompt, count) in requests.items():
        assert tokens_of(recorder, request_id) == expected_tokens(prompt, count, family)


@pytest.mark.parametrize("kind", KINDS)
def test_sliding_window_layers_equal_generate(engine_of, kind):
    changes = {
        "use_sliding_window": True,
        "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    }
    plain = tiny_model(**changes)
    plain.generation_config.eos_token_id = None
    model = tiny_model(**changes)
    model.set_attn_implementation("slot_attention")
    cache = packed_cache(model)
    engine = engine_of(packed_forward(kind, model, cache), cache, prefill_tokens=24)
    recorder = started(engine)
    rng = random.Random(5)
    prompts = [random_prompt(rng, 5, 70) for _ in range(4)]
    for number, prompt in enumerate(prompts):
        engine.submit(generation(str(number), prompt, 30))
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        wanted = plain.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30
        )
        assert tokens_of(recorder, str(number)) == wanted[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_growth_of_the_cache_changes_no_answer(engine_of, kind):
    model = slot_model()
    cache = packed_cache(model, slots=6, tokens=3072)
    forward = packed_forward(kind, model, cache)
    engine = engine_of(forward, cache)
    recorder = started(engine)
    rng = random.Random(4)
    prompts = [random_prompt(rng, 5, 20) for _ in range(7)]
    counts = [40 if number % 2 else 300 for number in range(7)]
    for number, prompt in enumerate(prompts):
        engine.submit(generation(str(number), prompt, counts[number]))
    for number, prompt in enumerate(prompts):
        assert tokens_of(recorder, str(number)) == expected_tokens(prompt, counts[number])
    assert cache.generation > 1


def prefilled(forward, cache, prompts):
    """Rows 0.. with their prompts in the cache; returns the requests, ready to decode."""
    requests = [generation(str(row), prompt, 100) for row, prompt in enumerate(prompts)]
    for request in requests:
        row = cache.take(request.reserved)
        chunk = Chunk(row, 0, len(request.prompt))
        logits = forward.run([], [chunk], [request])
        cache.advance(row, chunk.count)
        request.prefilled = chunk.count
        request.last_token = int(logits[0].argmax())
    return requests


def decode(forward, cache, requests, **more):
    logits = forward.run(requests, [], [], **more)
    for row, request in enumerate(requests):
        cache.advance(row, 1)
        request.last_token = int(logits[row].argmax())
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_those_of_the_other_layout(kind):
    model = slot_model()
    prompts = [[5, 6, 7], list(range(3, 60)), [9] * 20]
    with torch.inference_mode():
        cache, other = packed_cache(model), cache_for(model)
        forward, ragged = packed_forward(kind, model, cache), RaggedForward(model, other)
        rows, same = prefilled(forward, cache, prompts), prefilled(ragged, other, prompts)
        for _ in range(5):
            torch.testing.assert_close(
                decode(forward, cache, rows), decode(ragged, other, same), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("kind", [*KINDS, "ragged"])
def test_tokens_fed_from_the_device_stand_in_for_the_last_ones(kind):
    model = slot_model()
    with torch.inference_mode():
        cache = cache_for(model) if kind == "ragged" else packed_cache(model)
        if kind == "ragged":
            forward = RaggedForward(model, cache)
        else:
            forward = packed_forward(kind, model, cache)
        rows = prefilled(forward, cache, [[5, 6, 7], [8, 9]])
        wanted = forward.run(rows, [], []).clone()
        fed = torch.tensor([row.last_token for row in rows])
        for row in rows:
            row.last_token = 1
        torch.testing.assert_close(forward.run(rows, [], [], fed=fed), wanted)


def test_a_step_never_waits_for_the_device():
    model = slot_model()
    cache = packed_cache(model)
    forward = PackedForward(model, cache, reference_varlen)
    with torch.inference_mode():
        rows = prefilled(forward, cache, [[5, 6, 7], list(range(3, 50))])
        row = cache.take(100)
        with Watch() as watch:
            forward.run(rows, [Chunk(row, 0, 4)], [generation("new", [3, 4, 5, 6], 9)])
    assert watch.calls
    assert not watch.reads


def unpadded_model():
    """Token 0, which fills the padding, gives keys and values other than zero here."""
    model = tiny_model(pad_token_id=None)
    model.set_attn_implementation("slot_attention")
    return model


def test_padding_rows_leave_no_trace():
    model = unpadded_model()
    with torch.inference_mode():
        cache = packed_cache(model, whole=True)
        forward = GraphForward(model, cache, reference_varlen, FakeGraphs())
        rows = prefilled(forward, cache, [[5, 6, 7], [8, 9], [10, 11, 12, 13]])
        for _ in range(4):
            decode(forward, cache, rows)
        for tensor in (*cache.keys, *cache.values):
            assert not tensor[3:].any()
            for row in range(3):
                assert not tensor[row, cache.length(row) :].any()
                assert tensor[row, : cache.length(row)].any(-1).all()
            assert cache.flat(tensor)[cache.scratch].any()
    assert forward.captures == 1


def test_a_half_prefilled_row_is_left_alone_by_padding():
    model = unpadded_model()
    with torch.inference_mode():
        cache = packed_cache(model, whole=True)
        forward = GraphForward(model, cache, reference_varlen, FakeGraphs())
        rows = prefilled(forward, cache, [[5, 6, 7], [8, 9], [3, 4]])
        waiting = generation("waiting", list(range(3, 40)), 20)
        row = cache.take(waiting.reserved)
        forward.run(rows, [Chunk(row, 0, 20)], [waiting])
        before = [tensor[row].clone() for tensor in cache.keys]
        for request in rows:
            request.last_token = 7
        forward.run(rows, [], [])
        assert all(
            torch.equal(tensor[row], one) for tensor, one in zip(cache.keys, before, strict=True)
        )


def test_graphs_are_captured_once_per_size_and_replayed():
    model, tool = slot_model(), FakeGraphs()
    with torch.inference_mode():
        cache = packed_cache(model, slots=8, whole=True)
        forward = GraphForward(model, cache, None, tool)
        rows = prefilled(forward, cache, [[5, 6], [7, 8], [9, 10], [3, 4], [5, 5]])
        for count in (5, 5, 3, 4, 1, 5):
            decode(forward, cache, rows[:count])
    assert (tool.captured, tool.replayed) == (3, 6)


def test_new_tensors_of_the_cache_make_graphs_void():
    model, tool = slot_model(), FakeGraphs()
    with torch.inference_mode():
        cache = packed_cache(model, slots=8, tokens=4096)
        forward = GraphForward(model, cache, reference_varlen, tool)
        other = cache_for(model)
        ragged = RaggedForward(model, other)
        prompts = [[5, 6, 7], [8, 9]]
        rows, same = prefilled(forward, cache, prompts), prefilled(ragged, other, prompts)
        decode(forward, cache, rows), decode(ragged, other, same)
        generation_before = cache.generation
        assert cache.extend(0, 500)
        assert cache.generation == generation_before + 1
        torch.testing.assert_close(
            decode(forward, cache, rows), decode(ragged, other, same), rtol=1e-4, atol=1e-4
        )
    assert tool.captured == 2


def test_warming_up_captures_every_number_of_rows():
    model, tool = slot_model(), FakeGraphs()
    cache = packed_cache(model, slots=6, whole=True)
    forward = GraphForward(model, cache, reference_varlen, tool)
    with torch.inference_mode():
        forward.warm_up(cache.max_len)
        assert not any(tensor.any() for tensor in (*cache.keys, *cache.values))
        warmed = tool.captured
        rows = prefilled(forward, cache, [[5, 6]] * 6)
        for count in range(1, 7):
            decode(forward, cache, rows[:count])
    assert (warmed, tool.captured, tool.replayed) == (4, 4, 6)


def test_a_failed_capture_leaves_decoding_without_graphs(engine_of):
    model, cache = slot_model(), packed_cache()
    forward = GraphForward(model, cache, reference_varlen, FakeGraphs(fails=True))
    engine = engine_of(forward, cache)
    recorder = started(engine)
    engine.submit(generation("one", [9, 10, 11], 12))
    assert tokens_of(recorder, "one") == expected_tokens([9, 10, 11], 12)
    assert forward.captures == 0


def test_sizes_of_graphs():
    assert [bucket(rows) for rows in (1, 2, 3, 4, 5, 32, 33)] == [1, 2, 4, 4, 8, 32, 64]
    assert [smaller(rows) for rows in (1, 2, 3, 4, 6, 8, 32)] == [0, 1, 2, 2, 4, 4, 16]
    assert [span_for(length, 10**6) for length in (1, 512, 513, 2049)] == [512, 512, 2048, 8192]
    assert span_for(700, 1024) == 1024


def test_chunks_out_of_order_are_refused():
    cache = packed_cache()
    places = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="ascending"):
        PackedStep(
            cache,
            positions=places,
            places=places,
            decode_rows=0,
            span=64,
            chunks=[Chunk(2, 0, 1), Chunk(1, 0, 1)],
            varlen=reference_varlen,
        )


def layout(dtype=torch.bfloat16, dims=(16, 8)):
    return CacheLayout((2, 1), dims, dtype, torch.device("cpu"), positions_first=True)


def test_varlen_is_used_where_it_agrees_with_sdpa():
    assert usable_varlen(layout(), reference_varlen) is reference_varlen
    assert agrees(layout(torch.float32), reference_varlen)


def test_varlen_is_left_out_where_it_cannot_serve():
    def old(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
        raise AssertionError

    def whole_rows(query, key, value, cu_q, cu_k, max_q, max_k, *, seqused_k, **settings):
        used = torch.full_like(seqused_k, 64)
        return reference_varlen(
            query, key, value, cu_q, cu_k, max_q, 10**6, seqused_k=used, **settings
        )

    def wrong(
        query,
        key,
        value,
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
        *,
        scale=None,
        window_size=(-1, -1),
        enable_gqa=False,
        seqused_k=None,
    ):
        return whole_rows(
            query,
            key,
            value,
            cu_seq_q,
            cu_seq_k,
            max_q,
            max_k,
            scale=scale,
            window_size=window_size,
            enable_gqa=enable_gqa,
            seqused_k=seqused_k,
        )

    def broken(*given, scale, window_size, enable_gqa, seqused_k):
        raise RuntimeError("no kernel image is available for execution on the device")

    assert not supports(old)
    assert supports(wrong)
    for function in (None, old, wrong, broken):
        assert usable_varlen(layout(), function) is None
    assert usable_varlen(layout(torch.float32), reference_varlen) is None
    assert usable_varlen(layout(dims=(12, 8)), reference_varlen) is None
    assert usable_varlen(layout(dims=(512, 8)), reference_varlen) is None
