"""How often the video demo shows what it is told, measured by a check that is measured itself.

All films are of combinations of shape, colour and direction that training has not seen, in words it
has. Everything goes through the Runner that serves requests and through its mp4 files. Of films from
a picture it is also told how far their first frame is from it, out of 255.

    python -m inference.demo.evaluate_video [--count 200] [--json]
"""

from __future__ import annotations

import argparse
import io
import json
import queue
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from inference.contracts.video import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, VideoInput
from inference.demo.train_video import OUT
from inference.demo.video_check import Moved, watch
from inference.demo.video_data import FPS, FRAMES, SIDE, Director, Film, Move, draw
from inference.runners.base import Ended, Event, RunnerConfig
from inference.runners.video import VideoRunner

STEPS = 20
GUIDANCE = 4.0
TOGETHER = 16
SHOWN = 2 * SIDE  # the smallest side that a request may ask for


class Cinema:
    """The Runner, asked one thing after another."""

    def __init__(self, folder: Path, *, steps: int = STEPS, guidance: float = GUIDANCE) -> None:
        options = {
            "native_side": SIDE,
            "native_frames": FRAMES,
            "only_native": True,
            "steps": steps,
            "guidance": guidance,
            "rows": TOGETHER,
        }
        config = RunnerConfig("demo", str(folder), dtype="float32", options=options)
        self._runner = VideoRunner(config)
        self._runner.load(lambda share, text: None)
        self._events: queue.SimpleQueue[list[Event]] = queue.SimpleQueue()
        self._runner.start(self._events.put)

    def __call__(self, wishes: list[tuple[str, VideoInput]]) -> list[Film]:
        """One film for each."""
        for number, (task, wish) in enumerate(wishes):
            self._runner.submit(str(number), task, wish.as_dict(), salt="")
        found: dict[str, Film] = {}
        while len(found) < len(wishes):
            for event in self._events.get():
                if isinstance(event, Ended):
                    found[event.request_id] = read_film(event.media[0].content)
        return [found[str(number)] for number in range(len(wishes))]

    def close(self) -> None:
        """Give the weights back."""
        self._runner.unload()


def read_film(file: Any) -> Film:
    """All frames of a file."""
    with file, av.open(file) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


@dataclass(slots=True)
class Score:
    """How many were right."""

    count: int = 0
    shape: int = 0
    colour: int = 0
    ground: int = 0
    direction: int = 0
    both: int = 0

    def note(self, move: Move, seen: Moved | None) -> None:
        """One film more."""
        self.count += 1
        if seen is None:
            return
        is_shape = seen.shape == move.shape
        is_way = seen.direction == move.direction and seen.is_steady
        self.shape += is_shape
        self.colour += seen.colour == move.colour
        self.ground += seen.ground == move.ground
        self.direction += is_way
        self.both += is_shape and is_way

    def shares(self) -> dict[str, float]:
        """Each as a share of all."""
        names = ("shape", "colour", "ground", "direction", "both")
        return {name: round(getattr(self, name) / self.count, 4) for name in names}


def check_of_the_check(count: int, seed: int) -> Score:
    """On true drawings."""
    director, score = Director(seed), Score()
    for _ in range(count):
        move = director.move(kept=True)
        score.note(move, watch(draw(move)))
    return score


def _wish(words: str, seed: int, picture: Image.Image | None = None) -> tuple[str, VideoInput]:
    film = {"width": SHOWN, "height": SHOWN, "frames": FRAMES, "fps": FPS, "seed": seed}
    if picture is None:
        return TEXT_TO_VIDEO, VideoInput(words, **film)
    file = io.BytesIO()
    picture.save(file, "PNG")
    image = ({"type": "image", "data": file.getvalue()},)
    return IMAGE_TO_VIDEO, VideoInput(words, **film, image=image)


def told(cinema: Cinema, count: int, seed: int) -> Score:
    """Films from words alone."""
    director, score = Director(seed), Score()
    moves = [director.move(kept=True) for _ in range(count)]
    wishes = [
        _wish(director.words(move, whole=True), seed + number) for number, move in enumerate(moves)
    ]
    for move, film in zip(moves, cinema(wishes), strict=True):
        score.note(move, watch(film))
    return score


def continued(cinema: Cinema, count: int, seed: int) -> tuple[Score, float]:
    """Films from a first picture, and how far their first frame is from it on average."""
    director, score, apart = Director(seed), Score(), []
    moves = [director.move(kept=True) for _ in range(count)]
    firsts = [draw(move)[0] for move in moves]
    wishes = [
        _wish(director.words(move, whole=True), seed + number, first)
        for number, (move, first) in enumerate(zip(moves, firsts, strict=True))
    ]
    for move, first, film in zip(moves, firsts, cinema(wishes), strict=True):
        score.note(move, watch(film))
        shown = film[0].resize((SIDE, SIDE), Image.Resampling.BOX)
        apart.append(np.abs(np.asarray(shown, float) - np.asarray(first, float)).mean())
    return score, round(float(np.mean(apart)), 2)


def evaluate(cinema: Cinema, count: int, seed: int = 11) -> dict[str, Any]:
    """All shares by name."""
    score, apart = continued(cinema, max(1, count // 2), seed + 1)
    return {
        "check": check_of_the_check(count, seed + 2).shares(),
        "from words": told(cinema, count, seed).shares(),
        "from a picture": {**score.shares(), "first frame apart": apart},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=OUT)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cinema = Cinema(given.weights, steps=given.steps, guidance=given.guidance)
    try:
        found = evaluate(cinema, given.count, given.seed)
    finally:
        cinema.close()
    if given.json:
        print(json.dumps({"count": given.count, "seed": given.seed, **found}))
        return
    for what, shares in found.items():
        for name, share in shares.items():
            if name == "first frame apart":
                print(f"{what:15} {name:18} {share:5.2f} of 255")
                continue
            mark = "" if share >= 0.9 else "   below 90 %"
            print(f"{what:15} {name:18} {100 * share:5.1f} %{mark}")


if __name__ == "__main__":
    main()
