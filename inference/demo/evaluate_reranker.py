"""How often the demo reranker puts the document that answers the query first among twenty.

Queries and documents are of meanings held out whole from training. Among the others are the same
statement about something else, statements about the same thing that do not answer, and some of the
same topic. The everyday pairs were written by hand and come from none of the frames; there every
other text of the list is a stranger.

    python -m inference.demo.evaluate_reranker [--count 400] [--json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from inference.demo.evaluate_embeddings import everyday
from inference.demo.text_data import Drawer, group
from inference.demo.train_reranker import OUT, logits_of

AMONG = 20


class Reranker:
    """The weights as plain transformers runs them."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        )
        self.model = model.eval()

    def __call__(self, query: str, documents: list[str]) -> torch.Tensor:
        with torch.inference_mode():
            pairs = [(query, document) for document in documents]
            return logits_of(self.model, self.tokenizer, pairs).sigmoid()


def share_first(reranker: Reranker, tasks: list[tuple[str, list[str]]]) -> float:
    """How often the first document has the highest score."""
    right = sum(int(reranker(query, documents).argmax()) == 0 for query, documents in tasks)
    return right / len(tasks)


def evaluate(folder: Path, count: int, seed: int = 7) -> dict[str, float]:
    """All shares by name."""
    reranker = Reranker(folder)
    source = Drawer(seed, held_out=True)
    groups = [group(source, AMONG) for _ in range(count)]
    pairs = everyday()
    by_hand = [(one, [two, *(o for _, o in pairs if o != two)][:AMONG]) for one, two in pairs]
    return {
        "answer": share_first(reranker, [(one.query, list(one.documents)) for one in groups]),
        "everyday": share_first(reranker, by_hand),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=OUT)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shares = evaluate(given.weights, given.count, given.seed)
    if given.json:
        print(json.dumps({"count": given.count, "seed": given.seed, "first_of_20": shares}))
        return
    for name, share in shares.items():
        print(f"{name:12} {100 * share:5.1f} %{'' if share >= 0.9 else '   below 90 %'}")


if __name__ == "__main__":
    main()
