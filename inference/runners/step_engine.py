"""The StepEngine: what is made over many steps (pictures, video), one run at a time, one thread.

A run takes items of one shape from the line and carries all of them through all steps in one call of
`compute`, which tells of every step. Between steps those that were cancelled end at once; when
nobody is left, so does the run. Files are made of the values in a thread beside, while the next run
is under way.

A run that fails is repeated in halves, down to single items: an error ends the request that it
belongs to. When whole runs fail again and again the engine gives up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from inference.runners.base import (
    Busy,
    Emit,
    Ended,
    Event,
    Failed,
    InvalidInput,
    Media,
    Progress,
    Started,
    Stats,
)
from inference.runners.step_line import StepItem, StepLine, StepRequest

logger = logging.getLogger(__name__)

MAX_FAILED_RUNS = 3
LONGEST_RETRY = 60
FINISHING = 2  # threads
BEFORE_FILES = 0.97  # the progress when all steps are done and only files are to be written

OnStep = Callable[[int, int], None]
Compute = Callable[[Sequence[StepItem], OnStep], Sequence[Any]]


class Abandoned(Exception):
    """Nobody wants the run any more; raised by `on_step`, through `compute`."""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """A run has at most `rows` items, whose sizes have `room`; `waiting` bounds the line."""

    rows: int
    room: int
    waiting: int


class StepEngine:
    """`submit`, `cancel` and `stats` may be called from any thread; the rest is the engine's."""

    def __init__(
        self,
        compute: Compute,
        *,
        limits: StepLimits,
        on_start: Callable[[], None] | None = None,
        on_fatal: Callable[[str], None] | None = None,
    ) -> None:
        """`compute` gives one value per item and calls `on_step(done, total)` after each step.

        `on_start` is called once on the engine's thread, `on_fatal` there when it gives up.
        """
        self.healthy = True
        self._compute = compute
        self._limits = limits
        self._on_start = on_start
        self._on_fatal = on_fatal
        self._emit: Emit = lambda events: None
        self._wake = threading.Condition()
        self._line = StepLine()
        self._known: dict[str, StepRequest] = {}
        self._run_seconds = 1.0
        self._any_cancelled = False
        self._stopping = False
        self._failed_runs = 0
        self._thread: threading.Thread | None = None
        self._finishers = ThreadPoolExecutor(FINISHING, thread_name_prefix="step-files")

    def start(self, emit: Emit) -> None:
        """Start the thread; every event goes to `emit`."""
        self._emit = emit
        self._thread = threading.Thread(target=self._run, name="step-engine", daemon=True)
        self._thread.start()

    def submit(self, request: StepRequest) -> None:
        """Put all items of a request into the line.

        Raises Busy; ValueError if the id is in use or there is nothing to do.
        """
        if not request.items:
            raise ValueError("a request needs at least one item")
        with self._wake:
            if request.request_id in self._known:
                raise ValueError(f"request {request.request_id} is already running")
            waiting = len(self._line)
            if waiting >= self._limits.waiting or self._stopping or not self.healthy:
                runs = waiting / 2 / self._limits.rows
                raise Busy(max(1, min(LONGEST_RETRY, round(runs * self._run_seconds))))
            self._known[request.request_id] = request
            self._line.append(request)
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """End it between two steps, at once where it only waits. Unknown ids are ignored."""
        with self._wake:
            request = self._known.get(request_id)
            if request is None:
                return
            if request.has_begun:
                request.is_cancelled = self._any_cancelled = True
                self._wake.notify()
                return
            self._forget_locked(request)
        # Others' steps may take long, and the host would take this for an engine that hangs.
        self._send([Ended(request_id, "cancelled", request.units)])

    def stats(self) -> Stats:
        """Requests under way and in line."""
        with self._wake:
            active = sum(request.has_begun for request in self._known.values())
            return Stats(active=active, waiting=len(self._known) - active)

    def stop(self, timeout: float = 30.0) -> bool:
        """End the thread after the step under way; what is open fails. Whether it has ended."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        self._finishers.shutdown(wait=False, cancel_futures=True)
        return not self._thread.is_alive()

    # -- the engine's thread --------------------------------------------------------------------

    def _run(self) -> None:
        if self._on_start is not None:
            self._on_start()
        while self.healthy:
            with self._wake:
                while not (self._stopping or self._any_cancelled or self._line):
                    self._wake.wait()
                if self._stopping:
                    break
                events = self._drop_cancelled()
                batch = self._line.take(rows=self._limits.rows, room=self._limits.room)
            events += self._begin(batch)
            self._send(events)
            if batch:
                self._make(batch)
        self._close()

    def _begin(self, batch: Sequence[StepItem]) -> list[Event]:
        begun = list(dict.fromkeys(item.request for item in batch))
        events: list[Event] = [Started(one.request_id, 0) for one in begun if not one.has_begun]
        for request in begun:
            request.has_begun = True
        return events

    def _make(self, batch: Sequence[StepItem]) -> None:
        began = time.perf_counter()
        made, failed = self._try(batch)
        self._run_seconds = time.perf_counter() - began
        was_wanted = any(not item.request.is_over for item in batch)
        self._failed_runs = 0 if made or not was_wanted else self._failed_runs + 1
        self.healthy = self._failed_runs < MAX_FAILED_RUNS
        for item, error in failed:
            self._fail(item.request, error)
        for item, value in made:
            self._take_value(item, value)

    def _try(
        self, batch: Sequence[StepItem]
    ) -> tuple[list[tuple[StepItem, Any]], list[tuple[StepItem, Exception]]]:
        """Values of the items that could be made, and the others with what went wrong."""
        clock = [time.perf_counter()]

        def on_step(done: int, total: int) -> None:
            now = time.perf_counter()
            spent, clock[0] = now - clock[0], now
            self._stepped(batch, done / max(1, total), f"step {done} of {total}", spent)

        try:
            values = self._compute(batch, on_step)
        except Abandoned:
            return [], []
        except Exception as error:
            if len(batch) == 1:
                if not isinstance(error, InvalidInput):
                    logger.exception("request %s failed", batch[0].request.request_id)
                return [], [(batch[0], error)]
            logger.warning("a run of %d items failed; trying halves", len(batch))
            half = len(batch) // 2
            first, second = self._try(batch[:half]), self._try(batch[half:])
            return first[0] + second[0], first[1] + second[1]
        self._charge(batch, time.perf_counter() - clock[0])
        return list(zip(batch, values, strict=True)), []

    def _stepped(self, batch: Sequence[StepItem], share: float, message: str, spent: float) -> None:
        """A step is done. Raises Abandoned."""
        self._charge(batch, spent)
        with self._wake:
            events = self._drop_cancelled()
            is_stopping = self._stopping
        wanted = [item for item in batch if not item.request.is_over]
        for item in wanted:
            item.share = min(1.0, share)
        for request in dict.fromkeys(item.request for item in wanted):
            fraction = round(BEFORE_FILES * request.fraction, 4)
            events.append(Progress(request.request_id, fraction, message, request.units))
        self._send(events)
        if is_stopping or not wanted:
            raise Abandoned

    def _charge(self, batch: Sequence[StepItem], spent: float) -> None:
        for item in batch:
            item.request.compute_s += spent / len(batch)

    def _take_value(self, item: StepItem, value: Any) -> None:
        request = item.request
        if not request.is_over and request.take_value(item, value):
            self._finishers.submit(self._finish, request)

    def _fail(self, request: StepRequest, error: Exception) -> None:
        if not self._forget(request):
            return
        if isinstance(error, InvalidInput):
            failed = Failed(
                request.request_id, error.code, str(error), request.units, param=error.param
            )
        else:
            message = "The model could not compute this request"
            failed = Failed(request.request_id, "worker_error", message, request.units)
        self._send([failed])

    # -- beside it ------------------------------------------------------------------------------

    def _finish(self, request: StepRequest) -> None:
        media: tuple[Media, ...] = ()
        try:
            media = request.finish([request.values[item.index] for item in request.items])
        except Exception as error:  # the error boundary of one request
            logger.exception("request %s: its files could not be made", request.request_id)
            self._fail(request, error)
            return
        if self._forget(request):
            self._send([Ended(request.request_id, "stop", request.units, media=media)])
        else:
            for item in media:
                item.content.close()

    # -- any of these threads -------------------------------------------------------------------

    def _drop_cancelled(self) -> list[Event]:
        """The caller holds the lock."""
        self._any_cancelled = False
        cancelled = [request for request in self._known.values() if request.is_cancelled]
        for request in cancelled:
            self._forget_locked(request)
        return [Ended(one.request_id, "cancelled", one.units) for one in cancelled]

    def _forget(self, request: StepRequest) -> bool:
        """Whether it was still open; its last word is the caller's to say."""
        with self._wake:
            return self._forget_locked(request)

    def _forget_locked(self, request: StepRequest) -> bool:
        was_open, request.is_over = not request.is_over, True
        self._known.pop(request.request_id, None)
        self._line.drop(request)
        return was_open

    def _send(self, events: list[Event]) -> None:
        if not events:
            return
        try:
            self._emit(events)
        except Exception:  # whoever listens must not end the engine
            logger.exception("events could not be delivered")

    def _close(self) -> None:
        """End of the thread: whatever is still open fails, so that nobody waits for ever."""
        with self._wake:
            self._stopping = True
            left = [request for request in self._known.values() if not request.is_over]
            for request in left:
                self._forget_locked(request)
        message = "The model was interrupted"
        self._send(
            [
                Failed(one.request_id, "worker_error", message, one.units, retryable=True)
                for one in left
            ]
        )
        if not self.healthy and self._on_fatal is not None:
            self._on_fatal(f"{self._failed_runs} runs failed in a row")
