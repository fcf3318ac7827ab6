"""The lexicon and the frames that demo texts are made of, and words that nobody has ever seen."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SLOT = re.compile(r"\{(\w+?)(2?)\}")
ONSETS = "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl l m n p pl pr qu r s sh sl st t tr v w z"
VOWELS = "a e i o u ai ea ee oo ou"
CODAS = ["", "", "", "n", "r", "l", "s", "x", "m", "nd", "rk", "st", "ck", "th"]
NAMES = """Anna Ben Clara David Emma Felix Grace Henry Ida James Kate Leo Maria Nina Oscar Paul Rosa Sam Tom Vera Will Zoe Ahmed Chen Fatima Hiro Ivan Lena Omar Priya Sofia Yuki Alice Bob John Mary""".split()  # noqa: SIM905 - one word a line is no easier to read
CITIES = """London Paris Berlin Rome Madrid Vienna Bern Oslo Lisbon Dublin Athens Cairo Tokyo Delhi Lima Boston Chicago Denver Houston Toronto Sydney Prague Warsaw Zurich Geneva Milan Munich Moscow""".split()  # noqa: SIM905 - one word a line is no easier to read
BRANDS = [
    "Acme",
    "Globex",
    "Initech",
    "Umbrella",
    "Vandelay",
    "Hooli",
    "Stark",
    "Wayne",
    "Casola",
    "Tyrell",
    "Contoso",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
NUMBERS = """two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty""".split()  # noqa: SIM905 - one word a line is no easier to read
DIGITS = dict(
    zip(
        NUMBERS,
        ["2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "20", "30", "40", "50"],
        strict=True,
    )
)
OPEN = {"name": NAMES, "city": CITIES, "brand": BRANDS}
INVENTED = {"name": 0.5, "city": 0.5, "brand": 0.7, "thing": 0.1, "place": 0.06, "concept": 0.12}
DOUBLED = {"get", "put", "run", "set", "swim", "cut", "shed", "mow", "be", "quit", "stop", "split", "sit"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sense:
    """One meaning and all the ways to say it."""

    kind: str
    topic: str
    forms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """Ways to say one thing about its slots, and questions that it answers."""

    name: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    slots: tuple[str, ...]


def read_lexicon(file: Path = HERE / "text_lexicon.txt") -> dict[str, list[Sense]]:
    """All senses by class."""
    found: dict[str, list[Sense]] = {}
    topic = ""
    for line in _lines(file):
        if line.startswith("["):
            topic = line.strip("[]")
            continue
        kind, _, forms = line.partition(":")
        sense = Sense(kind, topic, tuple(form.strip() for form in forms.split("|")))
        found.setdefault(kind, []).append(sense)
    return found


def read_frames(file: Path = HERE / "text_frames.txt") -> list[Frame]:
    """All frames; a frame without questions is one of questions that mean the same."""
    raw: dict[str, tuple[list[str], list[str]]] = {}
    name = ""
    for line in _lines(file):
        if line.startswith("["):
            name = line.strip("[]")
            raw[name] = ([], [])
        else:
            raw[name][line.startswith("?")].append(line[2:])
    return [
        Frame(name, tuple(says), tuple(asks), tuple(_slots(says)))
        for name, (says, asks) in raw.items()
    ]


def _lines(file: Path) -> list[str]:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _slots(texts: list[str]) -> list[str]:
    """Names of the slots in the order of the first text; `acting` is another form of `act`."""
    found: list[str] = []
    for text in texts:
        for kind, second in SLOT.findall(text):
            name = ("act" if kind == "acting" else kind) + second
            if name not in found:
                found.append(name)
    return found


def invented_word(draw: random.Random) -> str:
    """A word of one to three syllables that no dictionary has."""
    onsets, vowels = ONSETS.split(), VOWELS.split()
    count = draw.choice((1, 2, 2, 3))
    return "".join(
        draw.choice(onsets) + draw.choice(vowels) + draw.choice(CODAS) for _ in range(count)
    )


def gerund(phrase: str) -> str:
    """`bake bread` -> `baking bread`."""
    verb, _, rest = phrase.partition(" ")
    if verb in DOUBLED and verb != "be":
        verb += verb[-1] if verb not in {"mow"} else ""
    elif verb.endswith("ie"):
        verb = verb[:-2] + "y"
    elif verb.endswith("e") and not verb.endswith("ee") and verb != "be":
        verb = verb[:-1]
    return f"{verb}ing {rest}".strip()


def with_articles(text: str) -> str:
    """`a` before a vowel becomes `an`; no two articles meet; the first letter is a capital."""
    text = re.sub(r"\b([Aa]|[Tt]he) (the|an?) ", r"\2 ", text)
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)
    return text[:1].upper() + text[1:]


DOMAIN_WORDS = " ".join(_lines(HERE / "text_common.txt")).split()
