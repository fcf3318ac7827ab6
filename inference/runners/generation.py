"""One request inside the TokenEngine: what it asked for and how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.runners.answers import AnswerStream
from inference.runners.base import Units
from inference.runners.sampling import Choice, LogitProcessor

OPEN_RESERVE = 1024


@dataclass(slots=True, eq=False)
class Generation:
    """`limit` is the most completion tokens it may get; `open_ended` if nobody asked for a limit.

    `reserved` is how many positions of the cache it holds: all of prompt and limit, or, open-ended,
    at first OPEN_RESERVE beyond the prompt, extended while it runs as long as memory lasts.
    """

    request_id: str
    prompt: list[int]
    limit: int
    choice: Choice
    answer: AnswerStream
    processors: Sequence[LogitProcessor] = ()
    open_ended: bool = False
    ignore_eos: bool = False
    reserved: int = 0
    prefilled: int = 0
    last_token: int = 0
    completion_tokens: int = 0
    compute_s: float = 0.0
    cancelled: bool = False

    def __post_init__(self) -> None:
        """Work out the first reservation."""
        most = min(self.limit, OPEN_RESERVE) if self.open_ended else self.limit
        self.reserved = len(self.prompt) + most

    @property
    def decoding(self) -> bool:
        """Whether the whole prompt is in the cache."""
        return self.prefilled == len(self.prompt)

    @property
    def units(self) -> Units:
        """What it has used so far; a request that never ran has used nothing."""
        return Units(
            prompt_tokens=len(self.prompt) if self.prefilled else 0,
            completion_tokens=self.completion_tokens,
            reasoning_tokens=self.answer.reasoning_tokens,
            compute_ms=round(self.compute_s * 1000),
        )
