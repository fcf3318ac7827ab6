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
delay) and "!tokens <n>"; "!error <n>" fails after n tokens, "!think" reasons first and
"!call <name> {json}" calls a tool. n, logprobs, stop, prompts and echo are honoured. Requests of the Task `test/echo` are dicts with duration_ms, units
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
from dataclasses import dataclass, field
from typing import Any

from inference.contracts.chat import TASK as CHAT_TASK
from inference.contracts.chat import ChatInput
from inference.contracts.completion import TASK as COMPLETION_TASK
from inference.runners.base import (
    REASONING,
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
from inference.runners.echo_script import Step, choice_steps, interleaved, needs_script

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
    script: list[list[Delta]] = field(default_factory=list)
    """Steps instead of words; `at` is the next one."""
    at: int = 0
    reasoned: int = 0
    breaks_after: int | None = None
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
            reasoning_tokens=self.reasoned,
            compute_ms=spent,
        )


class EchoRunner:
    """See the module's text."""

    tasks = frozenset({CHAT_TASK, COMPLETION_TASK, ECHO_TASK})

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
        if task in (CHAT_TASK, COMPLETION_TASK):
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
        prompts = [_prompt_text(prompt) for prompt in chat.prompts]
        asked = (users or prompts or [""])[-1]
        commands = dict(COMMAND.findall(asked))
        fault = next((name for name in ("crash", "hang", "error") if name in commands), self._fault)
        breaks_after = (
            int(commands["error"]) if fault == "error" and commands.get("error") else None
        )
        slow = commands.get("slow")
        words, reason = self._words_of(chat, asked, commands)
        answer = Answer(
            request_id,
            words,
            prompt_tokens=sum(len(text.split()) for text in [*texts, *prompts]),
            reason=reason,
            delay_s=int(slow) / 1000 if slow else self._delay_s,
            fault=None if breaks_after else fault,
            breaks_after=breaks_after or None,
        )
        if breaks_after or needs_script(chat, asked):
            self._write_script(answer, chat, prompts or [asked], commands)
        return answer

    def _words_of(
        self, chat: ChatInput, asked: str, commands: dict[str, str]
    ) -> tuple[list[str], str]:
        """What it says to `asked`, and why it ends."""
        count = min(int(commands.get("tokens") or self._tokens), MOST_TOKENS)
        words = [f"{word} " for word in asked.split()] if self._mode == "echo" else _words(count)
        if chat.stop:
            text = "".join(words)
            at = min((text.find(stop) for stop in chat.stop if stop in text), default=len(text))
            words = re.findall(r"\S+\s*", text[:at])
        if chat.max_tokens is not None and chat.max_tokens < len(words):
            return words[: chat.max_tokens], "length"
        return words, "stop"

    def _write_script(
        self, answer: Answer, chat: ChatInput, asked: list[str], commands: dict[str, str]
    ) -> None:
        choices = []
        for text in asked:
            words, reason = self._words_of(chat, text, commands)
            lead = [Step(text, is_token=False)] if chat.echo else []
            for _ in range(chat.n):
                steps = choice_steps(chat, text, words, reason, choice=len(choices))
                choices.append([*lead, *steps])
        answer.script = interleaved(answer.request_id, choices)
        reasons = {steps[-1].reason for steps in choices}
        answer.reason = reasons.pop() if len(choices) == 1 else "stop"

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
            elif (answer.words or answer.script) and self._token_s:
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
        if answer.script:
            while not answer.closed:
                self._say_step(answer, events)
            return
        answer.said = len(answer.words) or answer.billed
        if answer.words:
            events.append(Delta(answer.request_id, "".join(answer.words), answer.said))
        ended = Ended(answer.request_id, answer.reason, answer.units, answer.result)
        self._end(answer, events, ended)

    def _say_step(self, answer: Answer, events: list[Event]) -> None:
        """One token of every choice; the last step ends the answer."""
        for delta in answer.script[answer.at]:
            events.append(delta)
            answer.said = delta.completion_tokens
            answer.reasoned += delta.kind == REASONING
        answer.at += 1
        if answer.breaks_after is not None and answer.said >= answer.breaks_after:
            self._act_out(answer, events)
        elif answer.at == len(answer.script):
            self._end(answer, events, Ended(answer.request_id, answer.reason, answer.units))

    def _tick(self, now: float, events: list[Event]) -> None:
        """One token for every row that speaks."""
        # an engine that falls behind loses ticks, it does not hurry afterwards
        self._next_tick = max(self._next_tick + self._token_s, now)
        finished = False
        for answer in self._speaking:
            if answer.script:
                self._say_step(answer, events)
                finished = finished or answer.closed
                continue
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


def _prompt_text(prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else "".join(f"t{token} " for token in prompt)


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
