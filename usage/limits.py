"""Which of a Plan's two budgets a request draws on, and the answer's headers (pure)."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

WINDOW_SECONDS = 60.0
MAX_WINDOWS = 10_000


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
            "x-ratelimit-reset-requests": f"{max(0, math.ceil(self.reset_seconds))}s",
        }


UNLIMITED = Decision(admitted=True, limit=None, remaining=0, reset_seconds=0.0)


class LocalWindow:
    """The same sliding window for one process, for the time that Redis is away."""

    def __init__(self, seconds: float = WINDOW_SECONDS) -> None:
        self.seconds = seconds
        self.admitted: dict[str, deque[float]] = {}
        self._forgot_at = 0.0
        self._lock = threading.Lock()

    def admit(self, key: str, limit: int, now: float) -> Decision:
        """Admit unless `limit` were admitted within the window's seconds."""
        with self._lock:
            if len(self.admitted) >= MAX_WINDOWS and now > self._forgot_at + 1:
                self._forget(now)
            times = self.admitted.setdefault(key, deque())
            while times and times[0] < now - self.seconds:
                times.popleft()
            admitted = len(times) < limit
            if admitted:
                times.append(now)
            reset = times[0] + self.seconds - now if times else self.seconds
            return Decision(admitted, limit, max(0, limit - len(times)), reset)

    def _forget(self, now: float) -> None:
        over, self._forgot_at = now - self.seconds, now
        self.admitted = {
            key: times for key, times in self.admitted.items() if times and times[-1] >= over
        }
