"""A Runner without weights: the model is served elsewhere, by a server that speaks OpenAI's API.

One thread runs an event loop with one task per request, so thousands may wait at little cost. Chat
is always asked for as a stream: leaving closes the connection, which stops the work there, and what
was made until then is known. Whether the upstream is well is looked at every few seconds and after
each odd failure; when it is not, the Runner asks its host to leave and is started anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from inference.contracts import chat, completion, embeddings, rerank, score
from inference.contracts.chat import ChatInput
from inference.runners.base import (
    Busy,
    Delta,
    Emit,
    Ended,
    Event,
    Failed,
    InvalidInput,
    LoadError,
    Memory,
    RunnerConfig,
    RunnerError,
    Started,
    Stats,
    Units,
)
from inference.runners.upstream_link import (
    MIB,
    MOST_ANSWER,
    READ_SECONDS,
    Access,
    CutOff,
    Unreachable,
    Upstream,
    UpstreamError,
    parsed,
)
from inference.runners.upstream_reading import Reader
from inference.runners.upstream_text import AnswerReader, chat_body, completion_body

logger = logging.getLogger(__name__)

OWN_BYTES = 96 * MIB
PATHS = {chat.TASK: "/chat/completions", completion.TASK: "/completions"}
READS = frozenset({embeddings.TASK, rerank.TASK, score.TASK})
SERVED = READS | PATHS.keys()
WATCH_SECONDS = 5.0
STRIKE_SECONDS = 1.0
STRIKES = 3
REST_SECONDS = 0.5  # for what follows the last event, so that the connection can be kept
END_SECONDS = 5.0
DONE = b"[DONE]"


@dataclass(slots=True, eq=False)
class Request:
    """One request under way."""

    request_id: str
    task: str
    body: dict[str, Any]
    """What the upstream is sent; of READS the Task's contract."""
    reader: AnswerReader | None = None
    began: float = field(default_factory=time.monotonic)
    doing: asyncio.Task[None] | None = None
    is_cancelled: bool = False
    is_over: bool = False

    @property
    def units(self) -> Units:
        """What it has used so far."""
        spent = round((time.monotonic() - self.began) * 1000)
        if self.reader is None:
            return Units(compute_ms=spent)
        return self.reader.units(spent)


class UpstreamRunner:
    """See the module's text.

    Options: model (its name there), key_env or key_file, ca_file, images, dialect, most_inputs,
    continuous_usage, cache_salt, read_seconds, most_answer_mb.
    """

    def __init__(self, config: RunnerConfig) -> None:
        """Nothing is asked before `load`."""
        options = config.options
        self.tasks = frozenset(config.tasks) or SERVED
        self.takes_images = options.get("images") is True
        self._config = config
        self._options = options
        self._emit: Emit = lambda events: None
        self._on_away: Callable[[str], None] = lambda reason: None
        self._lock = threading.Lock()
        self._known: dict[str, Request] = {}
        self._events: list[Event] = []
        self._is_stopping = False
        self._access: Access
        self._reader: Reader
        self._upstream: Upstream
        self._loop: asyncio.AbstractEventLoop
        self._doubt: asyncio.Event
        self._thread: threading.Thread | None = None

    @classmethod
    def estimate(cls, config: RunnerConfig) -> Memory:
        """See Runner. Nothing on a device."""
        del config
        return Memory(weights=0, cache=0, workspace=OWN_BYTES)

    def load(self, on_progress: Callable[[float, str], None]) -> Memory:
        """See Runner. Ready means that the upstream answers, takes the key and has the model."""
        on_progress(0.1, "asking the upstream")
        others = sorted(self.tasks - SERVED)
        if others:
            raise LoadError(f"An upstream cannot serve {', '.join(others)}")
        self._access = Access.of(self._config.path, self._options, model_id=self._config.model_id)
        self._reader = Reader(self._access.model, self.tasks, self._options)
        _number(self._options, "read_seconds", READ_SECONDS)
        _number(self._options, "most_answer_mb", MOST_ANSWER / MIB)
        asyncio.run(self._look_once())
        on_progress(1.0, "ready")
        return self.estimate(self._config)

    async def _look_once(self) -> None:
        upstream = self._connected()
        try:
            await upstream.look()
        except UpstreamError:
            raise LoadError("The upstream cannot be reached") from None
        finally:
            await upstream.close()

    def _connected(self) -> Upstream:
        return Upstream(
            self._access,
            connections=self._config.slots,
            read_seconds=_number(self._options, "read_seconds", READ_SECONDS),
            most_answer=round(_number(self._options, "most_answer_mb", MOST_ANSWER / MIB) * MIB),
        )

    def describe(self) -> str:
        """See Runner."""
        return "upstream, images" if self.takes_images else "upstream"

    def on_fatal(self, callback: Callable[[str], None]) -> None:
        """See Runner. This engine never gives up; see `on_away`."""

    def on_away(self, callback: Callable[[str], None]) -> None:
        """See Depends."""
        self._on_away = callback

    def start(self, emit: Emit) -> None:
        """See Runner."""
        self._emit = emit
        self._upstream = self._connected()
        is_up = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(is_up)), name="upstream", daemon=True
        )
        self._thread.start()
        is_up.wait()

    def submit(self, request_id: str, task: str, request: dict[str, Any], *, salt: str) -> None:
        """See Runner."""
        made = self._request(request_id, task, request, salt)
        with self._lock:
            if request_id in self._known:
                raise ValueError(f"request {request_id} is already running")
            if self._is_stopping:
                raise Busy(retry_after=1)
            self._known[request_id] = made
            self._loop.call_soon_threadsafe(self._begin, made)

    def cancel(self, request_id: str) -> None:
        """See Runner. The connection is closed at once."""
        with self._lock:
            request = self._known.get(request_id)
            if request is not None and not self._is_stopping:
                self._loop.call_soon_threadsafe(self._stop, request)

    def stats(self) -> Stats:
        """See Runner."""
        return Stats(active=len(self._known), waiting=0, memory=OWN_BYTES)

    def unload(self) -> None:
        """See Runner."""
        with self._lock:
            was_stopping, self._is_stopping = self._is_stopping, True
        if self._thread is not None and not was_stopping:
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(timeout=END_SECONDS)

    def _request(self, request_id: str, task: str, request: dict[str, Any], salt: str) -> Request:
        """Raises InvalidInput."""
        if task in READS:
            return Request(request_id, task, request)
        if task not in PATHS:
            raise InvalidInput(f"This model does not do {task}", param="model")
        wish = ChatInput.from_dict(request)
        if task == chat.TASK:
            body = chat_body(wish, takes_images=self.takes_images)
        else:
            body = completion_body(wish)
        usage = {"include_usage": True}
        if self._options.get("continuous_usage") is True:
            usage["continuous_usage_stats"] = True
        body.update(model=self._access.model, stream=True, stream_options=usage)
        if self._options.get("cache_salt") is True:
            body["cache_salt"] = sha256(salt.encode()).hexdigest()[:32]
        return Request(request_id, task, body, AnswerReader(request_id, wish))

    # -- the loop ---------------------------------------------------------------------------------

    async def _serve(self, is_up: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._doubt, self._ending = asyncio.Event(), asyncio.Event()
        self._upstream.heard_at = time.monotonic()
        is_up.set()
        watching = asyncio.create_task(self._watch())
        watching.add_done_callback(self._watch_ended)
        await self._ending.wait()
        watching.cancel()
        with self._lock:
            left = list(self._known.values())
        doing = [request.doing for request in left if request.doing is not None]
        for task in doing:
            task.cancel()
        await asyncio.gather(*doing, return_exceptions=True)
        await asyncio.sleep(0)
        self._flush()
        await self._upstream.close()

    def _begin(self, request: Request) -> None:
        if request.is_over:
            return
        request.began = time.monotonic()
        request.doing = asyncio.create_task(self._carry_out(request))
        request.doing.add_done_callback(lambda _: self._interrupted(request))

    def _stop(self, request: Request) -> None:
        request.is_cancelled = True
        if request.doing is None:
            self._end(request, Ended(request.request_id, "cancelled", Units()))
        elif not request.is_over:
            request.doing.cancel()

    async def _carry_out(self, request: Request) -> None:
        """Whatever goes wrong ends this request only."""
        try:
            reads = request.task in READS
            ended = await (self._read(request) if reads else self._speak(request))
        except RunnerError as error:
            self._end(request, self._failed(request, error))
        except Exception:  # the runner's edge
            logger.exception("a request to an upstream broke")
            self._end(request, self._failed(request, UpstreamError()))
        else:
            self._end(request, ended)

    def _failed(self, request: Request, error: RunnerError) -> Failed:
        if isinstance(error, UpstreamError):
            logger.info("%s: %s", self._config.model_id, type(error).__name__)
            if error.is_doubtful:
                self._doubt.set()
        return Failed(
            request.request_id,
            error.code,
            str(error),
            request.units,
            param=getattr(error, "param", None),
            retryable=getattr(error, "retryable", False),
            retry_after=getattr(error, "retry_after", None),
        )

    def _interrupted(self, request: Request) -> None:
        """Its task is done; without a last event it was cancelled."""
        if request.is_over:
            return
        if request.is_cancelled:
            self._end(request, Ended(request.request_id, "cancelled", request.units))
        else:
            self._end(request, self._failed(request, CutOff()))

    def _end(self, request: Request, event: Event) -> None:
        if request.is_over:
            return
        request.is_over = True
        with self._lock:
            self._known.pop(request.request_id, None)
        self._tell([event])

    def _tell(self, events: list[Event]) -> None:
        """Everything that one turn of the loop brings goes out as one list."""
        if events and not self._events:
            self._loop.call_soon(self._flush)
        self._events.extend(events)

    def _flush(self) -> None:
        events, self._events = self._events, []
        if events:
            self._emit(events)

    # -- requests -----------------------------------------------------------------------------------

    async def _read(self, request: Request) -> Ended:
        self._tell([Started(request.request_id, 0)])
        found = await self._reader.read(self._upstream, request.task, request.body)
        spent = request.units.compute_ms
        units = Units(prompt_tokens=found.tokens, compute_ms=spent)
        return Ended(request.request_id, "stop", units, found.result)

    async def _speak(self, request: Request) -> Ended:
        reader = request.reader
        assert reader is not None  # noqa: S101 - it was made with one
        content = json.dumps(request.body, ensure_ascii=False).encode(errors="replace")
        async with self._upstream.post(PATHS[request.task], content) as response:
            self._tell([Started(request.request_id, reader.prompt_tokens)])
            kind = response.headers.get("content-type", "")
            if kind.partition(";")[0].strip() == "application/json":  # it does not stream
                body = parsed(await self._upstream.content(response))
                self._tell(list(self._deltas(reader, body, is_whole=True)))
            else:
                await self._follow(request, reader, response)
        if not reader.is_complete:
            raise CutOff
        return Ended(request.request_id, reader.reason, request.units)

    async def _follow(self, request: Request, reader: AnswerReader, response: Any) -> None:
        async with aclosing(self._upstream.events(response)) as events:
            async for data in events:
                if data == DONE:
                    break
                self._tell(list(self._deltas(reader, parsed(data))))
            if not reader.is_complete:
                return
            # the answer need not wait for the end of the connection
            self._end(request, Ended(request.request_id, reader.reason, request.units))
            try:
                async with asyncio.timeout(REST_SECONDS):
                    async for _ in events:
                        continue
            except (TimeoutError, UpstreamError):
                return

    def _deltas(
        self, reader: AnswerReader, body: dict[str, Any], *, is_whole: bool = False
    ) -> list[Delta]:
        """Raises InvalidInput or UpstreamError for what tells of a failure."""
        error = body.get("error")
        if error is None:
            return reader.read(body, is_whole=is_whole)
        told = error if isinstance(error, dict) else {}
        is_theirs = told.get("type") == "invalid_request_error" or told.get("code") in (400, "400")
        if is_theirs:
            raise self._upstream.refusal(body)
        raise UpstreamError

    # -- watching the upstream ------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at it when it was silent for a while, and at once after an odd failure."""
        while True:
            try:
                await asyncio.wait_for(self._doubt.wait(), WATCH_SECONDS)
            except TimeoutError:
                if time.monotonic() - self._upstream.heard_at < WATCH_SECONDS:
                    continue
            self._doubt.clear()
            if (reason := await self._judged()) is not None:
                logger.warning("%s leaves: %s", self._config.model_id, reason)
                self._on_away(reason)
                self._give_up()
                return

    async def _judged(self) -> str | None:
        """Why it cannot be worked with, after several looks."""
        reason, began = None, time.monotonic()
        for strike in range(STRIKES):
            if strike:
                await asyncio.sleep(STRIKE_SECONDS)
            try:
                await self._upstream.look()
            except UpstreamError:
                if self._upstream.heard_at > began:  # it is only too busy to be asked
                    return None
                reason = "The upstream cannot be reached"
            except LoadError as error:
                reason = str(error)
            else:
                return None
        return reason

    def _give_up(self) -> None:
        """Nothing comes any more for what is under way."""
        with self._lock:
            left = list(self._known.values())
        for request in left:
            self._end(request, self._failed(request, Unreachable()))
            if request.doing is not None:
                request.doing.cancel()

    def _watch_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.critical("the upstream is not watched", exc_info=task.exception())
            self._on_away("internal error")


def _number(options: dict[str, Any], name: str, usual: float) -> float:
    """A positive number. Raises LoadError."""
    found = options.get(name, usual)
    if type(found) not in (int, float) or not math.isfinite(found) or found <= 0:
        raise LoadError(f"{name} must be a positive number")
    return float(found)
