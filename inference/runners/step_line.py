"""What waits for the StepEngine, and what runs together next.

A run takes everything it does through all its steps at once, so only what is shaped alike (`key`)
can share one. Organizations take turns, and so do the requests of each: a run begins with the item
whose turn it is, and its company come one per request, from all organizations in order.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from inference.runners.base import Media, Units


@dataclass(slots=True, eq=False)
class StepItem:
    """One thing to be made. `size` counts against a run's room, `worth` is billed once it is made."""

    request: StepRequest
    index: int
    key: Hashable
    wish: Any
    size: int = 1
    worth: dict[str, int] = field(default_factory=dict)
    share: float = 0.0
    """How much of its steps is done, 0 to 1."""


@dataclass(slots=True, eq=False)
class StepRequest:
    """All items of one request. `finish` makes files of the values, in the items' order."""

    request_id: str
    owner: str
    finish: Callable[[list[Any]], tuple[Media, ...]]
    items: list[StepItem] = field(default_factory=list)
    values: dict[int, Any] = field(default_factory=dict)
    waiting: deque[StepItem] = field(default_factory=deque)
    used: dict[str, int] = field(default_factory=dict)
    compute_s: float = 0.0
    has_begun: bool = False
    is_cancelled: bool = False
    is_over: bool = False

    def add(self, key: Hashable, wish: Any, *, size: int = 1, **worth: int) -> None:
        """One more item."""
        item = StepItem(self, len(self.items), key, wish, size, worth)
        self.items.append(item)
        self.waiting.append(item)

    def take_value(self, item: StepItem, value: Any) -> bool:
        """One of the items is made; returns whether all are."""
        self.values[item.index] = value
        item.share = 1.0
        for unit, count in item.worth.items():
            self.used[unit] = self.used.get(unit, 0) + count
        return len(self.values) == len(self.items)

    @property
    def fraction(self) -> float:
        """How much of all steps is done, 0 to 1."""
        return sum(item.share for item in self.items) / len(self.items)

    @property
    def units(self) -> Units:
        """What was made so far."""
        return Units(**self.used, compute_ms=round(self.compute_s * 1000))


class StepLine:
    """Not thread-safe: the engine holds its lock around every call."""

    def __init__(self) -> None:
        """Empty."""
        self._turns: OrderedDict[str, deque[StepRequest]] = OrderedDict()

    def __len__(self) -> int:
        """How many items wait."""
        return sum(len(request.waiting) for request in self._requests())

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._turns)

    def append(self, request: StepRequest) -> None:
        """All items of a request join."""
        self._turns.setdefault(request.owner, deque()).append(request)

    def drop(self, request: StepRequest) -> None:
        """What is left of a request that is over leaves the line."""
        request.waiting.clear()
        self._leave(request)

    def take(self, *, rows: int, room: int) -> list[StepItem]:
        """The items of the next run: at most `rows`, and `room` for their sizes (one always fits)."""
        first = self._whose_turn()
        if first is None:
            return []
        batch, left = [first], room - first.size
        is_taken = True
        while is_taken and len(batch) < rows:
            is_taken = False
            for request in list(self._in_turn()):
                item = request.waiting[0]
                if item.key != first.key or item.size > left or len(batch) >= rows:
                    continue
                batch.append(self._pop(request))
                left -= item.size
                is_taken = True
        return batch

    def _whose_turn(self) -> StepItem | None:
        """The next item of the request whose turn it is, which then goes behind."""
        if not self._turns:
            return None
        owner, requests = next(iter(self._turns.items()))
        request = requests[0]
        item = self._pop(request)
        if owner in self._turns:
            self._turns.move_to_end(owner)
            if requests and requests[0] is request:
                requests.rotate(-1)
        return item

    def _pop(self, request: StepRequest) -> StepItem:
        item = request.waiting.popleft()
        if not request.waiting:
            self._leave(request)
        return item

    def _requests(self) -> Iterator[StepRequest]:
        for requests in self._turns.values():
            yield from requests

    def _in_turn(self) -> Iterator[StepRequest]:
        """Each organization's first request, then each one's second, and so on."""
        lines = [list(requests) for requests in self._turns.values()]
        for place in range(max(map(len, lines), default=0)):
            for line in lines:
                if place < len(line):
                    yield line[place]

    def _leave(self, request: StepRequest) -> None:
        requests = self._turns.get(request.owner)
        if requests is not None and request in requests:
            requests.remove(request)
            if not requests:
                del self._turns[request.owner]
