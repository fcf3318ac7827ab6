"""Looks for a moving shape in a film, by geometry alone: which shape, its colour, which way it goes.

Every frame is looked at by `image_check`; what most frames show counts. The way is that from where
the shape is seen first to where it is seen last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image

from inference.demo.image_check import Seen, look
from inference.demo.image_data import SIDE as LOOKED_SIDE
from inference.demo.video_data import DIRECTIONS, SHAPES, SIDE, turned

SHORTEST_WAY = 4.0  # in pixels of the drawing: less is no movement
SCALE = SIDE / LOOKED_SIDE


@dataclass(frozen=True, slots=True)
class Moved:
    """What a film shows; `direction` is empty where nothing moves, `way` in pixels."""

    shape: str
    colour: str
    ground: str
    direction: str
    way: float
    is_steady: bool
    """Whether it never turns back."""


def watch(film: Sequence[Image.Image]) -> Moved | None:
    """What is there; None where fewer than half of the frames show anything."""
    seen = [found for frame in film if (found := look(frame, SHAPES)) is not None]
    if 2 * len(seen) < len(film):
        return None
    dx, dy = (seen[-1].x - seen[0].x) * SCALE, (seen[-1].y - seen[0].y) * SCALE
    way = max(abs(dx), abs(dy))
    direction = turned(dx, dy) if way >= SHORTEST_WAY else ""
    return Moved(
        _most(one.shape for one in seen),
        _most(one.colour for one in seen),
        _most(one.ground for one in seen),
        direction,
        way,
        _is_steady(seen, direction),
    )


def _most(values: object) -> str:
    return Counter(values).most_common(1)[0][0]  # type: ignore[call-overload]


def _is_steady(seen: Sequence[Seen], direction: str) -> bool:
    if not direction:
        return False
    across, down = DIRECTIONS[direction]
    places = [one.x * across + one.y * down for one in seen]
    return all(two - one > -2.0 for one, two in pairwise(places))
