"""How long a Runner may take over one request."""

from __future__ import annotations

from django.conf import settings

from inference.contracts import video

LONG_TASKS = video.TASKS
LONG_FACTOR = 6
LONG_GRACE_FACTOR = 12  # nothing is heard while a film's frames are decoded


def start_to_close(task: str) -> int:
    """Seconds from the engine's first look at a request to its end; films take longer than all
    else."""
    return settings.START_TO_CLOSE_SECONDS * (LONG_FACTOR if task in LONG_TASKS else 1)


def cancel_grace(task: str) -> int:
    """Seconds after a cancel in which the engine must let go of a request, or else it hangs."""
    return settings.CANCEL_GRACE_SECONDS * (LONG_GRACE_FACTOR if task in LONG_TASKS else 1)
