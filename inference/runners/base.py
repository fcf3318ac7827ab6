"""The contract between a Runner and whoever hosts it. Pure: no Django, no torch.

A Runner owns the weights of one ModelSpec on one device share. `submit` and `cancel` may be called
from any thread and never block on the model; everything a request produces comes back through the
one `emit` callable given to `start`, as lists of events, at most one list per engine step, called
from the engine thread. Each accepted request gets exactly one terminal event (Ended or Failed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Protocol, runtime_checkable

from inference.contracts.answers import ARGUMENTS, CONTENT, REASONING, Part

__all__ = ["ARGUMENTS", "CONTENT", "REASONING"]


@dataclass(frozen=True, slots=True)
class Units:
    """What one request has used so far; the basis of its UsageRecord."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    characters: int = 0
    audio_ms: int = 0
    images: int = 0
    pixels: int = 0
    video_ms: int = 0
    compute_ms: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The request has entered the engine's batch (its prefill begins)."""

    request_id: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A new piece of one choice of the answer (never half a UTF-8 character).

    `completion_tokens` counts all tokens of the request so far. `kind` says what `text` belongs to:
    CONTENT, REASONING or ARGUMENTS of the tool call number `call`, whose id and function name come
    once, in `opens`. `logprobs` are OpenAI's objects, one per token, where they were asked for.
    `reason` ends this choice; a request of a single choice may leave that to Ended.
    """

    request_id: str
    text: str
    completion_tokens: int
    choice: int = 0
    kind: str = CONTENT
    call: int = 0
    opens: tuple[str, str] | None = None
    logprobs: tuple[dict[str, Any], ...] = ()
    reason: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but content of the first choice."""
        extras = self.choice or self.opens or self.logprobs or self.reason
        return self.kind == CONTENT and not extras

    @property
    def part(self) -> Part:
        """What of it goes to the caller."""
        return Part(
            self.text, self.choice, self.kind, self.call, self.opens, self.logprobs, self.reason
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next bytes of an answer that is no text; none where only `units`, all that is used so
    far, are news."""

    request_id: str
    data: bytes
    units: Units


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is (0 to 1), in words as well, and what it has used so far."""

    request_id: str
    fraction: float
    message: str
    units: Units


@dataclass(frozen=True, slots=True)
class Media:
    """A finished file, open at its start; whoever takes it closes it. `about` goes beside its
    address (width, height, duration …)."""

    content: IO[bytes]
    extension: str
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """Terminal. `reason` (stop, length, tool_calls or cancelled) is that of all choices that have
    not ended by themselves; `result` is for runners without deltas, `media` for answers that are
    files and were not sent in Chunks."""

    request_id: str
    reason: str
    units: Units
    result: dict[str, Any] | None = None
    media: tuple[Media, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """Terminal. `retryable` says whether running it again may succeed; no inside is shown.

    `retry_after`: nothing is wrong with it, there was no room for it. A persisted Job then waits at
    least so many seconds and is not counted as failed, a caller is told them.
    """

    request_id: str
    code: str
    message: str
    units: Units = field(default_factory=Units)
    param: str | None = None
    retryable: bool = False
    retry_after: int | None = None


Event = Started | Delta | Chunk | Progress | Ended | Failed
Emit = Callable[[list[Event]], None]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the device: weights, what `slots` requests may hold, and the workspace of a step."""

    weights: int
    cache: int
    workspace: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.cache + self.workspace


@dataclass(frozen=True, slots=True)
class Stats:
    """A Runner's load at this moment; caches and memory in bytes."""

    active: int
    waiting: int
    tokens_per_s: float = 0.0
    cache_used: int = 0
    cache_total: int = 0
    prefix_used: int = 0
    prefix_total: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """What a Runner needs to load: a local folder (or what else the source is) and how to hold it."""

    model_id: str
    path: str
    device: str = "cpu"
    dtype: str = "auto"
    max_context: int | None = None
    slots: int = 32
    memory_budget: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()


class RunnerError(Exception):
    """Base of everything a Runner raises on purpose; `code` goes into the API answer."""

    code = "worker_error"


class LoadError(RunnerError):
    """The weights cannot be loaded; the text says why and is shown to support staff."""

    code = "model_unavailable"


class InvalidInput(RunnerError):
    """The request itself is wrong (HTTP 400)."""

    def __init__(
        self, message: str, *, code: str = "invalid_value", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class Busy(RunnerError):
    """The waiting line is full; try again after `retry_after` seconds (HTTP 503)."""

    code = "model_unavailable"

    def __init__(self, retry_after: int) -> None:
        super().__init__("The model is busy")
        self.retry_after = retry_after


class Runner(Protocol):
    """See the module's text for the threading rules."""

    tasks: frozenset[str]
    takes_images: bool
    """Whether image parts are understood; whoever hosts it then puts their bytes there as `data`,
    and otherwise leaves them to be refused."""

    @classmethod
    def estimate(cls, config: RunnerConfig) -> Memory:
        """Bytes needed, from safetensors headers and config alone. Raises LoadError."""

    def load(self, on_progress: Callable[[float, str], None]) -> Memory:
        """Load and warm up; returns what it really took. Raises LoadError."""

    def describe(self) -> str:
        """In a word, how the model is run (shown to support staff); known after `load`."""

    def on_fatal(self, callback: Callable[[str], None]) -> None:
        """Have `callback` told the reason when the engine gives up: the host should end."""

    def start(self, emit: Emit) -> None:
        """Begin to work; events go to `emit`."""

    def submit(self, request_id: str, task: str, request: dict[str, Any], *, salt: str) -> None:
        """Queue one request (the Task's contract as a dict); `salt` is the organization's id.

        Raises InvalidInput or Busy; nothing is emitted for a request that raised.
        """

    def cancel(self, request_id: str) -> None:
        """Stop at the next step; Ended(reason='cancelled') follows. Unknown ids are ignored."""

    def stats(self) -> Stats:
        """The load now; cheap, any thread."""

    def unload(self) -> None:
        """Stop the engine thread and release the device."""


@runtime_checkable
class Depends(Protocol):
    """A Runner whose model lies elsewhere, where it may be away for a while."""

    def on_away(self, callback: Callable[[str], None]) -> None:
        """Have `callback` told why nothing can be done any more: the host should drain and leave.

        It is started anew then, and `load` fails for as long as the model is away. What was under
        way has failed by the time `callback` returns, or soon will have.
        """
