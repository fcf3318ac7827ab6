"""One request under way in a Runner's process: what came in, how far it is, what it ends with."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from inference import frames
from inference.contracts import chat
from inference.contracts.answers import Choices, part_size
from inference.contracts.surfaces import MEDIA_TASKS, STORED_TASKS, TEXT_TASKS, WHOLE_TASKS
from inference.runners import base
from jobs.enums import JobStatus
from jobs.link import Frame
from jobs.services import Outcome

if TYPE_CHECKING:
    from inference.delivery import Delivery

MAX_DONE = 20_000
MAX_FINALS = 500
FEW_CHOICES = 8
# Cancelled by us, not by the caller: the error on the Job.
OUR_FAULT = {
    frames.TIMEOUT: ("timeout", "The request did not finish in time"),
    frames.LOST: ("service_unavailable", "The answer could not be delivered"),
}


@dataclass(slots=True)
class Work:
    """One request in this process, from either lane."""

    job_id: str
    task: str
    request: dict[str, Any]
    organization_id: int
    token_id: int | None
    user_id: int | None
    salt: str
    model_id: str
    created_at: datetime
    reply: str | None = None
    attempt: int = 1
    streams: bool = False
    is_claimed: bool = False
    is_suspect: bool = False
    arrived: float = field(default_factory=time.monotonic)
    submitted: float | None = None
    started: float | None = None
    started_at: datetime | None = None
    first_output_at: datetime | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    offset: int = 0
    answer: Choices = field(default_factory=Choices)
    """What is not sent as it comes."""
    cancelled: str | None = None
    cancelled_at: float | None = None
    is_ended: bool = False
    loaded: dict[str, Any] | None = None
    """The engine's input, once its images are here."""
    value: dict[str, Any] | None = None
    """What the engine gives at the end, of Tasks without deltas; not of a claimed Job."""
    used: base.Units | None = None
    """All units so far, where the engine tells them."""
    progress: tuple[float, str] | None = None
    """How far it is (0 to 1) and in what, where the engine tells."""
    delivery: Delivery | None = None
    """Its bytes, where the answer is no text."""

    @classmethod
    def asked(
        cls, job_id: str, attempt: int, request: dict[str, Any], *, sender: str, model_id: str
    ) -> Work:
        """An interactive request, as its frame tells it."""
        organization_id, token_id, user_id, salt = request["who"]
        return cls(
            job_id=job_id,
            task=request["task"],
            request=request["input"],
            organization_id=organization_id,
            token_id=token_id,
            user_id=user_id,
            salt=salt,
            model_id=model_id,
            created_at=datetime.fromtimestamp(
                request["created_at"], tz=timezone.get_default_timezone()
            ),
            reply=sender,
            attempt=attempt,
            streams=request["stream"],
        )

    @property
    def is_open(self) -> bool:
        """Whether anything is left to be done or to be sent."""
        return not self.is_ended or self.delivery is not None

    @property
    def stores_files(self) -> bool:
        """Whether what it makes goes into storage, and its answer tells where."""
        return self.is_claimed or self.task in STORED_TASKS

    def units(self) -> dict[str, int]:
        """What it has produced so far."""
        if self.used is not None:
            return {unit: count for unit, count in asdict(self.used).items() if count}
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}

    def takes_preparing(self) -> bool:
        """Whether more than tokenising its text comes first: a grammar, tools, pictures, choices."""
        request = self.request
        if chat.choice_count(request) > FEW_CHOICES:
            return True
        if request.get("response_format") or request.get("structured_outputs"):
            return True
        return bool(request.get("tools")) or _has_pictures(request.get("messages"))

    def size(self) -> int:
        """Characters of its messages, or of what else it holds."""
        messages = self.request.get("messages")
        if isinstance(messages, list) and messages:
            return sum(_characters(message.get("content")) for message in messages)
        return len(str(self.request))

    def contract(self) -> dict[str, Any]:
        """The engine's input. A claimed Job holds the surface's own body instead."""
        surface = (
            TEXT_TASKS.get(self.task) or MEDIA_TASKS.get(self.task) or WHOLE_TASKS.get(self.task)
        )
        if surface is None or not self.is_claimed:
            return self.request
        return surface.from_body(self.request).as_dict()

    def expect(self, contract: dict[str, Any]) -> None:
        """Make room for the choices this contract asks for."""
        if self.task in TEXT_TASKS:
            self.answer = Choices(chat.choice_count(contract))

    def say(self, event: base.Delta) -> Frame | None:
        """Take the next piece of the answer; the frame to send if it is streamed."""
        is_streamed = self.streams and self.reply is not None
        if not (event.text or event.opens or event.logprobs or event.reason):
            return None
        if event.is_plain:
            if not is_streamed:
                self.answer.add_text(event.text)
                return None
            frame = [frames.TEXT, self.job_id, self.attempt, self.offset, event.text]
            self.offset += len(event.text)
            return frame
        if not is_streamed:
            self.answer.add(event.part)
            return None
        part = event.part.as_list()
        frame = [frames.PART, self.job_id, self.attempt, self.offset, part]
        self.offset += part_size(part)
        return frame

    def choices(self, reason: str) -> list[dict[str, Any]]:
        """The surface's own choices of what was not streamed; the others end with `reason`."""
        surface = TEXT_TASKS.get(self.task)
        if surface is None or self.streams:
            return []
        self.answer.finish(reason)
        return surface.choice_bodies(self.answer)

    def result(self, event: base.Ended) -> dict[str, Any]:
        """The answer body of the Task's own surface, for a Job's row."""
        whole, surface = WHOLE_TASKS.get(self.task), TEXT_TASKS.get(self.task)
        if whole is not None and event.result is not None:
            return whole.answer_body(
                job_id=self.job_id,
                created=int(self.created_at.timestamp()),
                model=self.request.get("model") or self.model_id,
                body=self.request,
                result=event.result,
                units=asdict(event.units),
            )
        if event.result is not None or surface is None:
            return event.result or {}
        return surface.completion_body(
            job_id=self.job_id,
            created=int(self.created_at.timestamp()),
            model=self.request.get("model") or self.model_id,
            choices=self.choices(event.reason),
            units=asdict(event.units),
        )

    def outcome(
        self,
        status: JobStatus,
        units: dict[str, int],
        *,
        error: dict[str, Any] | None = None,
        charged: bool = True,
        **runner: Any,
    ) -> Outcome:
        """Its end; `runner` holds the Runner's own columns (queue_id, runner_id, prices)."""
        return Outcome(
            job_id=self.job_id,
            status=status,
            organization_id=self.organization_id,
            token_id=self.token_id,
            user_id=self.user_id,
            model_id=self.model_id,
            task=self.task,
            units=units,
            created_at=self.created_at,
            started_at=self.started_at,
            first_output_at=self.first_output_at,
            attempt=self.attempt if self.is_claimed else None,
            error=error,
            charged=charged,
            **runner,
        )

    def queue_ms(self) -> int:
        """Until it was begun."""
        return round(((self.started or time.monotonic()) - self.arrived) * 1000)

    def model_ms(self) -> int:
        """Since it was begun."""
        now = time.monotonic()
        return round((now - (self.started or now)) * 1000)

    def last_frame(self, outcome: Outcome, state: str) -> Frame | None:
        """The last frame. A refused end (an earlier attempt wrote it) still answers once."""
        if state == "unknown":
            error = {
                "code": "model_unavailable",
                "message": "The service is temporarily unavailable",
            }
            return [frames.ERROR, self.job_id, self.attempt, error]
        if outcome.status == JobStatus.COMPLETED:
            end = {
                "reason": outcome.end_reason,
                "units": outcome.units,
                "choices": self.choices(outcome.end_reason),
                "queue_ms": self.queue_ms(),
                "model_ms": self.model_ms(),
            }
            if self.value is not None:
                end["result"] = self.value
            return [frames.END, self.job_id, self.attempt, self.offset, end]
        if outcome.error is not None:
            told = outcome.error
            if outcome.retry_after is not None:
                told = {**told, "retry_after": outcome.retry_after}
            return [frames.ERROR, self.job_id, self.attempt, told]
        return None


class Memory:
    """Requests that come again are not run again; the latest ones' last words are kept."""

    def __init__(self) -> None:
        self._done: OrderedDict[str, None] = OrderedDict()
        self._finals: OrderedDict[str, Frame] = OrderedDict()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._done

    def add(self, job_id: str) -> None:
        """This Job has ended here."""
        self._done[job_id] = None
        if len(self._done) > MAX_DONE:
            self._done.popitem(last=False)

    def keep(self, final: Frame) -> None:
        """The last frame of a Job."""
        self._finals[final[1]] = final
        if len(self._finals) > MAX_FINALS:
            self._finals.popitem(last=False)

    def final(self, job_id: str, attempt: int) -> Frame | None:
        """The last frame once more, for this attempt."""
        if (final := self._finals.get(job_id)) is None:
            return None
        kind, _, _, *rest = final
        return [kind, job_id, attempt, *rest]


def _characters(content: Any) -> int:
    """Characters of a message's content; of an image those of its address."""
    if isinstance(content, list):
        return sum(len(part.get("text") or part.get("url") or "") for part in content)
    return len(str(content or ""))


def _has_pictures(messages: Any) -> bool:
    contents = [one.get("content") for one in messages] if isinstance(messages, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return any(isinstance(part, dict) and part.get("type") != "text" for part in parts)
