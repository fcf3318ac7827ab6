"""Which of a Plan's two budgets a request draws on, and the answer's headers (pure)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

WINDOW_SECONDS = 60.0


class RateClass(StrEnum):
    """The seed's two columns."""

    API_REQUEST = "api_request"
    JOB_SUBMISSION = "job_submission"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request is admitted, and what stands in the headers (seconds until room)."""

    admitted: bool
    limit: int | None
    remaining: int
    reset_seconds: float

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*`; nothing for an unlimited plan."""
        if self.limit is None:
            return {}
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{max(0, round(self.reset_seconds))}s",
        }


UNLIMITED = Decision(admitted=True, limit=None, remaining=0, reset_seconds=0.0)


class LocalWindow:
    """The same sliding window for one process, for the time that Redis is away."""

    def __init__(self) -> None:
        self.admitted: dict[str, deque[float]] = {}

    def admit(self, key: str, limit: int, now: float) -> Decision:
        """Admit unless `limit` were admitted within the last 60 s."""
        times = self.admitted.setdefault(key, deque())
        while times and times[0] < now - WINDOW_SECONDS:
            times.popleft()
        if len(times) >= limit:
            return Decision(False, limit, 0, times[0] + WINDOW_SECONDS - now)
        times.append(now)
        return Decision(True, limit, limit - len(times), times[0] + WINDOW_SECONDS - now)
