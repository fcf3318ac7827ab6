"""The choices that wait for a row, in order of arrival, and how many tokens they stand for."""

from __future__ import annotations

from collections import deque

from inference.runners.generation import Generation, Request


class WaitingLine:
    """Not thread-safe: the engine holds its lock around every call."""

    def __init__(self) -> None:
        """Empty."""
        self._line: deque[tuple[Request, Generation]] = deque()
        self.tokens = 0

    def __len__(self) -> int:
        """How many choices wait."""
        return len(self._line)

    @property
    def head(self) -> Generation:
        """Who is next. Raises IndexError if nobody waits."""
        return self._line[0][1]

    def append(self, request: Request) -> None:
        """All choices of a request join at the end."""
        self._line.extend((request, generation) for generation in request.choices)
        self.tokens += request.line_tokens

    def take(self) -> tuple[Request, Generation]:
        """The next one leaves the line."""
        request, generation = self._line.popleft()
        self.tokens -= generation.line_tokens
        return request, generation

    def drop_over(self) -> None:
        """Choices of requests that are over leave the line."""
        self._line = deque(pair for pair in self._line if not pair[0].over)
        self.tokens = sum(generation.line_tokens for _, generation in self._line)

    def clear(self) -> None:
        """Everybody leaves."""
        self._line.clear()
        self.tokens = 0
