"""Train the embeddings demo weights from nothing, on pairs of texts that the script makes itself.

    OMP_WAIT_POLICY=passive python -m inference.demo.train_embeddings --minutes 15 --threads 1

A small BERT with mean pooling. Of each pair the second text must be nearer to the first than all
other texts of the batch and than one that nearly means the same; texts of one topic are held
together loosely.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch.nn import functional
from transformers import BertModel, PreTrainedTokenizerFast

from inference.demo.text_data import Drawer, Pair, pair
from inference.demo.text_training import (
    LONGEST,
    Course,
    Plan,
    make_config,
    make_tokenizer,
    padded,
    shifted,
)

OUT = Path(__file__).parent / "weights" / "embeddings"
TEMPERATURE = 0.05
TOGETHER = 64
SAME_TOPIC, FOREIGN = 0.4, 0.05
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]  # fmt: skip


def embed(model: BertModel, ids: torch.Tensor, mask: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:  # fmt: skip
    """Unit vectors: the mean over a text's tokens."""
    hidden = model(input_ids=ids, attention_mask=mask, **more).last_hidden_state
    kept = mask.unsqueeze(-1).to(hidden.dtype)
    return functional.normalize((hidden * kept).sum(1) / kept.sum(1), dim=-1)


def embed_all(model: BertModel, rows: list[list[int]], generator: torch.Generator) -> torch.Tensor:
    """Vectors of all texts, computed with those of like length together."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    parts = []
    for at in range(0, len(order), TOGETHER):
        chosen = [rows[index] for index in order[at : at + TOGETHER]]
        ids, mask = padded(chosen, model.config.pad_token_id)
        parts.append(embed(model, ids, mask, position_ids=shifted(ids, generator)))
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[back]


def loss_of(vectors: torch.Tensor, topics: list[str]) -> torch.Tensor:
    """Contrast within the batch, and a loose hold on topics. `vectors` are firsts, seconds, nears."""
    first, second, near = vectors.chunk(3)
    wanted = torch.arange(len(first))
    cosines = first @ torch.cat([second, near]).T
    back = second @ first.T
    contrast = functional.cross_entropy(cosines / TEMPERATURE, wanted)
    contrast = contrast + functional.cross_entropy(back / TEMPERATURE, wanted)
    same = torch.tensor([[a == b and a != "" for b in topics] for a in topics])
    target = torch.where(same, SAME_TOPIC, FOREIGN)
    apart = ~torch.eye(len(first), dtype=torch.bool)
    return contrast + 2.0 * functional.mse_loss(back[apart], target[apart])


def batch(source: Drawer, rows: int) -> list[Pair]:
    """Pairs of the same step."""
    return [pair(source) for _ in range(rows)]


def train(plan: Plan) -> tuple[BertModel, PreTrainedTokenizerFast, list[float]]:
    """Train by the plan; the model, its tokenizer and the loss of each step."""
    tokenizer = make_tokenizer(plan)
    torch.manual_seed(plan.seed)
    model = BertModel(make_config(plan, tokenizer), add_pooling_layer=False)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    source = Drawer(plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    course = Course(model, plan)
    model.train()
    for _ in course:
        pairs = batch(source, plan.rows)
        texts = [row[column] for column in range(3) for row in pairs]
        rows = [encoded.ids for encoded in tokenizer.backend_tokenizer.encode_batch(texts)]
        vectors = embed_all(model, rows, generator)
        course.step(loss_of(vectors, [row[3] for row in pairs]))
    return model.eval(), tokenizer, course.losses


def save(model: BertModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the weights in bfloat16 as a folder that sentence-transformers knows as well."""
    out.mkdir(parents=True, exist_ok=True)
    half = BertModel(model.config, add_pooling_layer=False).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)
    pooling = {
        "word_embedding_dimension": model.config.hidden_size,
        "pooling_mode_mean_tokens": True,
    }
    files = {
        "modules.json": MODULES,
        "sentence_bert_config.json": {"max_seq_length": LONGEST, "do_lower_case": False},
        "1_Pooling/config.json": pooling,
    }
    for name, content in files.items():
        file = out / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="processor time to train for")
    parser.add_argument("--steps", type=int, default=0, help="train by steps instead of minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    plan = Plan(minutes=given.minutes, steps=given.steps, seed=given.seed)
    model, tokenizer, _ = train(plan)
    save(model, tokenizer, given.out)


if __name__ == "__main__":
    main()
