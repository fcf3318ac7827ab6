"""Which of a Plan's two budgets a request draws on, and the answer's headers (pure).

And how many requests of an Organization may be in flight.
"""

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


def window_key(organization_id: str, rate_class: RateClass) -> str:
    """Where Redis keeps what was admitted within the last minute."""
    return f"casola:rate:{organization_id}:{rate_class}"


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


@dataclass(frozen=True, slots=True)
class Caps:
    """How many requests of an Organization may be in flight, streams among them, and in line.

    None means no limit. `plan` is the Plan's name, for messages.
    """

    running: int | None
    streams: int | None
    waiting: int | None
    plan: str

    def share(self, processes: int) -> Caps:
        """What one of so many processes may grant by itself; at least one of what is not zero."""

        def part(cap: int | None) -> int | None:
            return cap if cap is None else min(cap, max(1, cap // processes))

        return Caps(part(self.running), part(self.streams), part(self.waiting), self.plan)


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
