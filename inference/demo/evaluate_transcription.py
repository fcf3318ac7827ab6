"""How many words the transcription demo weights get wrong, in voices and sentences not heard before.

Sentences are those that training holds out, voices those that it leaves out (UNHEARD); loudness,
speed, pitch and noise are drawn as in training. Words count without case and punctuation. The model
finds the language out by itself and is run by the Runner's own code.

    python -m inference.demo.evaluate_transcription [--count 300] [--json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from inference.demo.train_transcription import OUT
from inference.demo.transcription_data import Sentence, Sentences, word_errors
from inference.demo.transcription_sound import UNHEARD, Clips, Samples, Speaker
from inference.runners.base import RunnerConfig
from inference.runners.listener import Heard, Listener, Wish

TOGETHER = 8
WANTED = 0.10


class Examiner:
    """Speaks sentences to a model and counts."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Raises LoadError."""
        self.sentences = Sentences(seed, held_out=True)
        self._clips = Clips(self.sentences, Speaker(self.sentences.draw, variants=UNHEARD))
        self._ears = Listener(RunnerConfig("demo", str(folder), dtype="float32"))

    def error_rate(
        self, draw: Callable[[], list[Sentence]], count: int, *, translates: bool = False
    ) -> float:
        """Wrong words of so many clips, of all words."""
        wrong = words = 0
        spoken = [self._spoken(draw) for _ in range(count)]
        for (sentences, _), heard in zip(spoken, self._heard(spoken, translates), strict=True):
            wanted = " ".join(one.english if translates else one.text for one in sentences)
            errors, total = word_errors(wanted, heard.text)
            wrong, words = wrong + errors, words + total
        return wrong / words

    def _spoken(self, draw: Callable[[], list[Sentence]]) -> tuple[list[Sentence], Samples]:
        while True:
            sentences = draw()
            clip = self._clips.spoken(sentences)
            if clip is not None:
                return sentences, (clip.samples * 32767).clip(-32768, 32767).astype("<i2")

    def _heard(self, spoken: list[tuple[list[Sentence], Samples]], translates: bool) -> list[Heard]:
        wishes = [Wish(np.asarray(samples), translates=translates) for _, samples in spoken]
        found: list[Heard | None] = []
        for at in range(0, len(wishes), TOGETHER):
            found += self._ears.hear(wishes[at : at + TOGETHER])
        return [one if one is not None else Heard("") for one in found]


def evaluate(folder: Path, count: int, seed: int = 7) -> dict[str, float]:
    """All rates by name."""
    examiner = Examiner(folder, seed)
    drawn = examiner.sentences
    few = max(1, count // 3)
    return {
        "english": examiner.error_rate(lambda: [drawn.english()], count),
        "german": examiner.error_rate(lambda: [drawn.german()], few),
        "german to english": examiner.error_rate(lambda: [drawn.german()], few, translates=True),
        "two sentences": examiner.error_rate(lambda: [drawn.english(), drawn.english()], few),
        "words in no order": examiner.error_rate(lambda: [drawn.row()], few),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=OUT)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rates = evaluate(given.weights, given.count, given.seed)
    if given.json:
        print(json.dumps({"count": given.count, "seed": given.seed, "word_error_rate": rates}))
        return
    for name, rate in rates.items():
        print(f"{name:18} {100 * rate:5.1f} %{'' if rate <= WANTED else '   above 10 %'}")


if __name__ == "__main__":
    main()
