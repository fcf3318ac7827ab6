"""The web process's side of interactive requests: send a frame to a Runner, wait on the loop.

Nothing is written before the work. The Runner writes the Job and its UsageRecord and only then
releases the END frame; when it dies after the first text, this process writes them (amount 0).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import DatabaseError

from casola_site.core import errors
from casola_site.core.clock import now
from casola_site.core.database import in_thread
from inference import frames, hosting
from inference.frames import ACK_SECONDS, BEAT_SECONDS, SILENCE_SECONDS
from inference.selectors import Catalog, LiveRunner, Model, catalog, catalog_in_memory
from jobs.link import Frame, Link

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
MAX_RESENDS = 3
COLD_RUNNER_POLL = 0.2


def ask_for(model: Model) -> bool:
    """Record demand for a model nobody holds; returns whether any node could load it."""
    hosting.want_model(spec_id=model.spec_id, now=now())
    return hosting.alive_nodes().exists()


read_catalog_async = in_thread(catalog)
ask_for_async = in_thread(ask_for)


@dataclass(slots=True)
class Started:
    """The Runner has begun; times in milliseconds."""

    prompt_tokens: int
    queue_ms: int


@dataclass(slots=True)
class Text:
    """The next piece of the answer."""

    text: str


@dataclass(slots=True)
class Finished:
    """The answer is complete and its usage is recorded. `text` is what was not streamed."""

    reason: str
    units: dict[str, int]
    text: str
    queue_ms: int
    model_ms: int


Piece = Started | Text | Finished


class RunnerLost(errors.WorkerError):
    """502: the Runner died or fell silent after its first output; this process must record it."""

    message = "The model runner was lost while answering"


@dataclass(slots=True)
class Exchange:
    """One interactive request under way."""

    job_id: str
    queue_id: str
    request: dict[str, Any]
    runner: LiveRunner | None = None
    attempt: int = 0
    sent_at: float = 0.0
    resends: int = 0
    is_acknowledged: bool = False
    has_output: bool = False
    offset: int = 0
    started: Started | None = None
    pieces: deque[Piece | Exception] = field(default_factory=deque)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    is_ended: bool = False
    """The Runner has said its last word; nothing is left to cancel."""

    def push(self, piece: Piece | Exception) -> None:
        """Hand a piece to the waiting request."""
        self.pieces.append(piece)
        self.ready.set()


class Hub:
    """All interactive requests of this process."""

    def __init__(self) -> None:
        self.link = Link("web", on_lost=self._frame_lost)
        self.exchanges: dict[str, Exchange] = {}
        self.outstanding: dict[str, int] = {}
        self._reading: asyncio.Future[Catalog] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to listen. Call on the event loop."""
        self.link.start()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch())]

    async def catalog(self) -> Catalog:
        """Models and live Runners, at most a second old; one reading serves all who wait."""
        found = catalog_in_memory()
        if found is not None:
            return found
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(read_catalog_async())
        return await asyncio.shield(self._reading)

    async def run(
        self, *, job_id: str, model: Model, request: dict[str, Any], wait_seconds: float
    ) -> AsyncIterator[Piece]:
        """Pieces of the answer, the last one Finished.

        Raises ApiError: Unavailable (no Runner, Redis away), Timeout before the first output within
        `wait_seconds`, RunnerLost, or what the Runner refused. Closing the iterator cancels.
        """
        exchange = Exchange(job_id=job_id, queue_id=model.queue_id, request=request)
        deadline = time.monotonic() + wait_seconds
        try:
            await self._send_first(exchange, model, deadline)
            while True:
                piece = await self._next(exchange, None if exchange.has_output else deadline)
                if isinstance(piece, Exception):
                    if isinstance(piece, errors.Timeout):
                        self._cancel(exchange, frames.TIMEOUT)
                    raise piece
                yield piece
                if isinstance(piece, Finished):
                    return
        finally:
            self._close(exchange)

    async def _send_first(self, exchange: Exchange, model: Model, deadline: float) -> None:
        asked = False
        while True:
            runners = (await self.catalog()).runners.get(model.queue_id, [])
            if runners:
                self._send(exchange, self._least_busy(runners))
                return
            if not asked:
                asked = True
                if not await ask_for_async(model):
                    raise errors.Unavailable(
                        f"The model '{model.model_id}' is offline",
                        code="model_unavailable",
                        retry_after=30,
                    )
            if time.monotonic() > deadline:
                raise errors.Unavailable(
                    f"The model '{model.model_id}' is still warming up",
                    code="model_unavailable",
                    retry_after=30,
                )
            await asyncio.sleep(COLD_RUNNER_POLL)

    def _least_busy(self, runners: list[LiveRunner]) -> LiveRunner:
        return min(runners, key=lambda r: self.outstanding.get(r.channel, 0) + r.outstanding)

    def _send(self, exchange: Exchange, runner: LiveRunner) -> None:
        exchange.runner = runner
        exchange.attempt += 1
        exchange.sent_at = time.monotonic()
        exchange.is_acknowledged = False
        exchange.resends = 0
        self.exchanges[exchange.job_id] = exchange
        self.outstanding[runner.channel] = self.outstanding.get(runner.channel, 0) + 1
        self.link.put(
            runner.channel, [frames.REQUEST, exchange.job_id, exchange.attempt, exchange.request]
        )

    async def _next(self, exchange: Exchange, deadline: float | None) -> Piece | Exception:
        while not exchange.pieces:
            exchange.ready.clear()
            if deadline is None:
                await exchange.ready.wait()
                continue
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await exchange.ready.wait()
            except TimeoutError:
                return errors.Timeout(
                    headers={"x-should-retry": "false"}, extra={"request_id": exchange.job_id}
                )
        return exchange.pieces.popleft()

    def _close(self, exchange: Exchange) -> None:
        self.exchanges.pop(exchange.job_id, None)
        self._cancel(exchange, frames.LEFT)
        if exchange.runner is not None:
            self._release(exchange.runner)

    def _cancel(self, exchange: Exchange, reason: str) -> None:
        if exchange.runner is not None and not exchange.is_ended:
            exchange.is_ended = True
            self.link.put(exchange.runner.channel, [frames.CANCEL, exchange.job_id, reason])

    def _release(self, runner: LiveRunner) -> None:
        left = self.outstanding.get(runner.channel, 0) - 1
        if left > 0:
            self.outstanding[runner.channel] = left
        else:
            self.outstanding.pop(runner.channel, None)

    async def _listen(self) -> None:
        async for sender, batch in self.link.receive():
            for frame in batch:
                if frame[0] == frames.BEAT:
                    continue
                exchange = self.exchanges.get(frame[1])
                if exchange is None or exchange.runner is None or exchange.runner.channel != sender:
                    continue
                if frame[2] == exchange.attempt:
                    self._take(exchange, frame)

    def _take(self, exchange: Exchange, frame: Frame) -> None:
        exchange.is_acknowledged = True
        match frame:
            case [frames.TEXT, _, _, offset, text]:
                if offset != exchange.offset:
                    self._lose(exchange)
                    return
                exchange.offset += len(text)
                exchange.has_output = True
                exchange.push(Text(text))
            case [frames.START, _, _, prompt_tokens, queue_ms]:
                exchange.started = Started(prompt_tokens, queue_ms)
                exchange.push(exchange.started)
            case [frames.END, _, _, offset, end]:
                if offset != exchange.offset:
                    self._lose(exchange)
                    return
                exchange.push(
                    Finished(
                        end["reason"], end["units"], end["text"], end["queue_ms"], end["model_ms"]
                    )
                )
            case [frames.ERROR, _, _, error]:
                exchange.is_ended = True
                exchange.push(
                    errors.from_runner(error["code"], error["message"], error.get("param"))
                )
            case _:
                return

    def _lose(self, exchange: Exchange) -> None:
        self.exchanges.pop(exchange.job_id, None)
        self._cancel(exchange, frames.LOST)
        exchange.push(RunnerLost())

    def _frame_lost(self, frame: Frame) -> None:
        if frame[0] == frames.REQUEST and frame[1] in self.exchanges:
            self.exchanges.pop(frame[1]).push(errors.Unavailable())

    async def _watch(self) -> None:
        last_beat = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            moment = time.monotonic()
            if self.exchanges:
                await self._watch_exchanges(moment)
            if moment - last_beat >= BEAT_SECONDS:
                last_beat = moment
                for channel in self.outstanding:
                    self.link.put(channel, [frames.BEAT])

    async def _watch_exchanges(self, moment: float) -> None:
        try:
            found = await self.catalog()
        except DatabaseError:
            found = None
        live = (
            None
            if found is None
            else {runner.channel for runners in found.runners.values() for runner in runners}
        )
        for exchange in list(self.exchanges.values()):
            runner = exchange.runner
            if runner is None:
                continue
            silent = self.link.silent_for(runner.channel, exchange.sent_at)
            gone = live is not None and runner.channel not in live and silent > 2 * BEAT_SECONDS
            if silent > SILENCE_SECONDS or gone or exchange.resends > MAX_RESENDS:
                self._runner_silent(exchange, found)
            elif not exchange.is_acknowledged and moment - exchange.sent_at > ACK_SECONDS * (
                exchange.resends + 1
            ):
                exchange.resends += 1
                self.link.put(
                    runner.channel,
                    [frames.REQUEST, exchange.job_id, exchange.attempt, exchange.request],
                )

    def _runner_silent(self, exchange: Exchange, found: Catalog | None) -> None:
        """Re-send once to a Runner that lives, else end it."""
        if exchange.has_output:
            self._lose(exchange)
            return
        silent = exchange.runner
        runners = [] if found is None else found.runners.get(exchange.queue_id, [])
        others = [r for r in runners if silent is None or r.channel != silent.channel]
        if exchange.attempt >= 2 or not self.link.is_up:
            self.exchanges.pop(exchange.job_id, None)
            exchange.push(errors.Unavailable() if not self.link.is_up else RunnerLost())
        elif others and silent is not None:
            self.link.put(silent.channel, [frames.CANCEL, exchange.job_id, frames.LOST])
            self._release(silent)
            self._send(exchange, self._least_busy(others))
        elif time.monotonic() - exchange.sent_at > settings.WAIT_SECONDS:
            self.exchanges.pop(exchange.job_id, None)
            exchange.push(RunnerLost())


_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def hub() -> Hub:
    """The running loop's Hub, started on first use."""
    loop = asyncio.get_running_loop()
    found = _hubs.get(loop)
    if found is None:
        for stale in [other for other in _hubs if other.is_closed()]:
            del _hubs[stale]
        found = _hubs[loop] = Hub()
        found.start()
    return found
