"""Train the reranker demo weights, starting from the embeddings demo weights.

    OMP_WAIT_POLICY=passive python -m inference.demo.train_reranker --minutes 15 --threads 1

A small BERT that reads query and document together and has one logit. Its sigmoid is trained to be
near 1 for a document that answers, in between for one about the same thing or topic, and near 0 for
a stranger; within a group the right document must win.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer, BertForSequenceClassification, PreTrainedTokenizerFast

from inference.demo.text_data import Drawer, group
from inference.demo.text_training import Course, Plan, make_config, padded, shifted
from inference.demo.train_embeddings import OUT as START

OUT = Path(__file__).parent / "weights" / "reranker"
SIZE = 6  # documents of a group
TOGETHER = 24


def logits_of(
    model: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    pairs: list[tuple[str, str]],
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """One logit for each query with its document, pairs of like length computed together."""
    encoded = tokenizer.backend_tokenizer.encode_batch(pairs)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    found = torch.empty(0)
    for at in range(0, len(order), TOGETHER):
        chosen = [encoded[index] for index in order[at : at + TOGETHER]]
        ids, mask = padded([row.ids for row in chosen], tokenizer.pad_token_id)
        types, _ = padded([row.type_ids for row in chosen], 0)
        more = {} if generator is None else {"position_ids": shifted(ids, generator)}
        part = model(input_ids=ids, attention_mask=mask, token_type_ids=types, **more)
        found = torch.cat([found, part.logits[:, 0]])
    return found[torch.tensor(order).argsort()]


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`[groups, documents]`; the right document is the first."""
    level = functional.binary_cross_entropy_with_logits(logits, labels)
    first = torch.zeros(len(logits), dtype=torch.long)
    return level + 0.5 * functional.cross_entropy(logits, first)


def train(
    plan: Plan, start: Path
) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast, list[float]]:
    """Train by the plan; the model, its tokenizer and the loss of each step."""
    tokenizer = AutoTokenizer.from_pretrained(start, local_files_only=True)
    torch.manual_seed(plan.seed)
    model = BertForSequenceClassification.from_pretrained(
        start,
        config=make_config(plan, tokenizer, num_labels=1),
        dtype=torch.float32,
        local_files_only=True,
    )
    source = Drawer(plan.seed + 2)
    generator = torch.Generator().manual_seed(plan.seed)
    course = Course(model, plan)
    model.train()
    for _ in course:
        groups = [group(source, SIZE) for _ in range(plan.rows // SIZE)]
        pairs = [(one.query, document) for one in groups for document in one.documents]
        logits = logits_of(model, tokenizer, pairs, generator).view(len(groups), SIZE)
        course.step(loss_of(logits, torch.tensor([one.labels for one in groups])))
    return model.eval(), tokenizer, course.losses


def save(
    model: BertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, out: Path
) -> None:
    """Write the weights in bfloat16, with the tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    half = BertForSequenceClassification(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="processor time to train for")
    parser.add_argument("--steps", type=int, default=0, help="train by steps instead of minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, default=START)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = Plan(minutes=given.minutes, steps=given.steps, seed=given.seed)
    model, tokenizer, _ = train(plan, given.start)
    save(model, tokenizer, given.out)


if __name__ == "__main__":
    main()
