"""Which routes are served by a consumer: those whose viewset is Interactive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from django.urls import Resolver404, resolve

from inference.api.consumers import InteractiveConsumer
from inference.api.interactive import Interactive

Application = Callable[..., Awaitable[Any]]
_known: dict[str, Application | None] = {}
KNOWN_LIMIT = 1_000


def interactive_consumer(path: str) -> Application | None:
    """The consumer of the viewset that the URLconf names for this path, if it is Interactive."""
    if path in _known:
        return _known[path]
    try:
        view = getattr(resolve(path).func, "cls", None)
    except Resolver404:
        return None
    is_interactive = view is not None and issubclass(view, Interactive)
    consumer = InteractiveConsumer.as_asgi(view=view) if is_interactive else None
    if len(_known) < KNOWN_LIMIT:
        _known[path] = consumer
    return consumer
