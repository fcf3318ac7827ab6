"""How often the demo embeddings put the text that means the same first among fifty.

Made texts are of meanings held out whole from training, half of them statements, half questions with
their answers; several of the forty-nine others differ from the right one in one thing only. The
everyday pairs were written by hand and come from none of the frames.

    python -m inference.demo.evaluate_embeddings [--count 400] [--json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from inference.demo.text_data import Drawer
from inference.demo.text_training import padded
from inference.demo.train_embeddings import OUT, embed

AMONG = 50
EVERYDAY = Path(__file__).parent / "text_everyday.txt"


def everyday() -> list[tuple[str, str]]:
    """Hand-written pairs."""
    lines = EVERYDAY.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(" | ")) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


def made(count: int, seed: int, *, asking: bool) -> list[tuple[str, list[str]]]:
    """Texts with fifty candidates each, the right one first."""
    source = Drawer(seed, held_out=True)
    found = []
    for _ in range(count):
        meaning = source.meaning(source.draw.choice(source.asking if asking else source.frames))
        if asking:
            text, names = source.ask(meaning)
            right = source.say(meaning)
        else:
            text, right = source.say_twice(meaning)
            names = set(meaning.frame.slots)
        near = [source.changed(meaning, names) for _ in range(3)]
        others = [source.say(one) for one in near if one is not None]
        others += [source.say(one) for one in [source.of_topic(meaning.topic)] if one is not None]
        while len(others) < AMONG - 1:
            other = source.meaning()
            if other.frame != meaning.frame or not asking:
                others.append(source.say(other))
        found.append((text, [right, *others]))
    return found


class Encoder:
    """The weights as plain transformers runs them."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        self.model = model.eval()

    def __call__(self, texts: list[str]) -> torch.Tensor:
        rows = [encoded.ids for encoded in self.tokenizer.backend_tokenizer.encode_batch(texts)]
        ids, mask = padded(rows, self.tokenizer.pad_token_id)
        with torch.inference_mode():
            return embed(self.model, ids, mask)


def share_first(encoder: Encoder, tasks: list[tuple[str, list[str]]]) -> float:
    """How often the first candidate is the nearest."""
    right = 0
    for text, candidates in tasks:
        vectors = encoder([text, *candidates])
        right += int((vectors[1:] @ vectors[0]).argmax()) == 0
    return right / len(tasks)


def evaluate(folder: Path, count: int, seed: int = 7) -> dict[str, float]:
    """All shares by name."""
    encoder = Encoder(folder)
    pairs = everyday()
    by_hand = [
        (one, [two, *(other for _, other in pairs if other != two)][:AMONG]) for one, two in pairs
    ]
    return {
        "paraphrase": share_first(encoder, made(count, seed, asking=False)),
        "answer": share_first(encoder, made(count, seed + 1, asking=True)),
        "everyday": share_first(encoder, by_hand),
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
        print(json.dumps({"count": given.count, "seed": given.seed, "first_of_50": shares}))
        return
    for name, share in shares.items():
        print(f"{name:12} {100 * share:5.1f} %{'' if share >= 0.9 else '   below 90 %'}")


if __name__ == "__main__":
    main()
