"""One request under way in a Runner's process: what came in, how far it is, what it ends with."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from inference import frames
from inference.contracts import chat
from inference.runners import base
from jobs.enums import JobStatus
from jobs.link import Frame
from jobs.services import Outcome

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
    text: list[str] = field(default_factory=list)
    cancelled: str | None = None
    cancelled_at: float | None = None
    is_ended: bool = False
    loaded: dict[str, Any] | None = None  # the engine's input, once its images are here

    def units(self) -> dict[str, int]:
        """What it has produced so far."""
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}

    def size(self) -> int:
        """Characters of its messages, or of what else it holds."""
        messages = self.request.get("messages")
        if isinstance(messages, list):
            return sum(len(str(message.get("content", ""))) for message in messages)
        return len(str(self.request))

    def result(self, event: base.Ended) -> dict[str, Any]:
        """The answer body of the Task's own surface, for a Job's row."""
        if event.result is not None or self.task != chat.TASK:
            return event.result or {}
        return chat.completion_body(
            job_id=self.job_id,
            created=int(self.created_at.timestamp()),
            model=self.request.get("model") or self.model_id,
            text="".join(self.text),
            reason=event.reason,
            units=asdict(event.units),
        )

    def last_frame(self, outcome: Outcome, state: str) -> Frame | None:
        """The last frame. A refused end (an earlier attempt wrote it) still answers once."""
        if state == "unknown":
            error = {
                "code": "model_unavailable",
                "message": "The service is temporarily unavailable",
            }
            return [frames.ERROR, self.job_id, self.attempt, error]
        if outcome.status == JobStatus.COMPLETED:
            now = time.monotonic()
            end = {
                "reason": outcome.end_reason,
                "units": outcome.units,
                "text": "".join(self.text),
                "queue_ms": round(((self.started or now) - self.arrived) * 1000),
                "model_ms": round((now - (self.started or now)) * 1000),
            }
            return [frames.END, self.job_id, self.attempt, self.offset, end]
        if outcome.error is not None:
            return [frames.ERROR, self.job_id, self.attempt, outcome.error]
        return None
