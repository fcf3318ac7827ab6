"""Draws what the demo embeddings and the demo reranker learn from: texts that mean the same.

A Meaning is a frame with its slots filled. One meaning in seven is held out whole: the evaluation
uses those alone, so none of its sentences, in no wording, was ever trained on.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace

from inference.demo.text_words import (
    DAYS,
    DIGITS,
    DOMAIN_WORDS,
    INVENTED,
    NUMBERS,
    OPEN,
    SLOT,
    Frame,
    Sense,
    gerund,
    invented_word,
    read_frames,
    read_lexicon,
    with_articles,
)

HELD_OUT = 7
TRIES = 30
RIGHT, SAME_SUBJECT, SAME_TOPIC, TWIN, FOREIGN = 1.0, 0.4, 0.3, 0.1, 0.0
FILLERS = [
    "the",
    "a",
    "of",
    "in",
    "on",
    "for",
    "and",
    "with",
    "to",
    "is",
    "at",
    "from",
    "by",
    "about",
    "our",
    "this",
    "that",
    "very",
    "also",
    "some",
]
INTRODUCTIONS = ["please note that", "by the way,", "as far as I know,", "I heard that", "it is true that", "they say that", "we think that"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Meaning:
    """A frame and what stands in its slots, in the frame's order."""

    frame: Frame
    senses: tuple[Sense, ...]

    @property
    def topic(self) -> str:
        """What it is about: the topic of the first slot that has one."""
        return next((s.topic for s in self.senses if s.topic), self.frame.name)

    @property
    def is_held_out(self) -> bool:
        """Whether it belongs to the evaluation."""
        key = "/".join([self.frame.name, *(sense.forms[0] for sense in self.senses)])
        return zlib.crc32(key.encode()) % HELD_OUT == 0

    def slots(self) -> dict[str, Sense]:
        """Senses by slot."""
        return dict(zip(self.frame.slots, self.senses, strict=True))


class Drawer:
    """An endless source; equal seeds draw equal things."""

    def __init__(self, seed: int, *, held_out: bool = False) -> None:
        """`held_out` chooses the evaluation's side."""
        self.draw = random.Random(seed)
        self.held_out = held_out
        self.lexicon = read_lexicon()
        self.frames = read_frames()
        self.asking = [frame for frame in self.frames if frame.questions]
        self._topics = {
            (kind, sense.topic): [s for s in senses if s.topic == sense.topic]
            for kind, senses in self.lexicon.items()
            for sense in senses
        }
        self._all = [sense for senses in self.lexicon.values() for sense in senses]

    # -- meanings -----------------------------------------------------------------------------

    def meaning(self, frame: Frame | None = None) -> Meaning:
        """A meaning of this side."""
        while True:
            found = self.meaning_with(frame or self.draw.choice(self.frames))
            if found is not None:
                return found

    def meaning_with(self, frame: Frame, **fixed: Sense) -> Meaning | None:
        """A meaning of this side with some slots as given; None where it is hard to find."""
        for _ in range(TRIES):
            found = self._any_meaning(frame, fixed)
            if found.is_held_out == self.held_out:
                return found
        return None

    def _any_meaning(self, frame: Frame, fixed: dict[str, Sense]) -> Meaning:
        topic = next((sense.topic for sense in fixed.values() if sense.topic), "")
        senses: list[Sense] = []
        for slot in frame.slots:
            sense = fixed.get(slot) or self._sense(slot.rstrip("2"), topic)
            while sense in senses:
                sense = self._sense(slot.rstrip("2"), "")
            topic = topic or sense.topic
            senses.append(sense)
        return Meaning(frame, tuple(senses))

    def _sense(self, kind: str, topic: str) -> Sense:
        draw = self.draw
        if draw.random() < INVENTED.get(kind, 0):
            word = invented_word(draw)
            is_name = kind in OPEN
            return Sense(kind, "" if is_name else topic, (word.capitalize() if is_name else word,))
        if kind in OPEN:
            return Sense(kind, "", (draw.choice(OPEN[kind]),))
        if kind == "day":
            return Sense(kind, "", (draw.choice(DAYS),))
        if kind == "year":
            return Sense(kind, "", (str(draw.randint(1700, 2030)),))
        if kind in ("number", "hour"):
            word = draw.choice(NUMBERS[:11] if kind == "hour" else NUMBERS)
            more = (f"{DIGITS[word]} o'clock",) if kind == "hour" else ()
            return Sense(kind, "", (word, DIGITS[word], *more))
        near = self._topics.get((kind, topic))
        return draw.choice(near if near and draw.random() < 0.7 else self.lexicon[kind])

    def changed(self, meaning: Meaning, among: set[str] | None = None) -> Meaning | None:
        """The same frame with another thing in one slot (of `among`); None where there is none."""
        slots = [slot for slot in meaning.frame.slots if among is None or slot in among]
        if not slots:
            return None
        slot = self.draw.choice(slots)
        old = meaning.slots()[slot]
        for _ in range(TRIES):
            new = self._sense(slot.rstrip("2"), old.topic)
            senses = {**meaning.slots(), slot: new}
            twin = replace(meaning, senses=tuple(senses.values()))
            if new not in meaning.senses and twin.is_held_out == self.held_out:
                return twin
        return None

    def about_the_same(self, meaning: Meaning) -> Meaning | None:
        """Another frame with the same main thing in it."""
        subject = meaning.senses[0]
        frames = [f for f in self.frames if f != meaning.frame and subject.kind in f.slots]
        if not frames:
            return None
        return self.meaning_with(self.draw.choice(frames), **{subject.kind: subject})

    def of_topic(self, topic: str) -> Meaning | None:
        """Any meaning about that topic."""
        for _ in range(12):
            frame = self.draw.choice(self.frames)
            kinds = [slot for slot in frame.slots if (slot, topic) in self._topics]
            if kinds:
                sense = self.draw.choice(self._topics[kinds[0], topic])
                return self.meaning_with(frame, **{kinds[0]: sense})
        return None

    # -- texts --------------------------------------------------------------------------------

    def say(self, meaning: Meaning, template: str | None = None) -> str:
        """One way to say it."""
        template = template or self.draw.choice(meaning.frame.statements)
        return self._style(self._fill(meaning, template))

    def say_twice(self, meaning: Meaning) -> tuple[str, str]:
        """Two ways to say it, of different construction."""
        one, other = self.draw.sample(meaning.frame.statements, 2)
        return self.say(meaning, one), self.say(meaning, other)

    def ask(self, meaning: Meaning) -> tuple[str, set[str]]:
        """A question that it answers, and the slots the question names."""
        template = self.draw.choice(meaning.frame.questions)
        return self._style(self._fill(meaning, template)), named(template)

    def ask_twice(self, meaning: Meaning) -> tuple[str, str] | None:
        """Two questions that want to know the same, naming the same things."""
        one = self.draw.choice(meaning.frame.questions)
        others = [q for q in meaning.frame.questions if q != one and named(q) == named(one)]
        if not others:
            return None
        return tuple(self._style(self._fill(meaning, q)) for q in (one, self.draw.choice(others)))  # type: ignore[return-value]

    def passage(self, meaning: Meaning, sentences: int) -> str:
        """It among other sentences about the same things."""
        said = [self.say(meaning)]
        for _ in range(sentences - 1):
            beside = self.about_the_same(meaning) or self.of_topic(meaning.topic)
            said.append(self.say(beside or self.meaning()))
        self.draw.shuffle(said)
        return " ".join(said)

    def words(self) -> list[Sense]:
        """A handful of unconnected senses, some of them words that do not exist."""
        draw = self.draw
        return [
            Sense("", "", (invented_word(draw),))
            if draw.random() < 0.3
            else Sense("", "", (draw.choice(DOMAIN_WORDS),))
            if draw.random() < 0.3
            else draw.choice(self._all)
            for _ in range(draw.randint(2, 6))
        ]

    def list_words(self, senses: list[Sense]) -> str:
        """The senses in any order with small words between them."""
        draw = self.draw
        parts: list[str] = []
        for sense in draw.sample(senses, len(senses)):
            parts += draw.sample(FILLERS, draw.choice((0, 1, 1, 2)))
            parts.append(draw.choice(sense.forms))
        return self._style(" ".join(parts))

    def _fill(self, meaning: Meaning, template: str) -> str:
        slots = meaning.slots()

        def form(found: object) -> str:
            kind, second = found.group(1), found.group(2)  # type: ignore[attr-defined]
            if kind == "acting":
                return gerund(self.draw.choice(slots["act" + second].forms))
            return self.draw.choice(slots[kind + second].forms)

        return with_articles(SLOT.sub(form, template))

    def _style(self, text: str) -> str:
        """Sometimes without its last sign, sometimes with a few words before it."""
        draw = self.draw
        chance = draw.random()
        if chance < 0.1 and text.endswith("."):
            return f"{draw.choice(INTRODUCTIONS)} {text}"
        return text.rstrip(".?") if chance > 0.85 else text


def named(template: str) -> set[str]:
    """The slots that a template names."""
    return {
        ("act" if kind == "acting" else kind) + second for kind, second in SLOT.findall(template)
    }


Pair = tuple[str, str, str, str]


def pair(source: Drawer) -> Pair:
    """Two texts that mean the same, one that nearly does, and what they are about."""
    draw = source.draw
    kind = draw.random()
    if kind < 0.2:
        senses = source.words()
        fewer = senses[:-1] if len(senses) > 3 and draw.random() < 0.5 else senses
        other = [*fewer[1:], source.words()[0]]
        return source.list_words(senses), source.list_words(fewer), source.list_words(other), ""
    frame = draw.choice(source.frames if kind < 0.6 else source.asking)
    meaning = source.meaning(frame)
    if kind < 0.6:
        one, two = source.say_twice(meaning)
        near = source.changed(meaning) if draw.random() < 0.7 else source.about_the_same(meaning)
        return one, two, source.say(near or source.meaning()), meaning.topic
    if kind < 0.75 and (asked := source.ask_twice(meaning)):
        other = source.about_the_same(meaning) or source.meaning()
        wrong = source.ask(other)[0] if other.frame.questions else source.say(other)
        return *asked, wrong, meaning.topic
    question, names = source.ask(meaning)
    near = source.changed(meaning, names) or source.about_the_same(meaning)
    answer = source.say(meaning) if draw.random() < 0.7 else source.passage(meaning, 2)
    return question, answer, source.say(near or source.meaning()), meaning.topic


@dataclass(frozen=True, slots=True)
class Group:
    """A query, documents and how well each answers it; the first is the right one."""

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]


def group(source: Drawer, size: int) -> Group:
    """One right document, some that come near, and strangers."""
    if source.draw.random() < 0.15:
        return _word_group(source, size)
    draw = source.draw
    meaning = source.meaning(draw.choice(source.asking))
    query, names = source.ask(meaning)
    if draw.random() < 0.1:
        query = source.say(meaning)
        names = set(meaning.frame.slots)
    right = source.passage(meaning, draw.choice((1, 1, 1, 2, 3)))
    found: list[tuple[str, float]] = [(right, RIGHT)]
    twin = source.changed(meaning, names)
    if twin is not None and names:
        found.append((source.passage(twin, draw.choice((1, 1, 2))), TWIN))
    same = source.about_the_same(meaning)
    if same is not None and not _also_answers(same, query):
        found.append((source.say(same), SAME_SUBJECT if meaning.senses[0].topic else TWIN))
    near = source.of_topic(meaning.topic)
    if near is not None and near.frame != meaning.frame:
        found.append((source.say(near), SAME_TOPIC))
    while len(found) < size:
        far = source.meaning()
        if far.topic != meaning.topic and far.frame != meaning.frame:
            found.append((source.passage(far, draw.choice((1, 1, 2))), FOREIGN))
    return Group(query, tuple(t for t, _ in found[:size]), tuple(x for _, x in found[:size]))


def _also_answers(other: Meaning, query: str) -> bool:
    """Whether the other frame has a question that begins alike."""
    wording = query.split()[:2]
    return any(question.split()[:2] == wording for question in other.frame.questions)


def _word_group(source: Drawer, size: int) -> Group:
    draw = source.draw
    senses = [*source.words(), *source.words()]
    asked = draw.sample(senses, draw.choice((1, 2, 2, 3)))
    documents = [(source.list_words(senses), RIGHT)]
    if len(asked) > 1:
        part = [*[s for s in senses if s not in asked], asked[0]]
        documents.append((source.list_words(part), SAME_TOPIC))
    while len(documents) < size:
        documents.append((source.list_words([*source.words(), *source.words()]), FOREIGN))
    return Group(
        source.list_words(asked), tuple(t for t, _ in documents), tuple(x for _, x in documents)
    )
