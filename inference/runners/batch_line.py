"""Texts of all requests that wait for the BatchEngine, and who shares the next step.

Each step begins with one text whose turn it is: organizations take turns, and so do the requests of
each. Its company are waiting texts of about the same length, whoever sent them, so that little of
the step is spent on padding.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from inference.runners.base import Progress, Units

SPREAD = 0.75  # the shortest text of a step has at least this share of the longest one's tokens,
SLACK = 8  # or lacks at most so many


@dataclass(slots=True, eq=False)
class Item:
    """One text (or pair of texts) as tokens; `kinds` tell the texts of a pair apart.

    What is no text stands there as anything whose length is what it costs.
    """

    request: BatchRequest
    index: int
    tokens: Any
    kinds: list[int] | None = None
    is_taken: bool = False

    def __len__(self) -> int:
        """Its tokens."""
        return len(self.tokens)


@dataclass(slots=True, eq=False)
class BatchRequest:
    """All texts of one request. `finish` makes its result of the values, in the texts' order.

    `item_name` is what its progress calls them.

    Where there is a `tell`, it gives what the caller is to read of each value as soon as all before
    it are there.
    """

    request_id: str
    owner: str
    finish: Callable[[list[Any]], dict[str, Any]]
    items: list[Item] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    left: int = 0
    taken: int = 0
    turn: int = 0
    """All texts before this one are taken."""
    waiting_tokens: int = 0
    done_tokens: int = 0
    compute_s: float = 0.0
    tell: Callable[[Any], str] | None = None
    item_name: str = "texts"
    told: int = 0
    is_cancelled: bool = False
    is_over: bool = False

    def add(self, tokens: Any, kinds: list[int] | None = None) -> None:
        """One more text."""
        self.items.append(Item(self, len(self.items), tokens, kinds))
        self.values.append(None)
        self.left += 1
        self.waiting_tokens += len(tokens)

    @property
    def total_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(len(item) for item in self.items)

    def progress(self) -> Progress:
        """How many of its texts are done."""
        count = len(self.items)
        done = count - self.left
        words = f"{done} of {count} {self.item_name}"
        return Progress(self.request_id, round(done / count, 4), words, self.units)

    def news(self) -> str:
        """What can be told by now and was not."""
        found = ""
        while self.tell is not None and self.told < len(self.values):
            value = self.values[self.told]
            if value is None:
                break
            found += self.tell(value)
            self.told += 1
        return found

    @property
    def units(self) -> Units:
        """What it has used so far: texts that were computed."""
        return Units(prompt_tokens=self.done_tokens, compute_ms=round(self.compute_s * 1000))


class BatchLine:
    """Not thread-safe: the engine holds its lock around every call."""

    def __init__(self) -> None:
        """Empty."""
        self._turns: OrderedDict[str, deque[BatchRequest]] = OrderedDict()
        self._by_length: dict[int, deque[Item]] = {}
        self._lengths: list[int] = []
        self.tokens = 0

    def __len__(self) -> int:
        """How many requests have texts that wait."""
        return sum(len(requests) for requests in self._turns.values())

    def append(self, request: BatchRequest) -> None:
        """All texts of a request join."""
        self._turns.setdefault(request.owner, deque()).append(request)
        self.tokens += request.waiting_tokens
        for item in request.items:
            if len(item) not in self._by_length:
                self._by_length[len(item)] = deque()
                bisect.insort(self._lengths, len(item))
            self._by_length[len(item)].append(item)

    def drop(self, request: BatchRequest) -> None:
        """What is left of a request that is over leaves the line."""
        self.tokens -= request.waiting_tokens
        request.waiting_tokens = 0
        self._leave(request)
        self._forget_if_empty()

    def take(self, *, tokens: int, rows: int) -> list[Item]:
        """The texts of the next step: at most `rows`, and `tokens` with their padding counted."""
        first = self._whose_turn()
        if first is None:
            return []
        batch = [first]
        self._take(first)
        shortest = longest = len(first)
        for item in self._nearest(len(first)):
            low, high = min(shortest, len(item)), max(longest, len(item))
            if len(batch) >= rows or (len(batch) + 1) * high > tokens:
                break
            if low < high * SPREAD and high - low > SLACK:
                break
            batch.append(item)
            self._take(item)
            shortest, longest = low, high
        self._forget_if_empty()
        return batch

    def _whose_turn(self) -> Item | None:
        """The first waiting text of the request whose turn it is, which then goes behind."""
        while self._turns:
            owner, requests = self._turns.popitem(last=False)
            request = requests.popleft()
            item = None if request.is_over else _first_waiting(request)
            if item is not None:
                requests.append(request)
            if requests:
                self._turns[owner] = requests
            if item is not None:
                return item
        return None

    def _nearest(self, length: int) -> Iterator[Item]:
        """Waiting texts, those of the most similar length first."""
        above = bisect.bisect_left(self._lengths, length)
        below = above - 1
        while below >= 0 or above < len(self._lengths):
            nearer_below = below >= 0 and (
                above >= len(self._lengths)
                or length - self._lengths[below] < self._lengths[above] - length
            )
            if nearer_below:
                found, below = self._lengths[below], below - 1
            else:
                found, above = self._lengths[above], above + 1
            line = self._by_length[found]
            while line:
                if not (line[0].is_taken or line[0].request.is_over):
                    yield line[0]  # whoever asks takes it, or asks no more
                line.popleft()

    def _take(self, item: Item) -> None:
        item.is_taken = True
        request = item.request
        request.waiting_tokens -= len(item)
        self.tokens -= len(item)
        request.taken += 1
        if request.taken == len(request.items):
            self._leave(request)

    def _leave(self, request: BatchRequest) -> None:
        """It has no more turns."""
        requests = self._turns.get(request.owner)
        if requests is not None and request in requests:
            requests.remove(request)
            if not requests:
                del self._turns[request.owner]

    def _forget_if_empty(self) -> None:
        if not self._turns:
            self._by_length.clear()
            self._lengths.clear()


def _first_waiting(request: BatchRequest) -> Item | None:
    while request.turn < len(request.items):
        item = request.items[request.turn]
        if not item.is_taken:
            return item
        request.turn += 1
    return None
