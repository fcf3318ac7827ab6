"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# A condition that comes true ends the wait, so patience costs nothing; a loaded machine needs it.
PATIENCE = 5


def patient(seconds: float) -> float:
    """How long to wait; not past the moment at which pytest ends the test."""
    return min(seconds * PATIENCE, max(seconds, 240))


def until(
    condition: Callable[[], Any],
    seconds: float = 10.0,
    what: str | Callable[[], str] = "",
    *,
    every: float = 0.02,
) -> Any:
    """Poll until the condition gives something true and return that.

    Fails after PATIENCE times `seconds`, which is how long it takes on a quiet machine at most.
    """
    seconds = patient(seconds)
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            told = what() if callable(what) else what
            raise AssertionError(f"not within {seconds} s: {told or condition}")
        time.sleep(every)
