"""A Runner without a model: deterministic words at a chosen pace, and faults on demand.

For tests, demonstrations of failure and gateway benchmarks; it imports nothing heavy. One thread
serves all requests; each tick emits one list for all active rows.

RunnerConfig.options for chat:
  mode        "words" (default: w0 w1 w2 ...) or "echo" (the last user message's words)
  tokens      completion length where max_tokens allows more (default 16)
  delay_ms    latency before a request's first token (default 0)
  token_ms    one token per row every so many ms (default 0: the whole answer at once)
  fault       "crash", "hang" or "error": what every request does
  waiting     how many requests may wait for a slot before Busy (default 1024)

The last user message may ask for the same: "!crash", "!hang", "!error", "!slow <ms>" (its own
delay) and "!tokens <n>". Requests of the Task `test/echo` are dicts with duration_ms, units
(completion tokens to bill), crash, hang, error (a code), retryable and result.
"""

from __future__ import annotations

import heapq
import itertools
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inference.contracts.chat import TASK as CHAT_TASK
from inference.contracts.chat import ChatInput
from inference.runners.base import (
    Busy,
    Delta,
    Emit,
    Ended,
    Event,
    Failed,
    InvalidInput,
    Memory,
    RunnerConfig,
    Started,
    Stats,
    Units,
)

ECHO_TASK = "test/echo"
COMMAND = re.compile(r"!(crash|hang|error|slow|tokens)(?:\s+(\d+))?")
MOST_TOKENS = 100_000
WORDS = [f"w{index} " for index in range(4096)]


@dataclass(slots=True, eq=False)
class Answer:
    """One request: what it will say and how far it has come."""

    request_id: str
    words: list[str]
    prompt_tokens: int = 0
    reason: str = "stop"
    delay_s: float = 0.0
    said: int = 0
    fault: str | None = None
    error: str = "worker_error"
    retryable: bool = False
    billed: int = 0
    result: dict[str, Any] | None = None
    cancelled: bool = False
    closed: bool = False
    started_at: float = 0.0

    @property
    def units(self) -> Units:
        """What it has used so far."""
        spent = round((time.monotonic() - self.started_at) * 1000) if self.started_at else 0
        return Units(
            prompt_tokens=self.prompt_tokens if self.started_at else 0,
            completion_tokens=self.said,
            compute_ms=spent,
        )


class EchoRunner:
    """See the module's text."""

    tasks = frozenset({CHAT_TASK, ECHO_TASK})

    def __init__(self, config: RunnerConfig) -> None:
        """Options are read here; unknown ones are ignored."""
        options = config.options
        self._slots = config.slots
        self._mode = options.get("mode", "words")
        self._tokens = int(options.get("tokens", 16))
        self._delay_s = float(options.get("delay_ms", 0)) / 1000
        self._token_s = float(options.get("token_ms", 0)) / 1000
        self._fault = options.get("fault")
        self._line_limit = int(options.get("waiting", 1024))
        self._emit: Emit = lambda events: None
        self._wake = threading.Condition()
        self._known: dict[str, Answer] = {}
        self._line: deque[Answer] = deque()
        self._delayed: list[tuple[float, int, Answer]] = []
        self._order = itertools.count()
        self._speaking: list[Answer] = []
        self._cancelled: list[Answer] = []
        self._active = 0
        self._next_tick = 0.0
        self._stopping = False
        self._thread: threading.Thread | None = None

    @classmethod
    def estimate(cls, config: RunnerConfig) -> Memory:
        """Nothing worth counting."""
        del config
        return Memory(weights=0, cache=0, workspace=0)

    def load(self, on_progress: Callable[[float, str], None]) -> Memory:
        """See Runner."""
        on_progress(1.0, "ready")
        return Memory(weights=0, cache=0, workspace=0)

    takes_images = False

    def describe(self) -> str:
        """See Runner."""
        return "echo"

    def on_fatal(self, callback: Callable[[str], None]) -> None:
        """See Runner. This engine never gives up."""

    def start(self, emit: Emit) -> None:
        """See Runner."""
        self._emit = emit
        self._thread = threading.Thread(target=self._run, name="echo-engine", daemon=True)
        self._thread.start()

    def submit(self, request_id: str, task: str, request: dict[str, Any], *, salt: str) -> None:
        """See Runner."""
        del salt
        if task == CHAT_TASK:
            answer = self._chat_answer(request_id, request)
        elif task == ECHO_TASK:
            answer = _echo_answer(request_id, request)
        else:
            raise InvalidInput(f"This model does not do {task}", param="model")
        with self._wake:
            if request_id in self._known:
                raise ValueError(f"request {request_id} is already running")
            if self._stopping or len(self._line) >= self._line_limit:
                raise Busy(retry_after=1)
            self._known[request_id] = answer
            self._line.append(answer)
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """See Runner."""
        with self._wake:
            answer = self._known.get(request_id)
            if answer is not None and not answer.cancelled:
                answer.cancelled = True
                self._cancelled.append(answer)
                self._wake.notify()

    def stats(self) -> Stats:
        """See Runner."""
        rate = len(self._speaking) / self._token_s if self._token_s else 0.0
        return Stats(active=self._active, waiting=len(self._line), tokens_per_s=rate)

    def unload(self) -> None:
        """See Runner. A thread that hangs on purpose is left behind (it is a daemon)."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _chat_answer(self, request_id: str, request: dict[str, Any]) -> Answer:
        chat = ChatInput.from_dict(request)
        texts = [_text(message.get("content")) for message in chat.messages]
        users = [
            text
            for text, message in zip(texts, chat.messages, strict=True)
            if message.get("role") == "user"
        ]
        asked = users[-1] if users else ""
        commands = dict(COMMAND.findall(asked))
        fault = next((name for name in ("crash", "hang", "error") if name in commands), self._fault)
        count = min(int(commands.get("tokens") or self._tokens), MOST_TOKENS)
        words = [f"{word} " for word in asked.split()] if self._mode == "echo" else _words(count)
        reason = "stop"
        if chat.max_tokens is not None and chat.max_tokens <= len(words):
            reason = "length" if chat.max_tokens < len(words) else "stop"
            words = words[: chat.max_tokens]
        slow = commands.get("slow")
        return Answer(
            request_id,
            words,
            prompt_tokens=sum(len(text.split()) for text in texts),
            reason=reason,
            delay_s=int(slow) / 1000 if slow else self._delay_s,
            fault=fault,
        )

    def _run(self) -> None:
        while True:
            events: list[Event] = []
            with self._wake:
                self._wait()
                if self._stopping:
                    break
                self._drop_cancelled(events)
                admitted = self._admit(events)
            now = time.monotonic()
            for answer in admitted:
                answer.started_at = now
                heapq.heappush(self._delayed, (now + answer.delay_s, next(self._order), answer))
            self._wake_delayed(now, events)
            if self._speaking and now >= self._next_tick:
                self._tick(now, events)
            self._active = len(self._speaking) + sum(not one.closed for *_, one in self._delayed)
            if events:
                self._emit(events)
        self._close()

    def _wait(self) -> None:
        """Until there is something to do; the caller holds the lock."""
        while not (self._stopping or self._cancelled or (self._line and self._has_slot())):
            due = [self._delayed[0][0]] if self._delayed else []
            due += [self._next_tick] if self._speaking else []
            if not due:
                self._wake.wait()
                continue
            left = min(due) - time.monotonic()
            if left <= 0:
                return
            self._wake.wait(left)

    def _has_slot(self) -> bool:
        return self._active < self._slots

    def _drop_cancelled(self, events: list[Event]) -> None:
        for answer in self._cancelled:
            if not answer.closed:
                self._end(answer, events, Ended(answer.request_id, "cancelled", answer.units))
        if self._cancelled:
            self._line = deque(answer for answer in self._line if not answer.closed)
            self._speaking = [answer for answer in self._speaking if not answer.closed]
            self._delayed = [entry for entry in self._delayed if not entry[2].closed]
            heapq.heapify(self._delayed)
            self._active = len(self._speaking) + len(self._delayed)
            self._cancelled.clear()

    def _admit(self, events: list[Event]) -> list[Answer]:
        admitted = []
        while self._line and self._active + len(admitted) < self._slots:
            answer = self._line.popleft()
            events.append(Started(answer.request_id, answer.prompt_tokens))
            admitted.append(answer)
        return admitted

    def _wake_delayed(self, now: float, events: list[Event]) -> None:
        """Requests whose delay is over: act out their fault, answer, or begin to speak."""
        while self._delayed and self._delayed[0][0] <= now:
            answer = heapq.heappop(self._delayed)[2]
            if answer.fault:
                self._act_out(answer, events)
            elif answer.words and self._token_s:
                if not self._speaking:
                    self._next_tick = now
                self._speaking.append(answer)
            else:
                self._say_all(answer, events)

    def _act_out(self, answer: Answer, events: list[Event]) -> None:
        if answer.fault == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if answer.fault == "hang":
            threading.Event().wait()
        failed = Failed(
            answer.request_id,
            answer.error,
            "The model was told to fail",
            answer.units,
            retryable=answer.retryable,
        )
        self._end(answer, events, failed)

    def _say_all(self, answer: Answer, events: list[Event]) -> None:
        answer.said = len(answer.words) or answer.billed
        if answer.words:
            events.append(Delta(answer.request_id, "".join(answer.words), answer.said))
        ended = Ended(answer.request_id, answer.reason, answer.units, answer.result)
        self._end(answer, events, ended)

    def _tick(self, now: float, events: list[Event]) -> None:
        """One token for every row that speaks."""
        # an engine that falls behind loses ticks, it does not hurry afterwards
        self._next_tick = max(self._next_tick + self._token_s, now)
        finished = False
        for answer in self._speaking:
            said = answer.said
            answer.said = said + 1
            events.append(Delta(answer.request_id, answer.words[said], said + 1))
            if said + 1 == len(answer.words):
                finished = True
                ended = Ended(answer.request_id, answer.reason, answer.units, answer.result)
                self._end(answer, events, ended)
        if finished:
            self._speaking = [answer for answer in self._speaking if not answer.closed]

    def _end(self, answer: Answer, events: list[Event], event: Event) -> None:
        answer.closed = True
        self._known.pop(answer.request_id, None)
        events.append(event)

    def _close(self) -> None:
        with self._wake:
            left = list(self._known.values())
            self._known.clear()
            self._line.clear()
        self._speaking, self._delayed, self._active = [], [], 0
        interrupted: list[Event] = [
            Failed(
                answer.request_id,
                "worker_error",
                "The model was interrupted",
                answer.units,
                retryable=True,
            )
            for answer in left
        ]
        if interrupted:
            self._emit(interrupted)


def _words(count: int) -> list[str]:
    if count <= len(WORDS):
        return WORDS[:count]
    return WORDS + [f"w{index} " for index in range(len(WORDS), count)]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _echo_answer(request_id: str, request: dict[str, Any]) -> Answer:
    fault = next((name for name in ("crash", "hang", "error") if request.get(name)), None)
    result = request.get("result")
    return Answer(
        request_id,
        words=[],
        delay_s=float(request.get("duration_ms", 0)) / 1000,
        fault=fault,
        error=str(request.get("error") or "worker_error"),
        retryable=bool(request.get("retryable")),
        billed=int(request.get("units") or 0),
        result=result if result is None or isinstance(result, dict) else {"value": result},
    )
