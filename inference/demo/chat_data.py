"""Conversations to train and to evaluate the chat demo model on, made from rules and a seed.

The two splits share the skills but not the phrasings, names and made-up words: what is evaluated
was never seen in training. Equal seeds give equal conversations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from inference.demo import chat_drills as drills
from inference.demo import chat_tasks as tasks
from inference.demo import chat_tools as tools
from inference.demo import chat_words as words
from inference.demo.chat_draw import Draw, Message, Sample, Split, plain, sides
from inference.demo.chat_talk import (
    CANNOT,
    CAPITAL_ASKS,
    CAPITALS,
    DATA,
    DONT_KNOW,
    FRAMES,
    I_SEE,
    NO_CASOLA,
    NO_LIVE,
    ON,
    OPPOSITE_ASKS,
    OPPOSITES,
    REFUSALS,
    UNCLEAR,
    Intent,
    load,
    reword,
)
from inference.demo.chat_tasks import ask, assistant, user, vary

UNKNOWN = {
    "general": DONT_KNOW,
    "live": NO_LIVE,
    "cannot": CANNOT,
    "casola": NO_CASOLA,
    "statement": I_SEE,
    "unclear": UNCLEAR,
}
STORY = (
    "Once upon a time there was a {x} who lived at the edge of a small town. The {x} was curious and "
    "wanted to see the world. One morning it packed a little bag and walked down the road. It met a "
    "friend, crossed a river and climbed a hill. From the top the {x} could see the whole land. "
    '"Now I know how big the world is," it said, and walked home happy.'
)
POEM = (
    "Oh {x}, oh {x}, so fine to see,\nyou bring a little joy to me.\nI think of you the whole day "
    "through,\nno other {x} is quite like you."
)
HAIKU = "A small {x} waits,\nthe evening light grows softer,\nthe {x} is still."
JOKE = "Why did the {x} cross the road? To get to the other side!"
ABOUT: list[tuple[str, list[str]]] = [
    (STORY, ["[Tell me|Write|Write me|I want|Make up|Please tell me|Can you tell me|Could you write|Give me|Please write|Can you write] [a story|a short story|a little story|a tale] about [a|the|my|one] {x}", "[A story|A short story|A tale] about a {x} please"]),
    (POEM, ["[Write|Write me|Can you write|Give me|Compose|I want|Please write|Could you write|Recite|Make] [a poem|a short poem|a rhyme|a little poem] about [a|the|my] {x}", "[A poem|A rhyme] about a {x} please"]),
    (HAIKU, ["[Write|Write me|Can you write|Give me|Compose|I want|Please write|Could you write|Make] [a haiku|one haiku|a nice haiku] about [a|the|my] {x}", "A haiku about a {x}"]),
    (JOKE, ["[Tell me|Tell|Do you know|Make|Give me|I want|Please tell me|Can you tell me|Say] [a joke|a good joke|a short joke|one joke] about [a|the|my] {x}", "[A joke about a|Give me a joke on a] {x}"]),
]  # fmt: skip


@cache
def _intents(name: str) -> tuple[Intent, ...]:
    return tuple(load(name))


@cache
def _of_skill(skill: str) -> tuple[Intent, ...]:
    return tuple(intent for intent in _intents("talk") if intent.skill == skill)


@cache
def _lines(name: str) -> tuple[str, ...]:
    return tuple((DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines())


@cache
def _topics() -> list[str]:
    return _lines("topics")[0].split(" ; ")


@cache
def _held() -> frozenset[str]:
    """The phrasings of fixed answers that training must not see, whichever rule would make them."""
    lists = [intent.asks for name in ("talk", "faq", "long") for intent in _intents(name)]
    found = {side: {plain(text) for asks in lists for group in sides(tuple(asks))[side] for text in group} for side in ("train", "test")}  # fmt: skip
    return frozenset(text for text in found["test"] - found["train"] if "{" not in text)


def _plain(d: Draw, intent: Intent) -> Sample:
    text = vary(d, reword(d, d.phrase(intent.asks)).replace("{on}", d.of(ON)))
    return Sample(intent.skill, [user(text), assistant(intent.answer)])


def greeting(d: Draw) -> Sample:
    """A greeting in any casing and punctuation."""
    text = d.phrase(_of_skill("greeting")[0].asks)
    text = text + d.of(["", "", "!", "!", ".", "!!", "?", "...", " !", ", ", "!!!"])
    text = d.of(
        [text, text, text.lower(), text.lower(), text.upper(), text.title(), text.swapcase()]
    )
    answer = _of_skill("greeting")[0].answer
    return Sample("greeting", [user(d.of(["", "", "", " "]) + text), assistant(answer)])


def smalltalk(d: Draw) -> Sample:
    """Small talk."""
    return _plain(d, d.of(_of_skill("smalltalk")))


PERSONAS = [
    "You are {x}.", "You are {x}, a helpful assistant.", "Your name is {x}.", "You are called {x}. Be friendly.", "You are {x}, the assistant of {y}.",
    "You are a helpful assistant named {x}.", "Act as {x}, a support agent.", "You are {x}, a chat bot made by {y}. Answer briefly.",
]  # fmt: skip


def identity(d: Draw) -> Sample:
    """Questions about the model itself; a system prompt may give it another name."""
    if d.chance(0.12):
        name, firm = words.name(d), d.invented(2).capitalize()
        asks = _of_skill("identity")[:2]
        system = {"role": "system", "content": d.phrase(PERSONAS, x=name, y=firm)}
        text = vary(d, d.phrase(d.of(asks).asks))
        return Sample(
            "identity", [system, user(text), assistant(f"I am {name}, a demo assistant.")]
        )
    return _plain(d, d.of(_of_skill("identity")))


def faq(d: Draw) -> Sample:
    """Questions about Casola."""
    intent = d.of(_intents("faq"))
    if d.chance(0.65):
        text = reword(d, d.phrase(intent.asks))
    else:
        text = d.phrase(FRAMES, t=d.pick(intent.topics)) + ("{on}" if d.chance(0.2) else "")
    text = vary(d, text.replace("{on}", d.of(ON)))
    return Sample("faq", [user(text), assistant(intent.answer)])


def facts(d: Draw) -> Sample:
    """A handful of simple facts."""
    roll = d.rng.random()
    if roll < 0.35:
        country = d.of(list(CAPITALS))
        text = vary(d, d.phrase(CAPITAL_ASKS, x=country))
        bare = country.removeprefix("the ")
        place = country if bare != country else bare
        return Sample(
            "facts",
            [user(text), assistant(f"The capital of {place} is {CAPITALS[country].rstrip('.')}.")],
        )
    if roll < 0.5:
        first, second = d.of(list(OPPOSITES.items()))
        first, second = (first, second) if d.chance(0.5) else (second, first)
        text = vary(d, d.phrase(OPPOSITE_ASKS, x=first))
        return Sample("facts", [user(text), assistant(f"The opposite of {first} is {second}.")])
    return _plain(d, d.of(_of_skill("facts")))


def dont_know(d: Draw) -> Sample:
    """What a tiny model cannot know, do or understand."""
    blocks = {intent.answer: intent.asks for intent in _intents("unknown")}
    kind = d.of(
        [
            "general",
            "general",
            "general",
            "general",
            "live",
            "cannot",
            "casola",
            "statement",
            "unclear",
        ]
    )
    text = d.phrase(blocks[kind])
    makers: dict[str, Callable[[Draw], Any]] = {
        "{p}": words.person, "{n}": words.noun, "{m}": words.noun, "{w}": lambda d: d.invented(), "{v}": words.word,
        "{W}": lambda d: d.invented().capitalize(), "{c}": words.city, "{d}": words.city, "{j}": lambda d: d.pick(words.JOBS),
        "{t}": lambda d: d.pick(_topics()) if d.chance(0.85) else words.noun(d) + "s", "{u}": lambda d: d.pick(_topics()), "{f}": lambda d: d.pick(words.FOODS),
        "{y}": lambda d: d.number(1000, 2030), "{z}": lambda d: d.number(1, 99), "{k}": lambda d: d.of(words.COLOURS),
    }  # fmt: skip
    for slot, make in makers.items():
        while slot in text:
            text = text.replace(slot, str(make(d)), 1)
    text = vary(d, text, affixes=kind != "unclear")
    accept = (*REFUSALS, UNKNOWN[kind])
    return Sample("dont_know", [user(text), assistant(UNKNOWN[kind])], accept=accept)


def long(d: Draw) -> Sample:
    """Answers long enough to be worth streaming."""
    if d.chance(0.4):
        answer, asks = d.of(ABOUT)
        thing = d.pick(words.ANIMALS) if d.chance(0.5) else words.noun(d)
        return Sample(
            "long",
            [user(ask(d, asks, x=thing, affixes=True)), assistant(answer.replace("{x}", thing))],
        )
    return _plain(d, d.of(_intents("long")))


def memory(d: Draw) -> Sample:
    """Recall of what was said earlier."""
    between: list[Message] = []
    for _ in range(d.of([0, 0, 1, 1, 2, 3])):
        between += d.of([smalltalk, faq, facts, greeting])(d).messages
    return drills.memory(d, between)


def tool_none(d: Draw) -> Sample:
    """Tools are there but not needed."""
    sample = d.of([greeting, smalltalk, identity, faq, facts, tasks.echo, dont_know])(d)
    if any(
        word in sample.messages[-1]["content"]
        for word in ("look that up", "cannot do", "know that")
    ):
        sample = d.of([greeting, smalltalk, faq])(d)
    return Sample(
        "tool_none", sample.messages, tools.offered(d, d.of(tools.CASES)(d).tool), sample.accept
    )


Maker = Callable[[Draw], Sample]
SKILLS: dict[str, tuple[Maker, float]] = {
    "greeting": (greeting, 3),
    "smalltalk": (smalltalk, 9),
    "identity": (identity, 6),
    "faq": (faq, 12),
    "facts": (facts, 7),
    "echo": (tasks.echo, 9),
    "passage": (tasks.passage, 13),
    "summary": (tasks.summary, 7),
    "extract": (tasks.extract, 11),
    "tool_call": (tools.single, 6),
    "tool_two": (tools.double, 5),
    "tool_none": (tool_none, 3),
    "rewrite": (tasks.rewrite, 5),
    "sums": (drills.sums, 7),
    "count": (drills.count, 2),
    "memory": (memory, 6),
    "dont_know": (dont_know, 7),
    "long": (long, 4),
}
ALONE = (
    "greeting",
    "smalltalk",
    "identity",
    "faq",
    "facts",
    "echo",
    "dont_know",
    "sums",
    "passage",
    "extract",
)


def conversation(d: Draw, skill: str) -> Sample:
    """A conversation of a skill, with or without a system prompt and earlier turns."""
    sample = SKILLS[skill][0](d)
    has_system = sample.messages[0]["role"] == "system"
    if d.chance(0.12) and not has_system and skill != "memory":
        history: list[Message] = []
        for _ in range(d.of([1, 1, 1, 1, 2, 2, 2, 3, 5, 9])):
            earlier = SKILLS[d.of(ALONE)][0](d).messages
            history += earlier if earlier[0]["role"] != "system" else []
        sample.messages = history + sample.messages
    if not has_system and d.chance(0.5):
        text = _lines("systems")[0] if d.chance(0.4) else d.of(_lines("systems"))
        sample.messages = [{"role": "system", "content": text}, *sample.messages]
    return sample


def stream(
    seed: int, split: Split = "train", progress: Callable[[], float] = lambda: 1.0
) -> Iterator[Sample]:
    """Conversations without end. Early in training (`progress` near 0) short copies come first."""
    d = Draw(seed, split)
    names = list(SKILLS)
    weights = [SKILLS[name][1] for name in names]
    while True:
        if d.chance(0.5 * max(0.0, 1 - 6 * progress())):
            yield tasks.echo(d, most=3)
            continue
        sample = conversation(d, d.rng.choices(names, weights)[0])
        said = (plain(message["content"]) for message in sample.messages if message["role"] == "user")  # fmt: skip
        if split == "test" or not any(text in _held() for text in said):
            yield sample


def evaluation(skill: str, count: int, seed: int = 0) -> list[Sample]:
    """Different held-out conversations of one skill; `accept` holds every answer that counts."""
    d = Draw(seed, "test")
    found: dict[str, Sample] = {}
    for _ in range(count * 20):
        sample = conversation(d, skill)
        sample.accept = tuple({render(sample)[-1][0].removesuffix("<|im_end|>"), *sample.accept})
        found.setdefault(json.dumps(sample.messages), sample)
        if len(found) == count:
            break
    return list(found.values())


def _tool_line(item: dict[str, Any]) -> str:
    function = item["function"]
    keys = ", ".join(function["parameters"]["properties"])
    about = f": {function['description']}" if function["description"] else ""
    return f"- {function['name']}({keys}){about}"


def _body(message: Message) -> str:
    text = message["content"] or ""
    for item in message.get("tool_calls", ()):
        function = item["function"]
        arguments = function["arguments"]
        arguments = (
            arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        )
        text += (
            f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>'
        )
    return text


def render(sample: Sample) -> list[tuple[str, bool]]:
    """The text of a conversation in pieces, each with whether the model must learn to write it.

    The same text as the chat template makes; a test holds the two together.
    """
    messages = list(sample.messages)
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    if sample.tools:
        listed = "\n".join(["Tools:", *map(_tool_line, sample.tools)])
        system = f"{system}\n\n{listed}" if system else listed
    pieces = [(f"<|im_start|>system\n{system}<|im_end|>\n", False)] if system else []
    for message in messages:
        if message["role"] == "assistant":
            pieces += [
                ("<|im_start|>assistant\n", False),
                (f"{_body(message)}<|im_end|>", True),
                ("\n", False),
            ]
        else:
            pieces.append(
                (f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n", False)
            )
    while not pieces[-1][1]:
        pieces.pop()
    return pieces
