"""Pieces of an answer of text on their way from a Runner to a caller, and choices made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

CONTENT = "content"
REASONING = "reasoning"
ARGUMENTS = "arguments"


@dataclass(frozen=True, slots=True)
class Part:
    """What a runner's Delta says beyond plain content of the first choice; see there."""

    text: str = ""
    choice: int = 0
    kind: str = CONTENT
    call: int = 0
    opens: tuple[str, str] | None = None
    logprobs: tuple[dict[str, Any], ...] = ()
    reason: str | None = None

    def as_list(self) -> list[Any]:
        """Plain values for a frame."""
        opens = None if self.opens is None else list(self.opens)
        head = [self.text, self.choice, self.kind, self.call, opens]
        return [*head, list(self.logprobs), self.reason]

    @classmethod
    def from_list(cls, values: list[Any]) -> Part:
        """Rebuild from `as_list`."""
        text, choice, kind, call, opens, logprobs, reason = values
        return cls(
            text,
            choice,
            kind,
            call,
            None if opens is None else tuple(opens),
            tuple(logprobs),
            reason,
        )


def part_size(values: list[Any]) -> int:
    """What a Part's list adds to the offset of its answer; never 0, so that a lost one shows."""
    return len(values[0]) + 1


@dataclass(slots=True)
class ToolCall:
    """One call under way; `arguments` are pieces of JSON text."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        """OpenAI's tool call."""
        function = {"name": self.name, "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(slots=True)
class ChoiceSoFar:
    """One choice as far as it has come. `lead` counts the characters before the first token with a
    log probability (an echoed prompt)."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, ToolCall] = field(default_factory=dict)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    lead: int = 0
    reason: str | None = None

    @property
    def text(self) -> str:
        """Its content."""
        return "".join(self.content)

    def add(self, part: Part) -> None:
        """Take the next piece. A piece of a call that was never opened is content."""
        if part.opens is not None:
            self.calls[part.call] = ToolCall(*part.opens)
        if not self.logprobs and not part.logprobs:
            self.lead += len(part.text)
        self.logprobs.extend(part.logprobs)
        if part.text:
            self._texts(part).append(part.text)
        if part.reason is not None:
            self.reason = part.reason

    def _texts(self, part: Part) -> list[str]:
        if part.kind == REASONING:
            return self.reasoning
        if part.kind == ARGUMENTS and part.call in self.calls:
            return self.calls[part.call].arguments
        return self.content


class Choices:
    """Collects the pieces of an answer whose choices are numbered 0 to `count` - 1."""

    def __init__(self, count: int = 1) -> None:
        """`count` choices come out, also those that never said anything."""
        self._choices = [ChoiceSoFar() for _ in range(count)]
        self._first = self._choices[0].content

    def __iter__(self) -> Iterator[ChoiceSoFar]:
        """All of them, in order."""
        return iter(self._choices)

    def add_text(self, text: str) -> None:
        """Plain content of the first choice."""
        first = self._choices[0]
        if not first.logprobs:
            first.lead += len(text)
        self._first.append(text)

    def add(self, part: Part) -> None:
        """The next piece. Raises IndexError for a choice nobody asked for."""
        self._choices[part.choice].add(part)

    def finish(self, reason: str) -> None:
        """The answer has ended; `reason` is that of all choices that have none yet."""
        for choice in self._choices:
            if choice.reason is None:
                choice.reason = reason
