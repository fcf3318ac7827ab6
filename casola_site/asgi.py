"""ASGI: endpoints that wait go to consumers, everything else to Django on long-lived threads."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import IO, Any

from asgiref.sync import ThreadSensitiveContext

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "casola_site.settings")

import django

django.setup()

from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.http.request import split_domain_port, validate_host  # noqa: E402

from inference.api.routing import interactive_consumer  # noqa: E402
from jobs.routing import event_socket, event_stream  # noqa: E402

THREADS = 8
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class PooledHandler(ASGIHandler):
    """Django on a few threads that live on, so that database connections do too.

    Stock ASGIHandler makes a thread, and with it a connection, for every request.
    """

    def __init__(self) -> None:
        super().__init__()
        self.executors = [
            ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"django-{n}")
            for n in range(THREADS)
        ]
        self.load = [0] * THREADS

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve on the least loaded thread."""
        chosen = self.load.index(min(self.load))
        self.load[chosen] += 1
        try:
            async with ThreadSensitiveContext(executor=self.executors[chosen]):
                await self.handle(scope, receive, send)
        finally:
            self.load[chosen] -= 1

    def create_request(
        self, scope: dict[str, Any], body_file: IO[bytes]
    ) -> tuple[HttpRequest | None, HttpResponse | None]:
        """A chunked body gets the length it has by now: without one, DRF takes it for empty."""
        if not any(name == b"content-length" for name, _ in scope["headers"]):
            length = body_file.seek(0, os.SEEK_END)
            body_file.seek(0)
            if length:
                added = (b"content-length", b"%d" % length)
                scope = {**scope, "headers": [*scope["headers"], added]}
        return super().create_request(scope, body_file)


@lru_cache(maxsize=256)
def is_served(host: bytes) -> bool:
    """Whether ALLOWED_HOSTS holds the host; Django answers the others."""
    domain, _ = split_domain_port(host.decode("latin-1"))
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)


def is_for_us(scope: dict[str, Any]) -> bool:
    """Whether the request names no host but ours."""
    return all(is_served(value) for name, value in scope["headers"] if name == b"host")


class HttpRouter:
    """POST to an interactive endpoint and GET of a Job's events are for their consumers."""

    def __init__(self) -> None:
        self.django = PooledHandler()
        self.consumers = {"POST": interactive_consumer, "GET": event_stream}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Choose by the matched route."""
        find = self.consumers.get(scope["method"])
        consumer = None if find is None else find(scope["path"])
        if consumer is None or not is_for_us(scope):
            consumer = self.django
        await consumer(scope, receive, send)


async def serve_socket(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """A Job's events; no other path has WebSockets."""
    consumer = event_socket(scope["path"]) if is_for_us(scope) else None
    if consumer is not None:
        await consumer(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.close", "code": 4404})


application = ProtocolTypeRouter({"http": HttpRouter(), "websocket": serve_socket})
