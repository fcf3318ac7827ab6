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

from casola_site.core import errors
from casola_site.core.clock import now
from casola_site.core.database import in_thread
from inference import frames, hosting, parcels
from inference.contracts.answers import Part, part_size
from inference.frames import ACK_SECONDS, BEAT_SECONDS, SILENCE_SECONDS
from inference.selectors import Catalog, LiveRunner, Model, catalog, catalog_in_memory
from jobs.link import Frame, Link

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
MAX_RESENDS = 3
MAX_DEATHS = 2
MAX_ATTEMPTS = 4  # a Runner may die of a request before it can acknowledge it
COLD_RUNNER_POLL = 0.2
ASK_SECONDS = 5.0  # a model that begins to fail while it is waited for is not waited for any longer
FROZEN_SECONDS = 10.0
CATALOG_SECONDS = 5.0
CREDIT_BYTES = 64 * 1024  # a Runner is told so often that a caller has taken bytes


def ask_for(model: Model) -> bool:
    """Record demand for a model nobody holds; returns whether any node could load it."""
    hosting.want_model(spec_id=model.spec_id, now=now())
    return hosting.alive_nodes().exists() and not hosting.is_failing(spec_id=model.spec_id)


read_catalog_async = in_thread(catalog)
ask_for_async = in_thread(ask_for)


@dataclass(slots=True)
class Started:
    """The Runner has begun; times in milliseconds."""

    prompt_tokens: int
    queue_ms: int


@dataclass(slots=True)
class Text:
    """The next piece of the first choice's content."""

    text: str


@dataclass(slots=True)
class Finished:
    """The answer is complete and its usage is recorded. `reason` is that of the choices which have
    not ended before; `choices` are the surface's own bodies, none when the answer was streamed."""

    reason: str
    units: dict[str, int]
    choices: list[dict[str, Any]]
    queue_ms: int
    model_ms: int
    result: dict[str, Any] | None = None
    """What the Runner gives of Tasks without pieces."""


@dataclass(slots=True)
class Sized:
    """So many Bytes follow; the answer is complete and its usage is recorded."""

    size: int
    queue_ms: int
    model_ms: int


@dataclass(slots=True)
class Bytes:
    """The next bytes of an answer that is no text."""

    data: bytes


Piece = Started | Text | Part | Sized | Bytes | Finished


class RunnerLost(errors.WorkerError):
    """502: the Runner died or fell silent after its first output; this process must record it."""

    message = "The model runner was lost while answering"


class Again(Exception):
    """The Runner is gone and nothing was answered yet: ask another."""


@dataclass(slots=True)
class Trace:
    """How many Runners were sent the request and may still record its end."""

    runners: int = 0


@dataclass(slots=True)
class Exchange:
    """One interactive request under way."""

    job_id: str
    request: dict[str, Any]
    trace: Trace = field(default_factory=Trace)
    runner: LiveRunner | None = None
    tried: dict[str, float] = field(default_factory=dict)
    """Runners that were given up, and when; one that comes back may be asked again."""
    frozen_until: float | None = None
    attempt: int = 0
    deaths: int = 0
    """How many Runners died with it: it may be what kills them."""
    sent_at: float = 0.0
    resends: int = 0
    is_acknowledged: bool = False
    has_output: bool = False
    offset: int = 0
    taken: int = 0
    """Bytes that the waiting request has passed on, and up to where its Runner knows of that."""
    credited: int = 0
    pieces: deque[Piece | Exception] = field(default_factory=deque)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    is_ended: bool = False
    """The Runner has said its last word; nothing is left to cancel."""
    end_was_missed: bool = False

    def push(self, piece: Piece | Exception) -> None:
        """Hand a piece to the waiting request."""
        self.pieces.append(piece)
        self.ready.set()


def _joined(first: Text, pieces: deque[Any]) -> Text:
    """Texts that piled up while this process was busy go out as one."""
    texts = [first.text]
    while pieces and isinstance(pieces[0], Text):
        texts.append(pieces.popleft().text)
    return Text("".join(texts))


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
        loops = (self._listen(), self._beat(), self._watch())
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def catalog(self) -> Catalog:
        """Models and live Runners, at most a second old; one reading serves all who wait.

        Raises DatabaseError, or Unavailable when the database does not answer.
        """
        found = catalog_in_memory()
        if found is not None:
            return found
        try:
            async with asyncio.timeout(CATALOG_SECONDS):
                return await asyncio.shield(self._read_catalog())
        except TimeoutError:
            raise errors.Unavailable from None

    def _read_catalog(self) -> asyncio.Future[Catalog]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(read_catalog_async())
            # Nobody may be waiting for it any more when it fails.
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._reading

    async def run(
        self,
        *,
        job_id: str,
        model: Model,
        request: dict[str, Any],
        wait_seconds: float,
        trace: Trace | None = None,
    ) -> AsyncIterator[Piece]:
        """Pieces of the answer, the last one Finished; `trace` is kept up to date.

        Raises ApiError: Unavailable (no Runner, Redis away), Timeout before the first output within
        `wait_seconds`, RunnerLost, or what the Runner refused. Closing the iterator cancels.
        """
        exchange = Exchange(job_id=job_id, request=request, trace=trace or Trace())
        deadline = time.monotonic() + wait_seconds
        try:
            await self._send_somewhere(exchange, model, deadline)
            while True:
                piece = await self._next(exchange, None if exchange.has_output else deadline)
                if isinstance(piece, Again):
                    await self._send_somewhere(exchange, model, deadline)
                    continue
                if isinstance(piece, Exception):
                    if isinstance(piece, errors.Timeout):
                        self._cancel(exchange, frames.TIMEOUT)
                    raise piece
                if isinstance(piece, Finished) and piece.result is not None:
                    piece.result = await parcels.received(piece.result)
                yield piece
                if isinstance(piece, Finished):
                    return
                if isinstance(piece, Bytes):
                    self._took(exchange, len(piece.data))
        finally:
            self._close(exchange)

    async def _send_somewhere(self, exchange: Exchange, model: Model, deadline: float) -> None:
        """Send it to a Runner that was not tried; wait for one that is loaded."""
        ask_at = 0.0
        if exchange.frozen_until is None:
            exchange.frozen_until = time.monotonic() + FROZEN_SECONDS
        while True:
            runners = (await self.catalog()).runners.get(model.queue_id, [])
            untried = [runner for runner in runners if runner.channel not in exchange.tried]
            before = time.monotonic() - BEAT_SECONDS
            again = [r for r in runners if exchange.tried.get(r.channel, before) < before]
            if untried or again:
                self._send(exchange, self._least_busy(untried or again))
                return
            if not runners and time.monotonic() >= ask_at:
                ask_at = time.monotonic() + ASK_SECONDS
                if not await ask_for_async(model):
                    raise errors.Unavailable(
                        f"The model '{model.model_id}' is offline",
                        code="model_unavailable",
                        retry_after=30,
                    )
            moment = time.monotonic()
            if moment > deadline or (runners and moment > exchange.frozen_until):
                state = "does not answer" if runners else "is still warming up"
                raise errors.Unavailable(
                    f"The model '{model.model_id}' {state}",
                    code="model_unavailable",
                    retry_after=30,
                )
            await asyncio.sleep(COLD_RUNNER_POLL)

    def _least_busy(self, runners: list[LiveRunner]) -> LiveRunner:
        return min(runners, key=lambda r: self.outstanding.get(r.channel, 0) + r.outstanding)

    def _send(self, exchange: Exchange, runner: LiveRunner) -> None:
        exchange.runner = runner
        exchange.attempt += 1
        exchange.trace.runners += 1
        exchange.sent_at = time.monotonic()
        exchange.is_acknowledged = False
        exchange.resends = 0
        self.exchanges[exchange.job_id] = exchange
        self.outstanding[runner.channel] = self.outstanding.get(runner.channel, 0) + 1
        self._put_request(exchange)

    def _put_request(self, exchange: Exchange) -> None:
        assert exchange.runner is not None  # noqa: S101 - it was sent before
        frame = [frames.REQUEST, exchange.job_id, exchange.attempt, exchange.request]
        self.link.put(exchange.runner.channel, frame)

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
        piece = exchange.pieces.popleft()
        if isinstance(piece, Text) and exchange.pieces:
            return _joined(piece, exchange.pieces)
        return piece

    def _took(self, exchange: Exchange, size: int) -> None:
        """The caller has taken more; its Runner may send on."""
        exchange.taken += size
        if exchange.taken - exchange.credited >= CREDIT_BYTES:
            self._credit(exchange)

    def _credit(self, exchange: Exchange) -> None:
        if exchange.runner is not None and not exchange.is_ended:
            exchange.credited = exchange.taken
            frame = [frames.MORE, exchange.job_id, exchange.taken]
            self.link.put(exchange.runner.channel, frame)

    # -- ending -------------------------------------------------------------------------------

    def _close(self, exchange: Exchange) -> None:
        self._detach(exchange, frames.LEFT)
        exchange.is_ended = True

    def _detach(self, exchange: Exchange, reason: str) -> None:
        """Take it from its Runner, which is told so unless it has ended."""
        self._cancel(exchange, reason)
        self.exchanges.pop(exchange.job_id, None)
        if exchange.runner is not None:
            self._release(exchange.runner)
            exchange.runner = None

    def _cancel(self, exchange: Exchange, reason: str) -> None:
        if exchange.runner is None or exchange.is_ended:
            return
        exchange.is_ended = reason != frames.MOVED
        self.link.put(exchange.runner.channel, [frames.CANCEL, exchange.job_id, reason])

    def _release(self, runner: LiveRunner) -> None:
        left = self.outstanding.get(runner.channel, 0) - 1
        if left > 0:
            self.outstanding[runner.channel] = left
        else:
            self.outstanding.pop(runner.channel, None)

    def _lose(self, exchange: Exchange, error: Exception) -> None:
        """Give up on its Runner and on it."""
        self._detach(exchange, frames.LOST)
        exchange.push(error)

    def end(self, job_id: str, error: Exception) -> None:
        """End a request from this side; what it has produced is charged."""
        if (exchange := self.exchanges.get(job_id)) is not None:
            self._detach(exchange, frames.LEFT)
            exchange.push(error)

    def _move(self, exchange: Exchange) -> None:
        """Give up on its Runner; the waiting request asks another."""
        if exchange.runner is not None:
            exchange.tried[exchange.runner.channel] = time.monotonic()
        self._detach(exchange, frames.MOVED)
        exchange.push(Again())

    # -- what Runners say ---------------------------------------------------------------------

    async def _listen(self) -> None:
        async for sender, batch in self.link.receive():
            for frame in batch:
                try:
                    self._take_frame(sender, frame)
                except Exception:  # one odd frame must not end the others' answers
                    logger.exception("a frame of a runner could not be taken")

    def _take_frame(self, sender: str, frame: Frame) -> None:
        if frame[0] == frames.BEAT:
            self._take_beat(sender, frame[1])
            return
        exchange = self.exchanges.get(frame[1])
        if exchange is None or exchange.runner is None or exchange.runner.channel != sender:
            return
        if frame[2] == exchange.attempt and not exchange.is_ended:
            self._take(exchange, frame)

    def _take(self, exchange: Exchange, frame: Frame) -> None:
        exchange.is_acknowledged = True
        match frame:
            case [frames.TEXT, _, _, offset, text]:
                self._take_output(exchange, offset, len(text), Text(text))
            case [frames.PART, _, _, offset, part]:
                self._take_output(exchange, offset, part_size(part), Part.from_list(part))
            case [frames.BYTES, _, _, offset, data]:
                self._take_output(exchange, offset, len(data), Bytes(data))
            case [frames.SIZE, _, _, size, queue_ms, model_ms]:
                self._take_output(exchange, 0, 0, Sized(size, queue_ms, model_ms))
            case [frames.START, _, _, prompt_tokens, queue_ms]:
                exchange.push(Started(prompt_tokens, queue_ms))
            case [frames.END, _, _, offset, end]:
                if offset != exchange.offset:
                    self._lose(exchange, RunnerLost())
                    return
                exchange.is_ended = True
                exchange.push(Finished(**end))
            case [frames.ERROR, _, _, error]:
                exchange.is_ended = True
                exchange.trace.runners -= 1
                known = {key: error.get(key) for key in ("param", "retry_after")}
                exchange.push(errors.from_runner(error["code"], error["message"], **known))
            case [frames.AWAY, _, _]:
                exchange.trace.runners -= 1
                self._move(exchange)
            case _:
                return

    def _take_output(self, exchange: Exchange, offset: int, size: int, piece: Piece) -> None:
        if offset != exchange.offset:
            self._lose(exchange, RunnerLost())
            return
        exchange.offset += size
        exchange.has_output = True
        exchange.push(piece)

    def _take_beat(self, sender: str, working: dict[str, list[int]]) -> None:
        """What the Runner does not know any more, or has sent more of, was lost on the way."""
        for exchange in list(self.exchanges.values()):
            if exchange.runner is None or exchange.runner.channel != sender or exchange.is_ended:
                continue
            if not exchange.is_acknowledged:
                continue
            attempt, offset = working.get(exchange.job_id, (0, 0))
            if attempt == exchange.attempt:
                if offset != exchange.offset:
                    self._lose(exchange, RunnerLost())
            elif exchange.end_was_missed:
                self._lose(exchange, RunnerLost())
            else:
                exchange.end_was_missed = True
                self._put_request(exchange)  # it says its last word again

    def _frame_lost(self, frame: Frame) -> None:
        if frame[0] == frames.REQUEST and (exchange := self.exchanges.get(frame[1])):
            error = RunnerLost() if exchange.has_output else errors.Unavailable()
            self._lose(exchange, error)

    # -- watching -----------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            waiting: dict[str, list[str]] = {channel: [] for channel in self.outstanding}
            for exchange in self.exchanges.values():
                if exchange.runner is not None:
                    waiting.setdefault(exchange.runner.channel, []).append(exchange.job_id)
                if exchange.taken:
                    self._credit(exchange)  # the last one may have been lost
            for channel, job_ids in waiting.items():
                self.link.put(channel, [frames.BEAT, job_ids])
            await asyncio.sleep(BEAT_SECONDS)

    async def _watch(self) -> None:
        last_tick, judge_after = time.monotonic(), 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            if now - last_tick > BEAT_SECONDS:
                judge_after = now + BEAT_SECONDS  # it was we who were away: hear the others first
            last_tick = now
            if now < judge_after:
                continue
            try:
                self._watch_exchanges()
            except Exception:  # watching must go on
                logger.exception("requests could not be watched")

    def _watch_exchanges(self) -> None:
        """Never waits for the database: which Runners live is only known while it answers."""
        if not self.exchanges:
            return
        found = catalog_in_memory()
        if found is None:
            self._read_catalog()
        live = found and {
            runner.channel for runners in found.runners.values() for runner in runners
        }
        for exchange in list(self.exchanges.values()):
            if exchange.runner is None or exchange.is_ended:
                continue
            channel = exchange.runner.channel
            silent = self.link.silent_for(channel, exchange.sent_at)
            gone = live is not None and channel not in live and silent > 2 * BEAT_SECONDS
            if silent > SILENCE_SECONDS or gone or exchange.resends > MAX_RESENDS:
                self._runner_silent(exchange)
            elif not exchange.is_acknowledged:
                waited = time.monotonic() - exchange.sent_at
                if waited > ACK_SECONDS * (exchange.resends + 1):
                    exchange.resends += 1
                    self._put_request(exchange)

    def _runner_silent(self, exchange: Exchange) -> None:
        """Ask another Runner when nothing was answered, else end it."""
        if exchange.has_output:
            self._lose(exchange, RunnerLost())
        elif not self.link.is_up:
            self._lose(exchange, errors.Unavailable())
        elif (
            exchange.is_acknowledged and exchange.deaths >= MAX_DEATHS - 1
        ) or exchange.attempt >= MAX_ATTEMPTS:
            self._lose(exchange, RunnerLost())
        else:
            exchange.deaths += exchange.is_acknowledged
            self._move(exchange)


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
