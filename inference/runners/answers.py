"""From the tokens of one choice to typed pieces of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from inference.runners.base import CONTENT
from inference.runners.text import TextStream


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one kind; see Delta for `kind`, `call` and `opens`."""

    text: str
    kind: str = CONTENT
    call: int = 0
    opens: tuple[str, str] | None = None


class AnswerStream(Protocol):
    """One choice on its way from tokens to pieces. Used by the engine thread only."""

    stopped: bool
    """Whether the answer is complete by its own content (a stop string, the last tool call)."""
    reasoning_tokens: int
    """How many of the tokens so far were reasoning."""

    def push(self, token: int) -> Sequence[Piece]:
        """What became certain with this token; often one piece, sometimes none."""

    def finish(self) -> Sequence[Piece]:
        """What was held back, when no more tokens come."""

    def reason(self, reason: str) -> str:
        """The finish reason to report where the engine would say `reason` (stop or length)."""


class PlainAnswer:
    """Nothing but content."""

    reasoning_tokens = 0

    def __init__(self, text: TextStream) -> None:
        """`text` detokenises and knows the stop strings."""
        self._text = text

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._text.stopped

    def push(self, token: int) -> Sequence[Piece]:
        """See AnswerStream."""
        text = self._text.push(token)
        return (Piece(text),) if text else ()

    def finish(self) -> Sequence[Piece]:
        """See AnswerStream."""
        text = self._text.finish()
        return (Piece(text),) if text else ()

    def reason(self, reason: str) -> str:
        """See AnswerStream."""
        return reason
