"""Where in an answer we are: plain content, reasoning, or inside of a tool call.

The text is fed in any pieces and comes out as marks of what it belongs to, the same for every
split. Where calls and thinking have marks, transformers' streaming response parser finds them; it
sees only text that can be part of a mark, and is made anew from time to time, because it keeps all
it has seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from transformers.utils.chat_parsing import ResponseParser
from transformers.utils.chat_parsing.response_templates import load_response_template

from inference.runners.base import CONTENT, REASONING
from inference.runners.tool_calls import JsonScan
from inference.runners.tool_formats import AnswerFormat

CALL = "call"
FIELDS = {CONTENT: "content", REASONING: "reasoning_content", CALL: "tool_calls"}
KINDS = {field: kind for kind, field in FIELDS.items()}
RENEW_AFTER = 2048
MOST_BLANKS = 256


class Mark(NamedTuple):
    """`what` is text, open or close; `text` is the text, or the literal of the mark."""

    what: str
    kind: str
    text: str


class Regions(Protocol):
    """One answer; `kind` is where the text so far ends."""

    kind: str

    def feed(self, text: str) -> Iterator[Mark]:
        """What is certain with this text. The caller may `resume` or `refuse` in between."""

    def finish(self) -> str:
        """Text still held back, of the kind `kind`."""

    def resume(self) -> None:
        """The call just closed is not over: its closing mark was part of its text."""

    def refuse(self) -> None:
        """The call just closed was none."""


class PlainRegions:
    """For models and requests without marks."""

    kind = CONTENT

    def feed(self, text: str) -> Iterator[Mark]:
        """See Regions."""
        if text:
            yield Mark("text", CONTENT, text)

    def finish(self) -> str:
        """See Regions."""
        return ""

    def resume(self) -> None:
        """See Regions."""

    def refuse(self) -> None:
        """See Regions."""


class MarkedRegions:
    """For formats with an opening mark."""

    def __init__(self, marks: dict[str, tuple[str, str]], tail: str) -> None:
        """`marks` by kind; `tail` is what the prompt has already written of the answer."""
        self._marks = marks
        self._template = load_response_template(_split_template(marks))
        self._firsts = {mark[0] for pair in marks.values() for mark in pair if mark}
        self._held = ""
        self._fed = 0
        self._resumed = False
        self.kind = CONTENT
        self._renew("")
        for _ in self.feed(tail):  # brings `kind` up to date, gives nothing out
            pass

    def feed(self, text: str) -> Iterator[Mark]:
        """See Regions."""
        if not self._held and not any(first in text for first in self._firsts):
            if text:
                yield Mark("text", self.kind, text)
            return
        while text:
            events = self._parse(text)
            text = ""
            for event in events:
                mark = self._follow(event)
                if mark is None:
                    continue
                yield mark
                if self._resumed:
                    self._resumed = False
                    text, self._held = self._held, ""
                    self._renew(self._marks[self.kind][0])
                    break
        if self._fed > RENEW_AFTER:
            held, self._held = self._held, ""
            self._renew("" if self.kind == CONTENT else self._marks[self.kind][0])
            self._parse(held)

    def finish(self) -> str:
        """See Regions."""
        held, self._held = self._held, ""
        return held

    def resume(self) -> None:
        """See Regions."""
        self.kind = CALL
        self._resumed = True

    def refuse(self) -> None:
        """See Regions. The marks tell where a call ends, whatever it was."""

    def _renew(self, prefix: str) -> None:
        self._parser = ResponseParser(self._template, prefix=prefix)
        self._fed = 0

    def _parse(self, text: str) -> list[dict[str, str]]:
        self._held += text
        self._fed += len(text)
        return self._parser.feed(text) if text else []

    def _follow(self, event: dict[str, str]) -> Mark | None:
        """Keep count of the text the parser has let go."""
        kind, what = KINDS[event["field"]], event["type"].removeprefix("region_")
        if what == "chunk":
            text = event["text"]
        elif kind == CONTENT:  # has no marks
            return None
        else:
            text = self._marks[kind][what == "close"]
            self.kind = kind if what == "open" else CONTENT
        self._held = self._held[len(text) :]
        return Mark("text" if what == "chunk" else what, kind, text)


def _split_template(marks: dict[str, tuple[str, str]]) -> dict[str, object]:
    """A response template that only splits: literals as marks, all regions as untouched text."""
    fields: dict[str, dict[str, object]] = {
        FIELDS[kind]: {"open": opens, **({"close": closes} if closes else {})}
        for kind, (opens, closes) in marks.items()
    }
    fields[FIELDS[CONTENT]] = {}
    for field in fields.values():
        field |= {"content": "text", "content_args": {"strip": False}, "repeats": True}
    return {"start_anchor": "\0", "fields": fields}


class BareRegions:
    """For llama3: an answer that begins with `{` is made of calls; thinking has no marks here."""

    def __init__(self, prefix_mark: str = "<|python_tag|>") -> None:
        """`prefix_mark` may stand before the first call and is dropped there."""
        self.kind = CONTENT
        self._mark = prefix_mark
        self._held = ""
        self._scan = JsonScan()
        self._over = False

    def feed(self, text: str) -> Iterator[Mark]:
        """See Regions."""
        while text:
            if self.kind == CALL:
                end = self._scan.feed(text)
                yield Mark("text", CALL, text if end < 0 else text[:end])
                text = "" if end < 0 else text[end:]
                if end >= 0:
                    self.kind = CONTENT
                    yield Mark("close", CALL, "")
            elif self._over:
                yield Mark("text", CONTENT, text)
                text = ""
            else:
                text = yield from self._seek(text)

    def finish(self) -> str:
        """See Regions."""
        held, self._held = self._held, ""
        return held

    def resume(self) -> None:
        """See Regions. A closed JSON value is over."""

    def refuse(self) -> None:
        """See Regions. The answer was no call, so nothing after it is."""
        self._over = True

    def _seek(self, text: str) -> Iterator[Mark]:
        """Wait for the first character that is not a blank or between calls."""
        self._held += text
        rest = self._held.lstrip(" \t\r\n;,")
        if len(self._held) - len(rest) > MOST_BLANKS:
            rest = self._held
        elif rest.startswith(self._mark):
            rest = rest[len(self._mark) :].lstrip()
            if not rest:
                return ""
        elif self._mark.startswith(rest):
            return ""
        held, self._held = self._held, ""
        if rest.startswith("{"):
            self._scan = JsonScan()
            self.kind = CALL
            yield Mark("open", CALL, "")
            return rest
        self._over = True
        yield Mark("text", CONTENT, held)
        return ""


def regions_for(
    form: AnswerFormat, tail: str, *, calls: bool
) -> PlainRegions | MarkedRegions | BareRegions:
    """What fits a model's format; `calls` whether the request has tools."""
    marks = {}
    if form.think is not None:
        marks[REASONING] = form.think
    if calls and form.tools is not None:
        if not form.tools.call[0]:
            return BareRegions()
        marks[CALL] = form.tools.call
    return MarkedRegions(marks, tail) if marks else PlainRegions()
