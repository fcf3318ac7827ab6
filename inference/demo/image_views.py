"""Small landscapes that the image demo knows beside its shapes."""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image, ImageDraw

SIDE, FINE = 64, 4
FULL = SIDE * FINE
Colour = tuple[int, int, int]


def _blend(top: Colour, bottom: Colour) -> Image.Image:
    column = Image.new("RGB", (1, FULL))
    for y in range(FULL):
        part = y / FULL
        column.putpixel(
            (0, y), tuple(round(a + (b - a) * part) for a, b in zip(top, bottom, strict=True))
        )
    return column.resize((FULL, FULL))


def _small(picture: Image.Image) -> Image.Image:
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def sunset(chance: random.Random) -> Image.Image:
    """The sun goes down over water."""
    picture = _blend((90, 40, 120), (255, 160, 60))
    pen = ImageDraw.Draw(picture)
    sea = round(FULL * chance.uniform(0.55, 0.65))
    x, radius = FULL * chance.uniform(0.35, 0.65), FULL * chance.uniform(0.12, 0.18)
    y = sea - radius * chance.uniform(0.1, 0.6)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 225, 120))
    pen.rectangle((0, sea, FULL, FULL), fill=(30, 45, 110))
    for step in range(4):
        wide = radius * (1.0 - 0.2 * step)
        at = sea + 12 + 22 * step
        pen.rectangle((x - wide, at, x + wide, at + 8), fill=(250, 180, 90))
    return _small(picture)


def alley(chance: random.Random) -> Image.Image:
    """Two rows of houses at night, neon signs and a wet street."""
    picture = _blend((20, 16, 46), (60, 30, 90))
    pen = ImageDraw.Draw(picture)
    middle = FULL * chance.uniform(0.45, 0.55)
    far = FULL * 0.5
    pen.polygon(
        [(0, 0), (middle - 26, far * 0.6), (middle - 26, far + 20), (0, FULL)], fill=(26, 20, 40)
    )
    pen.polygon(
        [(FULL, 0), (middle + 26, far * 0.6), (middle + 26, far + 20), (FULL, FULL)],
        fill=(34, 22, 50),
    )
    pen.polygon(
        [(0, FULL), (middle - 26, far + 20), (middle + 26, far + 20), (FULL, FULL)],
        fill=(40, 44, 80),
    )
    pink, cyan = (255, 60, 170), (40, 230, 240)
    left, right = (pink, cyan) if chance.random() < 0.5 else (cyan, pink)
    pen.rectangle((26, 70, 50, 170), fill=left)
    pen.rectangle((FULL - 54, 56, FULL - 28, 150), fill=right)
    pen.rectangle((72, 96, 86, 140), fill=right)
    pen.polygon(
        [(40, FULL - 6), (middle - 20, far + 30), (middle - 8, far + 30), (80, FULL - 6)], fill=left
    )
    pen.polygon(
        [
            (FULL - 80, FULL - 6),
            (middle + 8, far + 30),
            (middle + 20, far + 30),
            (FULL - 40, FULL - 6),
        ],
        fill=right,
    )
    return _small(picture)


def night(chance: random.Random) -> Image.Image:
    """A planet among stars."""
    picture = _blend((8, 8, 30), (24, 16, 60))
    pen = ImageDraw.Draw(picture)
    for column in range(4):
        for row in range(4):
            x = 32 + 64 * column + chance.uniform(-14, 14)
            y = 32 + 64 * row + chance.uniform(-14, 14)
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(240, 240, 255))
    x, y = FULL * chance.uniform(0.4, 0.6), FULL * chance.uniform(0.4, 0.6)
    radius = FULL * chance.uniform(0.18, 0.24)
    colour = chance.choice([(230, 130, 80), (90, 170, 230), (200, 180, 120)])
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    pen.polygon(
        [
            (x - 1.7 * radius, y + 14),
            (x + 1.7 * radius, y - 22),
            (x + 1.7 * radius, y - 12),
            (x - 1.7 * radius, y + 24),
        ],
        fill=(250, 240, 210),
    )
    return _small(picture)


def hills(chance: random.Random) -> Image.Image:
    """Mountains behind a meadow."""
    picture = _blend((90, 170, 245), (205, 232, 252))
    pen = ImageDraw.Draw(picture)
    ground = FULL * chance.uniform(0.68, 0.76)
    for x, colour in ((0.3, (110, 110, 140)), (0.7, (130, 128, 156))):
        peak = FULL * chance.uniform(0.22, 0.36)
        at = FULL * (x + chance.uniform(-0.06, 0.06))
        pen.polygon([(at, peak), (at + 110, ground), (at - 110, ground)], fill=colour)
        pen.polygon([(at, peak), (at + 26, peak + 30), (at - 26, peak + 30)], fill=(250, 250, 252))
    pen.rectangle((0, ground, FULL, FULL), fill=(80, 165, 75))
    x = FULL * chance.choice([0.14, 0.86])
    pen.ellipse((x - 20, 16, x + 20, 56), fill=(255, 230, 90))
    return _small(picture)


VIEWS: dict[str, tuple[Callable[[random.Random], Image.Image], tuple[str, ...]]] = {
    "sunset": (
        sunset,
        (
            "a sunset over the ocean",
            "sunset over the sea",
            "a sunset",
            "the sun over the water",
            "an orange evening at the sea",
            "a sunset at the beach",
        ),
    ),
    "alley": (
        alley,
        (
            "a neon-lit alley in the rain",
            "a neon alley at night",
            "an alley in the rain",
            "a city street at night",
            "neon lights in the rain",
            "a cyberpunk city",
        ),
    ),
    "night": (
        night,
        (
            "a planet in space",
            "stars and a planet",
            "the night sky",
            "outer space",
            "a planet among the stars",
            "[UNK] in space",
        ),
    ),
    "hills": (
        hills,
        (
            "mountains and a meadow",
            "a mountain landscape",
            "a landscape with mountains",
            "green hills under a blue sky",
            "snow on the mountains",
            "a sunny day in the mountains",
        ),
    ),
}
