"""Small films and captions that the video demo is trained on: a shape moves in a named direction.

Everything follows from a seed. A `Move` can be drawn, described in words, and looked for in a film
by `video_check`. Some combinations of shape, colour and direction are kept from training.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass

from PIL import Image, ImageDraw

from inference.demo.image_data import COLOURS, NAMES, SHAPE_NAMES, UNKNOWN, named, outline

SIDE = 32
FRAMES = 9
FPS = 8
FINE = 4  # frames are drawn so many times larger and made smaller, for soft edges
SHAPES = ("circle", "square", "triangle")
PAINTS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
OPPOSITES = {"left": "right", "right": "left", "up": "down", "down": "up"}
PHRASES = {
    "left": ("to the left", "left", "leftwards"),
    "right": ("to the right", "right", "rightwards"),
    "up": ("up", "upwards", "to the top"),
    "down": ("down", "downwards", "to the bottom"),
}
FROM = {"left": "left", "right": "right", "up": "top", "down": "bottom"}
VERBS = ("moving", "moving", "moves", "going", "goes", "flying", "flies", "sliding", "slides")
OPENERS = ("", "", "", "", "a video of", "a film of", "show")
SUNSETS = (
    "a sunset over the ocean",
    "sunset over the ocean",
    "the sun sets over the sea",
    "a sunset at sea",
    "the sun goes down over the ocean",
)
SHARE_OF_SUNSETS = 0.06
KEPT_OF = 7  # one of so many combinations is kept from training
Film = list[Image.Image]


@dataclass(frozen=True, slots=True)
class Move:
    """A shape on its way before a plain ground; `x` and `y` are where it begins."""

    shape: str
    colour: str
    ground: str
    direction: str
    radius: float
    x: float
    y: float
    travel: float

    @property
    def is_kept(self) -> bool:
        """Whether training never sees the combination."""
        return is_kept(self.shape, self.colour, self.direction)


def is_kept(shape: str, colour: str, direction: str) -> bool:
    """Whether a combination is kept from training."""
    places = (SHAPES.index(shape), PAINTS.index(colour), list(DIRECTIONS).index(direction))
    return (places[0] + 2 * places[1] + 3 * places[2]) % KEPT_OF == 0


def draw(move: Move) -> Film:
    """All frames."""
    across, down = DIRECTIONS[move.direction]
    film = []
    for number in range(FRAMES):
        way = move.travel * number / (FRAMES - 1)
        x, y = move.x + across * way, move.y + down * way
        large = Image.new("RGB", (SIDE * FINE, SIDE * FINE), COLOURS[move.ground])
        points = outline(move.shape, move.radius * FINE, x * FINE, y * FINE)
        ImageDraw.Draw(large).polygon(points, fill=COLOURS[move.colour])
        film.append(large.resize((SIDE, SIDE), Image.Resampling.BOX))
    return film


def sunset(chance: random.Random) -> Film:
    """The sun goes down into water."""
    sea = SIDE * chance.uniform(0.58, 0.68)
    x, radius = SIDE * chance.uniform(0.35, 0.65), SIDE * chance.uniform(0.13, 0.18)
    sky = Image.new("RGB", (1, SIDE * FINE))
    for line in range(SIDE * FINE):
        part = line / (SIDE * FINE)
        sky.putpixel((0, line), (round(90 + 165 * part), round(40 + 120 * part), 120))
    film = []
    for number in range(FRAMES):
        y = sea - radius * 1.4 + radius * 2.0 * number / (FRAMES - 1)
        large = sky.resize((SIDE * FINE, SIDE * FINE))
        pen = ImageDraw.Draw(large)
        box = [FINE * side for side in (x - radius, y - radius, x + radius, y + radius)]
        pen.ellipse(box, fill=(255, 225, 120))
        pen.rectangle((0, sea * FINE, SIDE * FINE, SIDE * FINE), fill=(30, 45, 110))
        half = radius * (1.0 - 0.5 * number / (FRAMES - 1))
        glare = [FINE * side for side in (x - half, sea + 3, x + half, sea + 5)]
        pen.rectangle(glare, fill=(250, 180, 90))
        film.append(large.resize((SIDE, SIDE), Image.Resampling.BOX))
    return film


def clutter(chance: random.Random) -> Film:
    """A still picture of anything, so that the VAE gets to see more than shapes."""
    large = Image.new("RGB", (8, 8))
    paints = [tuple(chance.randrange(256) for _ in range(3)) for _ in range(4)]
    for place in range(64):
        large.putpixel((place % 8, place // 8), chance.choice(paints))
    size = chance.choice((2, 3, 4, 8))
    part = large.crop((0, 0, size, size))
    soft = chance.choice((Image.Resampling.BICUBIC, Image.Resampling.BILINEAR))
    return [part.resize((SIDE, SIDE), soft)] * FRAMES


class Director:
    """Films at random, by a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def move(self, *, kept: bool = False) -> Move:
        """A move that training may see, or one that is `kept` from it."""
        while True:
            found = self._any_move()
            if found.is_kept == kept:
                return found

    def _any_move(self) -> Move:
        chance = self.chance
        colour, ground = chance.sample(PAINTS, 2)
        radius = chance.uniform(5.0, 7.5)
        direction = chance.choice(list(DIRECTIONS))
        edge = radius * 1.05 + 1.0
        travel = chance.uniform(0.65, 1.0) * (SIDE - 2 * edge)
        start = edge + (SIDE - 2 * edge - travel) * chance.random()
        beside = SIDE / 2 + chance.uniform(-1, 1) * min(6.0, SIDE / 2 - edge)
        across, down = DIRECTIONS[direction]
        begin = start if across + down > 0 else SIDE - start
        x, y = (begin, beside) if across else (beside, begin)
        return Move(chance.choice(SHAPES), colour, ground, direction, radius, x, y, travel)

    def words(self, move: Move, *, whole: bool = False) -> str:
        """A description; not `whole`, it may leave all out but the way."""
        chance = self.chance
        way = self._way(move.direction)
        kind = 1.0 if whole else chance.random()
        if kind < 0.08:
            return f"{chance.choice(['it', 'the shape', 'the thing', ''])} {way}".strip()
        shape = chance.choice(SHAPE_NAMES.get(move.shape, (move.shape,)))
        article = chance.choice(["a", "a", "the", ""])
        what = f"{article} {named(move.colour, chance)} {shape}".strip()
        ground = "" if kind < 0.14 else self._ground(move.ground)
        parts = [what, ground, way] if chance.random() < 0.5 else [what, way, ground]
        opener = chance.choice(OPENERS)
        return " ".join(part for part in (opener, *parts) if part)

    def _way(self, direction: str) -> str:
        chance = self.chance
        verb = chance.choice(VERBS)
        if chance.random() < 0.15:
            return f"{verb} from {FROM[OPPOSITES[direction]]} to {FROM[direction]}"
        return f"{verb} {chance.choice(PHRASES[direction])}"

    def _ground(self, ground: str) -> str:
        name = named(ground, self.chance)
        return self.chance.choice(
            [
                f"on {name}",
                f"on a {name} background",
                f"on {name} background",
                f"before a {name} background",
                f"with a {name} background",
                f"in front of {name}",
            ]
        )

    def sample(self) -> tuple[Film, str]:
        """A film and its caption, of any kind."""
        chance = self.chance
        if chance.random() < SHARE_OF_SUNSETS:
            return sunset(chance), chance.choice(SUNSETS)
        move = self.move()
        if chance.random() < 0.03:
            return draw(move), " ".join([UNKNOWN] * chance.randint(1, 8))
        words = self.words(move)
        return draw(move), words if chance.random() < 0.95 else f"{words} {UNKNOWN} {UNKNOWN}"


def vocabulary() -> list[str]:
    """All words of all captions."""
    director, words = Director(0), set()
    texts = [director.words(director.move()) for _ in range(4_000)]
    names = [name for paint in PAINTS for name in NAMES.get(paint, ())]
    for text in [*texts, *SUNSETS, *names]:
        words.update(re.findall(r"\w+|[^\w\s]+", text))
    return sorted(words)


def turned(dx: float, dy: float) -> str:
    """The direction that a way goes in, mostly."""
    if math.fabs(dx) > math.fabs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"
