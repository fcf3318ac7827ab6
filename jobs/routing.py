"""Which paths are served by the consumers of Jobs' events."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from jobs.consumers import EventStream, JobSocket

Application = Callable[..., Awaitable[Any]]
STREAM = re.compile(r"/api/jobs/([^/]+)/events")
SOCKET = re.compile(r"/ws/jobs/([^/]+)")


def event_stream(path: str) -> Application | None:
    """The consumer of GET requests to this path, if it is one of a Job's events."""
    found = STREAM.fullmatch(path)
    return None if found is None else EventStream(found[1])


def event_socket(path: str) -> Application | None:
    """The consumer of WebSockets at this path, if there are any."""
    found = SOCKET.fullmatch(path)
    return None if found is None else JobSocket(found[1])
