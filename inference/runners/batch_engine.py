"""The BatchEngine: texts of many requests through one forward per step, one thread.

Each step: drop what was cancelled; take texts of about the same length from the line, up to a
budget of tokens; compute them; hand each value to its request; end the requests that have all of
theirs. The budget follows the speed of the model, so that a step takes about `step_seconds`: then
a cancel, and a small request beside a large one, wait no longer than that.

A step that fails is repeated in halves, down to single texts: an error ends the request that it
belongs to. When whole steps fail again and again the engine gives up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inference.runners.base import Busy, Delta, Emit, Ended, Event, Failed, Started, Stats
from inference.runners.batch_line import BatchLine, BatchRequest, Item

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 3
LONGEST_RETRY = 60
GUESSED_TOKENS_PER_S = 2000.0
FEWEST_TOKENS = 256
SHORTEST_STEP_S = 1e-6
STEP_SECONDS = 0.5
FRESH = 0.3  # how much the latest step counts in the speed


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """`waiting_tokens` bounds the line; a step has at most `rows` texts and `step_tokens` tokens."""

    waiting_tokens: int
    step_tokens: int = 4096
    rows: int = 64
    step_seconds: float = STEP_SECONDS


class BatchEngine:
    """`submit`, `cancel` and `stats` may be called from any thread; the rest is the engine's."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Any]],
        *,
        limits: BatchLimits,
        on_start: Callable[[], None] | None = None,
        on_fatal: Callable[[str], None] | None = None,
    ) -> None:
        """`compute` gives one value per text; None where the numbers were invalid.

        `on_start` is called once on the engine's thread, `on_fatal` there when it gives up.
        """
        self.healthy = True
        self._compute = compute
        self._limits = limits
        self._on_start = on_start
        self._on_fatal = on_fatal
        self._emit: Emit = lambda events: None
        self._wake = threading.Condition()
        self._line = BatchLine()
        self._known: dict[str, BatchRequest] = {}
        self._begun: set[str] = set()
        self._any_cancelled = False
        self._stopping = False
        self._failed_steps = 0
        self._rate = 0.0
        self._thread: threading.Thread | None = None

    def start(self, emit: Emit) -> None:
        """Start the thread; every event goes to `emit`."""
        self._emit = emit
        self._thread = threading.Thread(target=self._run, name="batch-engine", daemon=True)
        self._thread.start()

    def submit(self, request: BatchRequest) -> None:
        """Put all texts of a request into the line.

        Raises Busy; ValueError if the id is in use or there is nothing to do.
        """
        if not request.items:
            raise ValueError("a request needs at least one text")
        with self._wake:
            if request.request_id in self._known:
                raise ValueError(f"request {request.request_id} is already running")
            # by what waits already: a large request has its turn like any other
            full = self._line.tokens >= self._limits.waiting_tokens
            if full or self._stopping or not self.healthy:
                raise Busy(self._retry_after())
            self._known[request.request_id] = request
            self._line.append(request)
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """Have a request end before the next step; unknown ids are ignored."""
        with self._wake:
            request = self._known.get(request_id)
            if request is not None:
                request.is_cancelled = True
                self._any_cancelled = True
                self._wake.notify()

    def stats(self) -> Stats:
        """Requests that are begun and that wait, and the speed."""
        with self._wake:
            active = len(self._begun)
            return Stats(active=active, waiting=len(self._known) - active, tokens_per_s=self._rate)

    def stop(self, timeout: float = 30.0) -> bool:
        """End the thread after the step under way; what is open fails. Whether it has ended."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the engine's thread --------------------------------------------------------------------

    def _run(self) -> None:
        if self._on_start is not None:
            self._on_start()
        while self.healthy:
            events: list[Event] = []
            with self._wake:
                while not (self._stopping or self._any_cancelled or self._line.tokens):
                    self._wake.wait()
                if self._stopping:
                    break
                self._drop_cancelled(events)
                batch = self._line.take(tokens=self._budget(), rows=self._limits.rows)
            if batch:
                self._begin(batch, events)
                self._send(events)
                events = []
                self._step(batch, events)
            self._send(events)
        self._close()

    def _budget(self) -> int:
        """Tokens of the next step."""
        if not self._rate:
            return min(FEWEST_TOKENS, self._limits.step_tokens)
        worth = round(self._rate * self._limits.step_seconds)
        return min(self._limits.step_tokens, max(FEWEST_TOKENS, worth))

    def _begin(self, batch: Sequence[Item], events: list[Event]) -> None:
        for item in batch:
            request = item.request
            if request.request_id not in self._begun:
                self._begun.add(request.request_id)
                events.append(Started(request.request_id, request.total_tokens))

    def _step(self, batch: Sequence[Item], events: list[Event]) -> None:
        began = time.perf_counter()
        computed, failed = self._try(batch)
        spent = max(time.perf_counter() - began, SHORTEST_STEP_S)
        self._note_speed(len(batch) * max(len(item) for item in batch), spent)
        self._failed_steps = 0 if computed else self._failed_steps + 1
        self.healthy = self._failed_steps < MAX_FAILED_STEPS
        per_token = spent / sum(len(item) for item in batch)
        for item in batch:
            item.request.compute_s += per_token * len(item)
        for item in failed:
            self._fail(item.request, events)
        for item, value in computed:
            self._take_value(item, value, events)
        touched = dict.fromkeys(item.request for item, _ in computed)
        events += [request.progress() for request in touched if not request.is_over]

    def _try(self, batch: Sequence[Item]) -> tuple[list[tuple[Item, Any]], list[Item]]:
        """Values of the texts that could be computed, and the others."""
        try:
            values = self._compute(batch)
        except Exception:
            if len(batch) == 1:
                logger.exception("a text of request %s failed", batch[0].request.request_id)
                return [], [batch[0]]
            logger.warning("a step of %d texts failed; trying halves", len(batch))
            half = len(batch) // 2
            first, second = self._try(batch[:half]), self._try(batch[half:])
            return first[0] + second[0], first[1] + second[1]
        pairs = list(zip(batch, values, strict=True))
        return (
            [(item, value) for item, value in pairs if value is not None],
            [item for item, value in pairs if value is None],
        )

    def _note_speed(self, tokens: int, spent: float) -> None:
        """Padding counts: it is computed as well."""
        rate = tokens / spent
        self._rate = rate if not self._rate else (1 - FRESH) * self._rate + FRESH * rate

    def _take_value(self, item: Item, value: Any, events: list[Event]) -> None:
        request = item.request
        if request.is_over:
            return
        request.values[item.index] = value
        request.done_tokens += len(item)
        request.left -= 1
        if news := request.news():
            events.append(Delta(request.request_id, news, 0))
        if request.left:
            return
        try:
            result = request.finish(request.values)
        except Exception:  # the error boundary of one request
            logger.exception("request %s: no result could be made", request.request_id)
            self._fail(request, events)
            return
        self._forget(request)
        events.append(Ended(request.request_id, "stop", request.units, result))

    def _fail(self, request: BatchRequest, events: list[Event]) -> None:
        if request.is_over:
            return
        self._forget(request)
        message = "The model could not compute this request"
        events.append(Failed(request.request_id, "worker_error", message, request.units))

    def _drop_cancelled(self, events: list[Event]) -> None:
        """The caller holds the lock."""
        self._any_cancelled = False
        for request in [one for one in self._known.values() if one.is_cancelled]:
            self._forget_locked(request)
            events.append(Ended(request.request_id, "cancelled", request.units))

    def _forget(self, request: BatchRequest) -> None:
        with self._wake:
            self._forget_locked(request)

    def _forget_locked(self, request: BatchRequest) -> None:
        request.is_over = True
        self._known.pop(request.request_id, None)
        self._begun.discard(request.request_id)
        self._line.drop(request)

    def _send(self, events: list[Event]) -> None:
        if not events:
            return
        try:
            self._emit(events)
        except Exception:  # whoever listens must not end the engine
            logger.exception("events could not be delivered")

    def _retry_after(self) -> int:
        """Seconds until a good part of the line is done."""
        rate = self._rate or GUESSED_TOKENS_PER_S
        return max(1, min(LONGEST_RETRY, round(self._line.tokens / 2 / rate)))

    def _close(self) -> None:
        """End of the thread: whatever is still open fails, so that nobody waits for ever."""
        with self._wake:
            self._stopping = True
            left = list(self._known.values())
            self._known.clear()
        message = "The model was interrupted"
        self._send(
            [
                Failed(one.request_id, "worker_error", message, one.units, retryable=True)
                for one in left
            ]
        )
        if not self.healthy and self._on_fatal is not None:
            self._on_fatal(f"{self._failed_steps} engine steps failed in a row")
