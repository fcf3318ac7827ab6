"""Tokens per second of the TokenEngine at several loads, against sequential `generate`.

    OMP_WAIT_POLICY=passive python -m benchmarks.engine --dtype bfloat16 --streams 1 8 32
    python -m benchmarks.engine --device cuda --streams 1 8 32 128 [--no-graphs] [--no-varlen]
        [--no-pipelining] [--each]

Random weights of a Qwen3 shape (about 100M parameters by default), prompts of 32-256 tokens,
answers of 32-128 tokens of fixed length; nothing is read from or written to disk.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import threading
import time
from dataclasses import replace

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from inference.contracts.chat import Sampling
from inference.runners.answers import PlainAnswer
from inference.runners.assembly import make_cache, make_forward
from inference.runners.attention import IMPLEMENTATION
from inference.runners.base import Delta, Ended, Event, Failed
from inference.runners.cuda_setup import GpuSwitches, capture, engine_class
from inference.runners.device import float_type
from inference.runners.families import SLOTS, Family
from inference.runners.generation import Generation
from inference.runners.sampling import Choice, SamplingDefaults
from inference.runners.slots import CacheLayout
from inference.runners.text import TextStream
from inference.runners.token_engine import EngineLimits

FAMILY = Family("qwen3", SLOTS)


class NoText:
    """The benchmark has no tokenizer: one character per token."""

    def push(self, token: int) -> str:
        return "x"


def build_model(options: argparse.Namespace) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=options.width * 8 // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.width // 64,
        num_key_value_heads=options.width // 64 // 3 or 1,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=None,
    )
    dtype = float_type(options.device, options.dtype)
    return Qwen3ForCausalLM(config).to(dtype).to(options.device).eval().requires_grad_(False)


def workload(count: int, vocabulary: int) -> list[tuple[list[int], int]]:
    rng = random.Random(1)
    return [
        ([rng.randrange(vocabulary) for _ in range(rng.randint(32, 256))], rng.randint(32, 128))
        for _ in range(count)
    ]


def run_engine(
    model: Qwen3ForCausalLM, streams: int, options: argparse.Namespace, switches: GpuSwitches
) -> str:
    config = model.config
    layers = config.num_hidden_layers
    layout = CacheLayout(
        (config.num_key_value_heads,) * layers,
        (config.head_dim,) * layers,
        model.dtype,
        model.device,
    )
    budget = streams * 2048 * layout.bytes_per_token
    cache = make_cache(FAMILY, layout, slots=streams, context=2048, budget=budget)
    forward = make_forward(FAMILY, model, cache, switches)
    began = time.perf_counter()
    capture(forward)
    captured = time.perf_counter() - began
    engine = engine_class(cache, switches)(forward, cache, eos_ids=(), limits=EngineLimits(10**9))
    work = workload(streams * options.rounds, config.vocab_size)
    first: dict[str, float] = {}
    gaps: list[float] = []
    last: dict[str, float] = {}
    ended = threading.Semaphore(0)
    tokens = 0

    def emit(events: list[Event]) -> None:
        nonlocal tokens
        now = time.perf_counter()
        for event in events:
            if isinstance(event, Delta):
                first.setdefault(event.request_id, now)
                if event.request_id in last:
                    gaps.append(now - last[event.request_id])
                last[event.request_id] = now
            elif isinstance(event, Ended):
                tokens += event.units.completion_tokens
                ended.release()
            elif isinstance(event, Failed):
                sys.exit(f"failed: {event}")

    sampling = Sampling(temperature=options.temperature, top_p=options.top_p, seed=1)
    engine.start(emit)
    began = time.perf_counter()
    sent: dict[str, float] = {}
    for number, (prompt, count) in enumerate(work):
        if number >= streams:
            ended.acquire()
        sent[str(number)] = time.perf_counter()
        choice = Choice(sampling, SamplingDefaults())
        engine.submit(
            Generation(str(number), prompt, count, choice, PlainAnswer(TextStream(NoText())))
        )
    for _ in range(min(streams, len(work))):
        ended.acquire()
    spent = time.perf_counter() - began
    engine.stop()
    waits = [first[request_id] - at for request_id, at in sent.items()]
    return (
        f"{streams:>3} streams  {tokens / spent:7.1f} tok/s   "
        f"first token p50 {statistics.median(waits) * 1000:6.0f} ms   "
        f"gap p50 {statistics.median(gaps) * 1000:5.1f} ms"
        + (f"   captured in {captured:.1f} s" if captured > 0.1 else "")
    )


def run_sequential(model: Qwen3ForCausalLM, requests: int) -> str:
    work = workload(requests, model.config.vocab_size)
    began = time.perf_counter()
    for prompt, count in work:
        ids = torch.tensor([prompt], device=model.device)
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
        )
    spent = time.perf_counter() - began
    return f"generate     {sum(count for _, count in work) / spent:7.1f} tok/s   one at a time"


def choices_of(options: argparse.Namespace) -> list[GpuSwitches]:
    """The switches to measure; a CPU knows none of them."""
    if not options.device.startswith("cuda"):
        return [GpuSwitches()]
    asked = GpuSwitches(not options.no_varlen, not options.no_graphs, not options.no_pipelining)
    names = GpuSwitches.__dataclass_fields__
    others = [replace(asked, **{name: False}) for name in names] if options.each else []
    return list(dict.fromkeys([asked, *others]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=2, help="requests per stream")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--sequential", type=int, default=4, help="requests for generate")
    parser.add_argument("--no-graphs", action="store_true", help="on a GPU: no CUDA graphs")
    parser.add_argument("--no-varlen", action="store_true", help="on a GPU: attention by SDPA")
    parser.add_argument(
        "--no-pipelining", action="store_true", help="on a GPU: read tokens at once"
    )
    parser.add_argument("--each", action="store_true", help="also without each of the three")
    options = parser.parse_args()
    model = build_model(options)
    size = sum(weight.numel() for weight in model.parameters()) / 1e6
    print(
        f"{size:.0f}M parameters, {model.dtype}, {model.device}, {torch.get_num_threads()} threads"
    )
    model.set_attn_implementation("sdpa")
    if options.sequential:
        print(run_sequential(model, options.sequential))
    model.set_attn_implementation(IMPLEMENTATION)
    for switches in choices_of(options):
        if options.device.startswith("cuda"):
            print(switches)
        for streams in options.streams:
            print(run_engine(model, streams, options, switches), flush=True)
    if options.device.startswith("cuda"):
        print(f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB reserved at most")


if __name__ == "__main__":
    main()
