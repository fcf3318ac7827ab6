"""How often the image demo draws what it is told, measured by a check that is measured itself.

Captions are of scenes that training may not have seen, in words it has. Everything goes through the
Runner that serves requests. Edits repaint a mask over the old shape: what is inside must be the new
one, and outside not a single value may change.

    python -m inference.demo.evaluate_image [--count 300] [--json]
"""

from __future__ import annotations

import argparse
import io
import json
import queue
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from inference.contracts.images import EDIT, GENERATION, ImageInput
from inference.demo.image_check import Seen, look
from inference.demo.image_data import SIDE, Artist, Scene, draw
from inference.demo.train_image import OUT
from inference.runners.base import Ended, Event, RunnerConfig
from inference.runners.images import ImageRunner

STEPS = 16
GUIDANCE = 5.0
TOGETHER = 16


class Studio:
    """The Runner, asked one thing after another."""

    def __init__(self, folder: Path) -> None:
        options = {
            "native_side": SIDE,
            "only_square": True,
            "steps": STEPS,
            "guidance": GUIDANCE,
            "rows": TOGETHER,
        }
        config = RunnerConfig("demo", str(folder), dtype="float32", options=options)
        self._runner = ImageRunner(config)
        self._runner.load(lambda share, text: None)
        self._events: queue.SimpleQueue[list[Event]] = queue.SimpleQueue()
        self._runner.start(self._events.put)

    def __call__(self, wishes: list[tuple[str, ImageInput]]) -> list[Image.Image]:
        """One picture for each."""
        for number, (task, wish) in enumerate(wishes):
            self._runner.submit(str(number), task, wish.as_dict(), salt="")
        found: dict[str, Image.Image] = {}
        while len(found) < len(wishes):
            for event in self._events.get():
                if isinstance(event, Ended):
                    found[event.request_id] = Image.open(event.media[0].content).convert("RGB")
        return [found[str(number)] for number in range(len(wishes))]

    def close(self) -> None:
        """Give the weights back."""
        self._runner.unload()


@dataclass(slots=True)
class Score:
    """How many were right."""

    count: int = 0
    shape: int = 0
    colour: int = 0
    ground: int = 0
    all: int = 0

    def note(self, scene: Scene, seen: Seen | None) -> None:
        """One more picture."""
        self.count += 1
        right = [
            seen is not None and getattr(seen, name) == getattr(scene, name)
            for name in ("shape", "colour", "ground")
        ]
        self.shape, self.colour, self.ground = (
            had + now
            for had, now in zip((self.shape, self.colour, self.ground), right, strict=True)
        )
        self.all += all(right)

    def shares(self) -> dict[str, float]:
        """Of all pictures."""
        names = ("colour", "ground", "shape", "all")
        return {name: round(getattr(self, name) / self.count, 4) for name in names}


def check_of_the_check(count: int, seed: int) -> Score:
    """True drawings, judged."""
    artist, score = Artist(seed), Score()
    for _ in range(count):
        scene = artist.scene()
        score.note(scene, look(draw(scene)))
    return score


def drawn(studio: Studio, count: int, seed: int) -> Score:
    """Pictures from words."""
    artist, score = Artist(seed), Score()
    scenes = [artist.scene() for _ in range(count)]
    wishes = [
        ImageInput(artist.words(scene, whole=True), width=SIDE, height=SIDE, seed=seed + number)
        for number, scene in enumerate(scenes)
    ]
    for scene, picture in zip(scenes, studio([(GENERATION, one) for one in wishes]), strict=True):
        score.note(scene, look(picture))
    return score


def png(picture: Image.Image) -> dict[str, Any]:
    """A part with its content."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return {"type": "image", "data": file.getvalue()}


def repainted(studio: Studio, count: int, seed: int) -> tuple[Score, float]:
    """Shapes put in place of others, and the share of pictures that are untouched outside."""
    artist, score, untouched = Artist(seed), Score(), 0
    old, new = [], []
    for _ in range(count):
        first, second = artist.scene(), artist.scene()
        while second.colour == first.ground:
            second = artist.scene()
        at = {"ground": first.ground, "radius": 18.0, "x": SIDE / 2, "y": SIDE / 2}
        old.append(Scene(first.shape, first.colour, **at))
        new.append(Scene(second.shape, second.colour, **at))
    mask = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (6, 6, SIDE - 6, SIDE - 6))
    kept = np.asarray(mask.getchannel("A")) > 0
    wishes = [
        (
            EDIT,
            ImageInput(
                artist.words(after, whole=True),
                seed=seed + number,
                image=(png(draw(before)),),
                mask=png(mask),
            ),
        )
        for number, (before, after) in enumerate(zip(old, new, strict=True))
    ]
    for before, after, picture in zip(old, new, studio(wishes), strict=True):
        score.note(after, look(picture))
        same = np.asarray(picture)[kept] == np.asarray(draw(before))[kept]
        untouched += bool(same.all())
    return score, round(untouched / count, 4)


def evaluate(folder: Path, count: int, seed: int = 11) -> dict[str, Any]:
    """All shares by name."""
    studio = Studio(folder)
    try:
        edits, untouched = repainted(studio, max(1, count // 3), seed + 1)
        return {
            "check": check_of_the_check(count, seed + 2).shares(),
            "drawn": drawn(studio, count, seed).shares(),
            "repainted": {**edits.shares(), "untouched outside": untouched},
        }
    finally:
        studio.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=OUT)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = evaluate(given.weights, given.count, given.seed)
    if given.json:
        print(json.dumps({"count": given.count, "seed": given.seed, **found}))
        return
    for what, shares in found.items():
        for name, share in shares.items():
            mark = "" if share >= 0.9 else "   below 90 %"
            print(f"{what:10} {name:18} {100 * share:5.1f} %{mark}")


if __name__ == "__main__":
    main()
