"""Train the chat demo weights from nothing, on conversations that the script makes itself.

    OMP_WAIT_POLICY=passive python -m inference.demo.train_chat --minutes 40 --threads 1

A small Qwen3 with its own byte-level tokenizer, chat template and tool-call parser. Muon drives the
hidden matrices and AdamW the rest; the loss counts only what the assistant writes.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from inference.demo.chat_data import render, stream
from inference.demo.chat_draw import Sample

HERE = Path(__file__).parent
OUT = HERE / "weights" / "chat"
START, END, PAD, CALL, CALL_END = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<tool_call>",
    "</tool_call>",
)
WORDS = r"\p{L}+|\p{N}|[^\p{L}\p{N}]"
RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)", "content": "text"},
    },
}


@dataclass(slots=True)
class Plan:
    """What a training run is to do."""

    minutes: float = 40.0
    steps: int = 0
    seed: int = 0
    tokens: int = 3072
    vocabulary: int = 1536
    width: int = 192
    layers: int = 5
    inner: int = 384
    corpus: int = 12000
    bf16: bool = True
    compiled: bool = False


def make_tokenizer(plan: Plan) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which a word has the same pieces wherever it stands.

    A blank, a digit and a sign are pieces of their own, so that a copied word, number or address
    is the same run of tokens in the question and in the answer.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=plan.vocabulary,
        special_tokens=[PAD, START, END, CALL, CALL_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    samples = islice(stream(plan.seed + 1), plan.corpus)
    core.train_from_iterator((text for sample in samples for text, _ in render(sample)), trainer)
    state = core.to_str()
    for mark in (CALL, CALL_END):
        state = state.replace(f'"content":"{mark}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true', f'"content":"{mark}","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":false')  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(state),
        eos_token=END,
        pad_token=PAD,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = (
        (HERE / "chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")
    )
    tokenizer.response_template = RESPONSE
    return tokenizer


def make_model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained Qwen3 of the planned size."""
    torch.manual_seed(plan.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=plan.width,
        num_hidden_layers=plan.layers,
        intermediate_size=plan.inner,
        num_attention_heads=plan.width // 32,
        num_key_value_heads=plan.width // 64,
        head_dim=32,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


Encoded = tuple[list[int], list[int]]


def encode(tokenizer: PreTrainedTokenizerFast, sample: Sample) -> Encoded:
    """Token ids, and the targets: -100 where the assistant is not the writer."""
    ids: list[int] = []
    targets: list[int] = []
    for text, learn in render(sample):
        piece = tokenizer.backend_tokenizer.encode(text).ids
        ids += piece
        targets += piece if learn else [-100] * len(piece)
    return ids, targets


def batches(source: Iterator[Encoded], budget: int, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:  # fmt: skip
    """Batches of about `budget` tokens, each of conversations of like length."""
    while True:
        pool = sorted(
            (item for item in islice(source, 2048) if len(item[0]) <= 1536),
            key=lambda item: len(item[0]),
        )
        groups: list[list[Encoded]] = [[]]
        for item in pool:
            if (len(groups[-1]) + 1) * len(item[0]) > budget:
                groups.append([])
            groups[-1].append(item)
        for index in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[index]
            if not group:
                continue
            width = len(group[-1][0])
            ids = torch.tensor([a + [0] * (width - len(a)) for a, _ in group])
            targets = torch.tensor([b + [-100] * (width - len(b)) for _, b in group])
            yield ids, targets


def make_optimizers(model: Qwen3ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the embedding and the norms."""
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(hidden, lr=0.02, weight_decay=0.01, momentum=0.95, nesterov=True),
        torch.optim.AdamW(rest, lr=0.004, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def loss_of(model: Qwen3ForCausalLM, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy where the assistant writes; the head runs nowhere else."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = targets[:, 1:]
    chosen = wanted != -100
    return functional.cross_entropy(model.lm_head(hidden[chosen]).float(), wanted[chosen])


def rate(progress: float, step: int) -> float:
    """Warm up over 50 steps, hold, then fall to nothing over the second half."""
    return min(1.0, (step + 1) / 50) * min(1.0, max(0.0, 2 * (1 - progress)))


def train(plan: Plan, say: Callable[[str], None] = print, out: Path | None = None) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast, list[float]]:  # fmt: skip
    """Train by the plan; answer the model, its tokenizer and the loss of each step."""
    begun = time.monotonic()
    tokenizer = make_tokenizer(plan)
    model = make_model(plan, tokenizer)
    say(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    optimizers = make_optimizers(model)
    progress, seen, losses = 0.0, 0, []
    source = (encode(tokenizer, sample) for sample in stream(plan.seed, progress=lambda: progress))
    feed = batches(source, plan.tokens, torch.Generator().manual_seed(plan.seed))
    model.train()
    if plan.compiled:
        model.set_attn_implementation("eager")
        model.model.forward = torch.compile(model.model.forward, dynamic=True)
    while progress < 1:
        ids, targets = next(feed)
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.bf16):
            loss = loss_of(model, ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, (0.02, 0.004), strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(progress, len(losses))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seen += ids.numel()
        step, spent = len(losses), time.monotonic() - begun
        progress = step / plan.steps if plan.steps else spent / (60 * plan.minutes)
        if step % 100 == 0 or step in (1, 10):
            recent = sum(losses[-100:]) / len(losses[-100:])
            say(f"step {step} loss {recent:.4f} tokens {seen / 1e6:.2f}M {spent / 60:.1f} min")
        if out and step % 300 == 0:
            save(model, tokenizer, out)
    if plan.compiled:
        del model.model.forward
        model.set_attn_implementation("sdpa")
    model.eval()
    return model, tokenizer, losses


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the weights in bfloat16, with the tokenizer; `out` is what the runners load."""
    out.mkdir(parents=True, exist_ok=True)
    half = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40.0, help="how long to train")
    parser.add_argument("--steps", type=int, default=0, help="train by steps instead of minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--no-compile", action="store_true", help="train without torch.compile (slower)"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    compiled = not given.no_compile and shutil.which("c++") is not None
    plan = Plan(minutes=given.minutes, steps=given.steps, seed=given.seed, compiled=compiled)
    model, tokenizer, _ = train(plan, lambda line: print(line, flush=True), given.out)
    save(model, tokenizer, given.out)


if __name__ == "__main__":
    main()
