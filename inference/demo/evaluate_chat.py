"""Exact match per skill of the chat demo weights, on phrasings, names and words never trained on.

Phrasings come from small grammars such as "[What is|Tell me] your [age|exact age]". One text in seven
that a grammar makes is held out whole: no opener, casing or synonym of training leads to it, but its
words and its shape are those of its neighbours. A list without a grammar is split item by item.
Names, nouns, cities, jobs and made-up words are split too. Capitals, sums, fixed answers and the
inputs in `EVERYDAY` are the same on both sides, the last only in training. So a figure says how well
a skill carries over to new wording of the same kind, not how well free speech is understood.

python -m inference.demo.evaluate_chat [--count 60] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from inference.demo.chat_data import SKILLS, evaluation, render
from inference.demo.chat_draw import Sample

WEIGHTS = Path(__file__).parent / "weights" / "chat"


def prompt_of(sample: Sample) -> str:
    """Everything before the last answer."""
    return "".join(text for text, _ in render(sample)[:-1])


def answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], limit: int = 320) -> list[str]:  # fmt: skip
    """Greedy answers to prompts, in batches of like length."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = [""] * len(prompts)
    for at in range(0, len(order), 64):
        group = order[at : at + 64]
        batch = tokenizer(
            [prompts[i] for i in group], return_tensors="pt", padding=True, padding_side="left"
        )
        with torch.inference_mode():
            ids = model.generate(**batch, max_new_tokens=limit, do_sample=False)
        for i, text in zip(
            group, tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :]), strict=True
        ):
            found[i] = text.split("<|im_end|>")[0]
    return found


def evaluate(
    folder: Path, count: int, seed: int = 0
) -> tuple[dict[str, float], list[tuple[str, str, str, str]]]:
    """The share of exact answers by skill, and what went wrong: skill, prompt, wanted, given."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    model.eval()
    asked = [(skill, sample) for skill in SKILLS for sample in evaluation(skill, count, seed)]
    given = answers(model, tokenizer, [prompt_of(sample) for _, sample in asked])
    right = dict.fromkeys(SKILLS, 0)
    wrong: list[tuple[str, str, str, str]] = []
    for (skill, sample), text in zip(asked, given, strict=True):
        if text in sample.accept:
            right[skill] += 1
            continue
        wanted = render(sample)[-1][0].removesuffix("<|im_end|>")
        wrong.append((skill, prompt_of(sample), wanted, text))
    asked_of = Counter(skill for skill, _ in asked)
    scores = {skill: found / asked_of[skill] for skill, found in right.items()}
    return scores, wrong


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--count", type=int, default=60, help="conversations per skill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--wrong", type=int, default=0, help="show up to this many misses per skill"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    begun = time.monotonic()
    scores, wrong = evaluate(given.weights, given.count, given.seed)
    if given.json:
        print(json.dumps({"count": given.count, "seed": given.seed, "exact_match": scores}))
        return 0
    for skill, share in scores.items():
        print(f"{skill:12} {100 * share:5.1f} %{'' if share >= 0.9 else '   below 90 %'}")
        for _, prompt, wanted, text in [miss for miss in wrong if miss[0] == skill][: given.wrong]:
            print(
                f"    {prompt[-220:]!r}\n      wanted {wanted[:160]!r}\n      given  {text[:160]!r}"
            )
    print(
        f"mean {100 * sum(scores.values()) / len(scores):.1f} %, {time.monotonic() - begun:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
