"""Random choices for the chat demo data, with a train/held-out split of phrasings, names, words."""

# ruff: noqa: SIM905 (word lists read better as text)
from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Split = Literal["train", "test"]
Message = dict[str, Any]

ALTERNATIVES = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")
ONSETS = (
    "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kl pl pr sh sk sl sn st th tr".split()
)
VOWELS = "a e i o u a e i o ai ea io ou ee".split()
CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "k", "x", "nd", "st", "rk", "ng", "th"]


@dataclass(slots=True)
class Sample:
    """One conversation; the last message is the answer. `accept` lists all answers that count."""

    skill: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    accept: tuple[str, ...] = field(default=())


def code(text: str) -> int:
    """A stable number for a text: what decides on which side of the split it lies."""
    return zlib.crc32(text.lower().encode())


class Draw:
    """A seeded source of choices that only ever shows its own side of the split."""

    def __init__(self, seed: int, split: Split) -> None:
        self.rng = random.Random(f"{split}-{seed}")
        self.split = split

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.rng.random() < p

    def of(self, items: Sequence[T]) -> T:
        """Any item, split or not."""
        return items[int(self.rng.random() * len(items))]

    def mine(self, items: Sequence[str]) -> list[str]:
        """The items on this side. At least one of four or more is held out; fewer are shared."""
        if len(items) < 4:
            return list(items)
        held = {item for item in items if code(item) % 7 == 0} or {max(items, key=code)}
        if len(held) * 2 > len(items):
            held = {max(items, key=code)}
        return [item for item in items if (item in held) == (self.split == "test")]

    def pick(self, items: Sequence[str]) -> str:
        """An item (name, word) of this side."""
        return self.of(self.mine(items))

    def phrase(self, patterns: Sequence[str], **values: Any) -> str:
        """A pattern of this side, its [a|b] alternatives chosen, its {slots} filled."""
        return self.fill(self.pick(patterns), **values)

    def fill(self, pattern: str, **values: Any) -> str:
        """Choose among the [a|b] alternatives of one pattern and fill its {slots}."""
        while match := ALTERNATIVES.search(pattern):
            choice = self.of(match.group(1).split("|"))
            pattern = pattern[: match.start()] + choice + pattern[match.end() :]
        for key, value in values.items():
            pattern = pattern.replace("{" + key + "}", str(value))
        return pattern

    def invented(self, syllables: int = 0) -> str:
        """A made-up lower-case word of this side of the split."""
        while True:
            count = syllables or self.of((1, 2, 2, 3))
            word = "".join(self.of(ONSETS) + self.of(VOWELS) for _ in range(count)) + self.of(CODAS)
            if (code(word) % 8 == 0) == (self.split == "test"):
                return word

    def number(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return self.rng.randint(low, high)
