"""How long a Runner may take over one request."""

from __future__ import annotations

from django.conf import settings

from inference.contracts import video

LONG_TASKS = video.TASKS
LONG_FACTOR = 6


def start_to_close(task: str) -> int:
    """Seconds from the engine's first look at a request to its end; films take longer than all
    else."""
    return settings.START_TO_CLOSE_SECONDS * (LONG_FACTOR if task in LONG_TASKS else 1)
