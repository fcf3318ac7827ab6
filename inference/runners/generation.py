"""What is under way inside the TokenEngine: requests and the choices of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.runners.answers import AnswerStream
from inference.runners.base import Units
from inference.runners.logprobs import LogprobLine
from inference.runners.media import Media
from inference.runners.sampling import Choice, LogitProcessor
from inference.runners.slots import Snapshot

OPEN_RESERVE = 1024


@dataclass(slots=True, eq=False)
class Stem:
    """A prompt that several choices continue: only the first of them computes it.

    `snapshot` (all but the last token) is there from the end of that prefill until the last of the
    `waiting` others has started.
    """

    waiting: int
    snapshot: Snapshot | None = None


@dataclass(slots=True, eq=False)
class Generation:
    """One choice: a row of the cache while it runs. A simple request is a single Generation.

    `limit` is the most completion tokens it may get; `open_ended` if nobody asked for a limit.
    `reserved` is how many positions of the cache it holds: all of prompt and limit, or, open-ended,
    at first OPEN_RESERVE beyond the prompt, extended while it runs as long as memory lasts.
    `index` is its number within the request; `follows` says that an earlier choice computes its
    prompt, `stem` what they share. `seed` starts the prefix cache's keys and `keys` are those of
    the prompt's blocks; without a seed nothing of it is shared. `echo` goes out before the answer.
    `media` are the images of the prompt.
    """

    request_id: str
    prompt: list[int]
    limit: int
    choice: Choice
    answer: AnswerStream
    processors: Sequence[LogitProcessor] = ()
    open_ended: bool = False
    ignore_eos: bool = False
    index: int = 0
    stem: Stem | None = None
    follows: bool = False
    seed: bytes = b""
    keys: list[bytes] = field(default_factory=list)
    logprobs: LogprobLine | None = None
    echo: str = ""
    media: Media | None = None
    reserved: int = 0
    prefilled: int = 0
    cached: int = 0
    stops: list[int] = field(default_factory=list)
    states: dict[int, Any] = field(default_factory=dict)
    last_token: int = 0
    tokens: list[int] = field(default_factory=list)
    compute_s: float = 0.0
    started: bool = False
    over: bool = False
    shares_request: bool = False

    def __post_init__(self) -> None:
        """Work out the first reservation."""
        most = min(self.limit, OPEN_RESERVE) if self.open_ended else self.limit
        self.reserved = len(self.prompt) + most

    @property
    def decoding(self) -> bool:
        """Whether the whole prompt is in the cache."""
        return self.prefilled == len(self.prompt)

    @property
    def completion_tokens(self) -> int:
        """How many tokens it has been given."""
        return len(self.tokens)

    @property
    def chunk_end(self) -> int:
        """How far the prompt may be prefilled in one go."""
        return next((stop for stop in self.stops if stop > self.prefilled), len(self.prompt))

    @property
    def line_tokens(self) -> int:
        """What it counts for in the waiting line."""
        return (1 if self.follows else len(self.prompt)) + min(self.limit, OPEN_RESERVE)


class Request:
    """All choices of one request id; it is over when they all are, or when one fails."""

    __slots__ = ("cancelled", "choices", "completion_tokens", "left", "over", "started")

    def __init__(self, choices: Sequence[Generation]) -> None:
        """`choices` in order of their index, at least one, all of the same request id."""
        self.choices = tuple(choices)
        self.left = len(choices)
        for one in choices:
            one.shares_request = len(choices) > 1
        self.completion_tokens = 0
        self.started = False
        self.cancelled = False
        self.over = False

    @property
    def request_id(self) -> str:
        """The id its events carry."""
        return self.choices[0].request_id

    @property
    def line_tokens(self) -> int:
        """What it counts for in the waiting line before any choice has started."""
        return sum(generation.line_tokens for generation in self.choices)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompts, each counted once however many choices continue it."""
        return sum(len(one.prompt) for one in self.choices if not one.follows)

    @property
    def units(self) -> Units:
        """What it has used so far; a prompt that was never begun costs nothing."""
        begun = [one for one in self.choices if one.started and not one.follows]
        return Units(
            prompt_tokens=sum(len(one.prompt) for one in begun),
            completion_tokens=self.completion_tokens,
            cached_tokens=sum(one.cached for one in begun),
            reasoning_tokens=sum(one.answer.reasoning_tokens for one in self.choices),
            compute_ms=round(sum(one.compute_s for one in self.choices) * 1000),
        )
