"""Looks for a shape in a picture, by geometry alone: which shape, in which colour, on which ground.

The ground is the commonest colour of the rim. What differs from it is the thing; the share of a
pixel that belongs to it follows from how far its colour has moved from the ground's to the thing's.
Cut to its bounding box and brought to one size, it is laid over each shape's own outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from inference.demo.image_data import COLOURS, SHAPES, SIDE, outline

GRID = 48
FEWEST_PIXELS = 40
FAR = 60.0  # in RGB: this far from the ground a pixel may be of the thing


@dataclass(frozen=True, slots=True)
class Seen:
    """What a picture shows; `fit` is the overlap with the shape's outline, 0 to 1."""

    shape: str
    colour: str
    ground: str
    fit: float
    x: float
    y: float
    share: float
    """Of the picture's area."""


def look(picture: Image.Image, shapes: Sequence[str] = SHAPES) -> Seen | None:
    """Which of the shapes is there; None where there is nothing but ground."""
    pixels = np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), float)
    ground = _ground(pixels)
    distance = np.linalg.norm(pixels - ground, axis=-1)
    far = distance > max(FAR, 0.5 * float(np.percentile(distance, 99.5)))
    if int(far.sum()) < FEWEST_PIXELS:
        return None
    thing = np.median(pixels[_inner(far)], axis=0)
    cover = _cover(pixels, ground, thing)
    shape, fit = _shape(cover, shapes)
    rows, columns = np.nonzero(cover > 0.5)
    return Seen(
        shape,
        nearest(thing),
        nearest(ground),
        fit,
        float(columns.mean()) if columns.size else 0.0,
        float(rows.mean()) if rows.size else 0.0,
        float(cover.mean()),
    )


def nearest(colour: np.ndarray) -> str:
    """The name of the nearest known colour."""
    return min(COLOURS, key=lambda name: float(np.linalg.norm(colour - np.array(COLOURS[name]))))


def _ground(pixels: np.ndarray) -> np.ndarray:
    rim = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3),
                          pixels[:, :2].reshape(-1, 3), pixels[:, -2:].reshape(-1, 3)])  # fmt: skip
    return np.median(rim, axis=0)


def _inner(mask: np.ndarray) -> np.ndarray:
    """Without its rim, where colours mix; all of it where nothing would be left."""
    padded = np.pad(mask, 1)
    inner = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner if inner.any() else mask


def _cover(pixels: np.ndarray, ground: np.ndarray, thing: np.ndarray) -> np.ndarray:
    line = thing - ground
    return np.clip(((pixels - ground) @ line) / max(1.0, float(line @ line)), 0.0, 1.0)


def _shape(cover: np.ndarray, shapes: Sequence[str]) -> tuple[str, float]:
    rows = np.nonzero((cover > 0.5).any(axis=1))[0]
    columns = np.nonzero((cover > 0.5).any(axis=0))[0]
    if not rows.size or not columns.size:
        return "", 0.0
    whole = Image.fromarray((cover * 255).astype(np.uint8))
    box = (
        _edge(cover.max(axis=0), int(columns[0]), -1),
        _edge(cover.max(axis=1), int(rows[0]), -1),
        _edge(cover.max(axis=0), int(columns[-1]), 1),
        _edge(cover.max(axis=1), int(rows[-1]), 1),
    )
    cut = whole.resize((GRID, GRID), Image.Resampling.BILINEAR, box=box)
    found = np.asarray(cut, float) / 255
    ratio = (box[2] - box[0]) / max(1e-6, box[3] - box[1])
    fits = {name: _overlap(found, _mould(name)) - _stretch(name, ratio) for name in shapes}
    best = max(fits, key=lambda name: fits[name])
    return best, fits[best]


def _edge(line: np.ndarray, at: int, side: int) -> float:
    """Where the thing ends, to a part of a pixel: the next one's share of it counts."""
    beyond = at + side
    part = float(line[beyond]) if 0 <= beyond < len(line) else 0.0
    return at - part if side < 0 else at + 1 + part


def _overlap(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.minimum(one, two).sum() / max(1e-6, np.maximum(one, two).sum()))


def _stretch(name: str, ratio: float) -> float:
    """Less, where width to height is not the shape's own."""
    return 0.5 * abs(float(np.log(max(1e-3, ratio) / _ratio(name))))


@cache
def _ratio(name: str) -> float:
    points = np.array(outline(name, 1.0, 0.0, 0.0))
    width, height = points.max(axis=0) - points.min(axis=0)
    return float(width / height)


@cache
def _mould(name: str) -> np.ndarray:
    points = np.array(outline(name, 100.0, 0.0, 0.0))
    low, high = points.min(axis=0), points.max(axis=0)
    fine = 4 * GRID
    scaled = (points - low) / (high - low) * (fine - 1)
    mould = Image.new("L", (fine, fine))
    ImageDraw.Draw(mould).polygon([tuple(point) for point in scaled], fill=255)
    small = mould.resize((GRID, GRID), Image.Resampling.BOX)
    return np.asarray(small, float) / 255
