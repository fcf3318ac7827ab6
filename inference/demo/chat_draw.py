"""Random choices for the chat demo data, with a train/held-out split of phrasings, names, words."""

# ruff: noqa: SIM905 (word lists read better as text)
from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
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


def expand(pattern: str) -> list[str]:
    """Every text that the [a|b] alternatives of a pattern can make."""
    match = ALTERNATIVES.search(pattern)
    if not match:
        return [" ".join(pattern.split(" ")).replace("  ", " ").replace(" ?", "?").strip(" ")]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [text for choice in match.group(1).split("|") for text in expand(head + choice + tail)]


def plain(text: str) -> str:
    """A text without casing and punctuation, so that its variants lie on one side of the split."""
    return " ".join(re.sub(r"[^a-z0-9{}+*=-]+", " ", text.lower().replace("'", "")).split())


EVERYDAY = (
    "Hello ; Hi ; How are you ; Hello, how are you ; What is Casola ; What's Casola ; Who are you ; What are you ; "
    "What can you do ; Say hello in one word ; Say hello ; What is the capital of {x} ; Tell me a joke ; Write a haiku ; "
    "Write a poem ; Tell me a story ; Count from {a} to {b} ; Count to {b} ; Reply with exactly: {x} ; Say '{x}' ; Say {x} ; "
    "Reply with: {x} ; Thanks ; Thank you ; Bye ; What is {q} ; {q} ; What is the weather ; What's the weather ; "
    "What is the weather like ; What is the weather today ; Write a short story about a {x} ; Write a story about a {x} ; "
    "Explain how Casola works ; How does Casola work ; What is your name ; How old are you ; My name is {v} ; "
    "What is my name ; Summarize: {t} ; Extract the {k} as JSON: {t} ; What is the weather in {c} ; What time is it"
)  # fmt: skip


@cache
def everyday() -> frozenset[str]:
    """What people type first: always trained, so never counted as held out."""
    return frozenset(plain(text) for text in EVERYDAY.split(" ; "))


@cache
def sides(patterns: tuple[str, ...]) -> dict[str, list[list[str]]]:
    """The texts of each side by pattern: one in seven that a grammar makes is held out.

    Where grammars make twelve texts or more, an idiom, which is a pattern of fewer than four texts,
    is always trained: nothing could teach it but itself.
    """
    made = [list(dict.fromkeys(expand(pattern))) for pattern in patterns]
    free = [text for texts in made if len(texts) >= 4 for text in texts]
    if len(free) < 12:
        held = held_out(list(dict.fromkeys(text for texts in made for text in texts)))
        fixed = everyday()
    else:
        held = {text for text in free if code(plain(text)) % 7 == 0} or {max(free, key=code)}
        fixed = everyday() | {plain(text) for texts in made if len(texts) < 4 for text in texts}
    same = {plain(text) for text in held} - fixed
    train = [[text for text in texts if plain(text) not in same] for texts in made]
    test = [[text for text in texts if plain(text) in same] for texts in made]
    found = {"train": [texts for texts in train if texts], "test": [texts for texts in test if texts]}  # fmt: skip
    whole = [texts for texts in made if texts]
    return {side: groups or whole for side, groups in found.items()}


def held_out(items: Sequence[str]) -> set[str]:
    """What is held out of a flat list: about a seventh, at least one of four or more."""
    if len(items) < 4:
        return set()
    held = {item for item in items if code(item) % 7 == 0} or {max(items, key=code)}
    return held if len(held) * 2 <= len(items) else {max(items, key=code)}


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
        held = held_out(items)
        return [item for item in items if (item in held) == (self.split == "test")]

    def pick(self, items: Sequence[str]) -> str:
        """An item (name, word) of this side."""
        return self.of(self.mine(items))

    def phrase(self, patterns: Sequence[str], **values: Any) -> str:
        """A pattern of this side, its [a|b] alternatives chosen, its {slots} filled."""
        groups = sides(tuple(patterns))[self.split]
        weights = [min(len(texts), 5) for texts in groups]
        return self.fill(self.of(self.rng.choices(groups, weights)[0]), **values)

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
