"""Pictures and captions that the image demo is trained on: shapes in colours, and a few scenes.

Everything follows from a seed. A `Scene` can be drawn, described in words, and looked for in a
picture by `image_check`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from inference.demo.image_views import VIEWS

SIDE = 64
FINE = 4  # pictures are drawn so many times larger and made smaller, for soft edges
COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 220, 50),
    "green": (50, 160, 70),
    "blue": (40, 80, 210),
    "purple": (130, 50, 170),
    "pink": (250, 150, 195),
    "white": (248, 248, 248),
    "gray": (130, 132, 136),
    "black": (22, 22, 26),
}
NAMES = {
    "gray": ("gray", "grey"),
    "purple": ("purple", "violet"),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "heart", "cross")
SHAPE_NAMES = {
    "circle": ("circle", "circle", "ball", "dot", "disc"),
    "square": ("square", "square", "box"),
    "star": ("star",),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus"),
}
SIZES = {"": (13, 22), "small": (8, 12), "big": (22, 27)}
SIZE_NAMES = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge")}
PLACES = {
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
    "top": (0.5, 0.0),
    "bottom": (0.5, 1.0),
}
PLACE_NAMES = {
    "left": ("on the left", "at the left"),
    "right": ("on the right", "at the right"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle", "in the center", "in the centre"),
}
OPENERS = ("", "", "", "draw", "paint", "a picture of", "an image of", "a drawing of", "a photo of")
UNKNOWN = "[UNK]"


@dataclass(frozen=True, slots=True)
class Scene:
    """One shape before a plain ground."""

    shape: str
    colour: str
    ground: str
    radius: float
    x: float
    y: float
    size: str = ""
    place: str = ""


def outline(shape: str, radius: float, x: float, y: float) -> list[tuple[float, float]]:
    """The corners of a shape; round ones have many."""
    if shape == "circle":
        points = [_around(radius, 5 * step) for step in range(72)]
    elif shape == "square":
        half = radius * 0.88
        points = [(-half, -half), (half, -half), (half, half), (-half, half)]
    elif shape == "triangle":
        points = [(0, -radius), (radius, 0.85 * radius), (-radius, 0.85 * radius)]
    elif shape == "diamond":
        points = [(0, -1.1 * radius), (0.8 * radius, 0), (0, 1.1 * radius), (-0.8 * radius, 0)]
    elif shape == "star":
        radii = (1.15 * radius, 0.5 * radius)
        points = [_around(radii[step % 2], 36 * step) for step in range(10)]
    elif shape == "heart":
        points = [_heart(radius, 5 * step) for step in range(72)]
    else:
        arm, half = radius, 0.36 * radius
        points = [
            (-half, -arm), (half, -arm), (half, -half), (arm, -half), (arm, half), (half, half),
            (half, arm), (-half, arm), (-half, half), (-arm, half), (-arm, -half), (-half, -half),
        ]  # fmt: skip
    return [(x + dx, y + dy) for dx, dy in points]


def _around(radius: float, degrees: float) -> tuple[float, float]:
    angle = math.radians(degrees - 90)
    return radius * math.cos(angle), radius * math.sin(angle)


def _heart(radius: float, degrees: float) -> tuple[float, float]:
    t = math.radians(degrees)
    x = 16 * math.sin(t) ** 3
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return radius * x / 15.5, -radius * (y + 2.4) / 15.5


def draw(scene: Scene, side: int = SIDE) -> Image.Image:
    """The picture of a scene."""
    large = Image.new("RGB", (SIDE * FINE, SIDE * FINE), COLOURS[scene.ground])
    points = outline(scene.shape, scene.radius * FINE, scene.x * FINE, scene.y * FINE)
    ImageDraw.Draw(large).polygon(points, fill=COLOURS[scene.colour])
    return large.resize((side, side), Image.Resampling.BOX)


class Artist:
    """Draws at random, by a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def scene(self) -> Scene:
        """Any scene."""
        chance = self.chance
        colour, ground = chance.sample(list(COLOURS), 2)
        size = chance.choice(["", "", "", "small", "big"])
        radius = chance.uniform(*SIZES[size])
        place = chance.choice(["", "", "", "", *PLACES, "middle"])
        x, y = self._spot(place, radius)
        return Scene(chance.choice(SHAPES), colour, ground, radius, x, y, size, place)

    def _spot(self, place: str, radius: float) -> tuple[float, float]:
        chance = self.chance
        edge = radius * 1.15 + 1.5
        free = max(0.0, SIDE - 2 * edge)
        if place in PLACES:
            across, down = PLACES[place]
            jitter = chance.uniform(-0.06, 0.06)
            across += (0.06 if across == 0 else -0.06 if across == 1 else jitter) + jitter / 2
            down += (0.06 if down == 0 else -0.06 if down == 1 else jitter) + jitter / 2
        elif place == "middle" or chance.random() < 0.75:
            across, down = 0.5 + chance.uniform(-0.1, 0.1), 0.5 + chance.uniform(-0.1, 0.1)
        else:
            across, down = chance.random(), chance.random()
        return edge + free * min(1.0, max(0.0, across)), edge + free * min(1.0, max(0.0, down))

    def words(self, scene: Scene, *, whole: bool = False) -> str:
        """A description; not `whole`, it may leave colours out."""
        chance = self.chance
        left_out = "" if whole else chance.choice(["", "", "", "", "", "ground", "colour", "shape"])
        shape = chance.choice(SHAPE_NAMES.get(scene.shape, (scene.shape,)))
        thing = "shape" if left_out == "shape" else shape
        colour = "" if left_out == "colour" else named(scene.colour, chance)
        size = chance.choice(SIZE_NAMES[scene.size]) if scene.size else ""
        what = " ".join(word for word in (size, colour, thing) if word)
        article = chance.choice(["a", "a", "the", ""])
        where = chance.choice(PLACE_NAMES[scene.place]) if scene.place else ""
        ground = "" if left_out == "ground" else self._ground_words(scene)
        tail = [where, ground] if chance.random() < 0.7 else [ground, where]
        parts = [chance.choice(OPENERS), article, what, *tail]
        text = " ".join(part for part in parts if part)
        return text if chance.random() < 0.9 or whole else f"{text} {UNKNOWN} {UNKNOWN}"

    def _ground_words(self, scene: Scene) -> str:
        ground = named(scene.ground, self.chance)
        return self.chance.choice(
            [
                f"on {ground}",
                f"on a {ground} background",
                f"on {ground} background",
                f"with a {ground} background",
                f"in front of {ground}",
                f"before a {ground} background",
                f", {ground} background",
            ]
        )

    def sample(self) -> tuple[Image.Image, str]:
        """A picture and its caption, of any kind."""
        chance = self.chance
        if chance.random() < 0.12:
            name = chance.choice(list(VIEWS))
            view: tuple[Callable[[random.Random], Image.Image], tuple[str, ...]] = VIEWS[name]
            words = chance.choice(view[1])
            opener = chance.choice(OPENERS)
            return view[0](chance), f"{opener} {words}".strip()
        scene = self.scene()
        if chance.random() < 0.03:
            return draw(scene), " ".join([UNKNOWN] * chance.randint(1, 8))
        return draw(scene), self.words(scene)


def named(colour: str, chance: random.Random) -> str:
    """One of a colour's names."""
    return chance.choice(NAMES.get(colour, (colour,)))


def vocabulary() -> list[str]:
    """All words of all captions."""
    artist = Artist(0)
    words: set[str] = set()
    for _ in range(6_000):
        words.update(re.findall(r"\w+|[^\w\s]+", artist.sample()[1].replace(UNKNOWN, "")))
    return sorted(words)
