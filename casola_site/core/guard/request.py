"""One HTTP request between a channel and the ASGI app."""

from __future__ import annotations

import asyncio
import logging
from io import BytesIO
from tempfile import SpooledTemporaryFile
from time import monotonic
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote
from uuid import uuid4

from daphne.http_protocol import WebRequest
from twisted.python.failure import Failure
from twisted.web import http

from casola_site.core.guard.rules import (
    Draining,
    Headers,
    Message,
    decoded_path,
    refusal,
    response_head,
)

if TYPE_CHECKING:
    from casola_site.core.guard.channel import GuardedChannel
    from casola_site.core.guard.server import GuardedServer

logger = logging.getLogger("casola.web")

_READ_SIZE = 64 * 1024
_SPOOL_IN_MEMORY = 256 * 1024
_BAD_VALUE_BYTES = b"\x0b\x0c\x1c\x1d\x1e\x85"
_NOT_FOR_APPS = frozenset({b"daphne-root-path"})
_HOP_HEADERS = frozenset({b"transfer-encoding", b"connection"})


class ClientGone(asyncio.CancelledError):
    """Raised by ``send`` where a stream goes on although its client has left.

    A cancellation, not an error: Django closes the response on it, ``finally`` blocks run, and no
    ``except Exception`` takes it for a fault of the server.
    """


class GuardedRequest(WebRequest):
    """One HTTP request between a channel and the ASGI app."""

    def __init__(self, channel: GuardedChannel, queued: object = False) -> None:
        """Start a request that the channel has seen the first line of."""
        http.Request.__init__(self, channel, queued)
        self.server: GuardedServer = channel.factory.server
        self.link = channel
        self.request_id = uuid4().hex
        self.cap = 0
        self.received = 0
        self.started_at = 0.0
        self.task: asyncio.Task[None] | None = None
        self._body_done = False
        self._gone: asyncio.Event | None = None
        self._status = 0
        self._reply_headers: Headers = []
        self._bytes_left: int | None = None

    # Reading

    def gotLength(self, length: int | None) -> None:
        """Prepare for a body: small ones stay in memory."""
        if length is not None and length <= _SPOOL_IN_MEMORY:
            self.content: IO[bytes] | None = BytesIO()
        else:
            self.content = SpooledTemporaryFile(max_size=_SPOOL_IN_MEMORY)  # noqa: SIM115 - closed with the request

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, up to the cap of the route."""
        link = self.link
        if link.refused:
            return
        size = len(data)
        self.received += size
        self.server.spooled += size
        if self.received > self.cap:
            link.refuse(413)
        elif self.server.spooled > self.server.config.spool_budget:
            link.refuse(503)
        else:
            now = monotonic()
            link.deadline = min(now + self.server.config.request_seconds, link.body_deadline)
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Start the app: headers and body are complete."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, self.query_string = path.partition(b"?")
        headers, upgrade = self._clean_headers()
        if headers is None or b"%00" in path or not path.isascii():
            self.answer(400)
        elif upgrade is not None and upgrade.lower() == b"websocket":
            self._become_websocket()
        else:
            self._start(headers)

    def _clean_headers(self) -> tuple[Headers | None, bytes | None]:
        """Return the headers for the app (None if one is invalid) and the Upgrade value."""
        headers: Headers = []
        upgrade = None
        for name, values in self.requestHeaders.getAllRawHeaders():
            if b"_" in name:
                continue
            lower = name.lower()
            if lower in _NOT_FOR_APPS:
                continue
            if lower == b"x-request-id":
                lower = b"x-client-request-id"
            elif lower == b"upgrade":
                upgrade = values[0]
            for value in values:
                if len(value.translate(None, _BAD_VALUE_BYTES)) != len(value):
                    return None, None
                headers.append((lower, value))
        return headers, upgrade

    def _start(self, headers: Headers) -> None:
        server = self.server
        if self.content is not None:
            self.content.seek(0)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": self.clientproto[5:].decode(),
            "method": self.method.decode(),
            "path": unquote(self.path.decode()),
            "raw_path": self.path,
            "root_path": server.root_path,
            "scheme": "http",
            "query_string": self.query_string,
            "headers": headers,
            "client": [self.client.host, self.client.port],
            "server": [self.host.host, self.host.port],
            "request_id": self.request_id,
        }
        self.started_at = monotonic()
        self.task = server.loop.create_task(server.application(scope, self.receive, self.send))
        server.running.add(self.task)
        self.task.add_done_callback(self._app_done)

    async def receive(self) -> Message:
        """ASGI receive: the body piece by piece, then the disconnect."""
        if not self._body_done and not self._disconnected and not self.finished:
            chunk = self.content.read(_READ_SIZE) if self.content is not None else b""
            left = self.received - self.content.tell() if self.content is not None else 0
            self._body_done = left <= 0
            return {"type": "http.request", "body": chunk, "more_body": not self._body_done}
        if not self._disconnected and not self.finished:
            if self._gone is None:
                self._gone = asyncio.Event()
            await self._gone.wait()
        return {"type": "http.disconnect"}

    # Answering

    async def send(self, message: Message) -> None:
        """ASGI send: writes, and waits while the client does not read.

        Raises ClientGone where a stream goes on without a client.
        """
        if not self.finished and not self._disconnected:
            self.handle_reply(message)
            if self.link.waiting and not self.finished:
                await self.link.drained()
        if self._disconnected and message.get("more_body"):
            raise ClientGone

    def handle_reply(self, message: Message) -> None:
        """Take one ASGI message; the head is held until the first piece of body."""
        kind = message["type"]
        if kind == "http.response.start":
            if self._status:
                raise ValueError("HTTP response has already been started")
            self._status = message["status"]
            self._reply_headers = list(message.get("headers", ()))
        elif kind == "http.response.body":
            if not self._status:
                raise ValueError("HTTP response has not yet been started")
            self._write_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise ValueError(f"Cannot handle message type {kind}")

    def _write_body(self, data: bytes, *, more: bool) -> None:
        head = b"" if self.startedWriting else self._begin(len(data), more=more)
        if self._bytes_left is not None:
            if len(data) > self._bytes_left:
                logger.error("Answer to %s is longer than its content-length", self.path)
                data = data[: self._bytes_left]
                self.link.persistent = 0
            self._bytes_left -= len(data)
        if self.method == b"HEAD" or self._status in http.NO_BODY_CODES:
            data = b""
        elif self.chunked:
            if data:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            if not more:
                data += b"0\r\n\r\n"
        if head or data:
            self.link.write(head + data if head else data)
        if not more:
            self._finish()

    def _begin(self, size: int, *, more: bool) -> bytes:
        """Return the head of the answer and choose how its end is marked."""
        headers: Headers = []
        has_id = False
        length: int | None = None
        for name, value in self._reply_headers:
            lower = name.lower()
            if lower in _HOP_HEADERS:
                if lower == b"connection" and value.lower() == b"close":
                    self.link.persistent = 0
                continue
            if lower == b"x-request-id":
                has_id = True
            elif lower == b"content-length":
                length = int(value)
            headers.append((name, value))
        if not has_id:
            headers.append((b"x-request-id", self.request_id.encode()))
        bodyless = self._status in http.NO_BODY_CODES
        if length is None and not bodyless:
            if not more:
                length = size
                headers.append((b"content-length", b"%d" % size))
            elif self.clientproto == b"HTTP/1.1" and self.method != b"HEAD":
                self.chunked = 1
                headers.append((b"transfer-encoding", b"chunked"))
            else:
                self.link.persistent = 0
        if self.method != b"HEAD" and not bodyless:
            self._bytes_left = length
        if Draining.value:
            self.link.persistent = 0
        head = response_head(
            self.clientproto, self._status, headers, close=not self.link.persistent
        )
        self.startedWriting = 1
        return head

    def _finish(self) -> None:
        if self._bytes_left:
            logger.error("Answer to %s is shorter than its content-length", self.path)
            self.link.persistent = 0
        self.finished = 1
        self._wake()
        self.release_body()
        self._cleanup()

    def answer(self, status: int) -> None:
        """Answer with an error of the guard, whatever the app has prepared but not sent."""
        headers, body = refusal(decoded_path(self.path), status, self.request_id)
        self._status, self._reply_headers, self.chunked = status, headers, 0
        self._write_body(body, more=False)

    # Ending

    def _app_done(self, task: asyncio.Task[None]) -> None:
        """Reap the app at once: log its exception, answer or close what it left open."""
        self.task = None
        self.server.running.discard(task)
        self.server.orphans.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error(
                "Unhandled exception, request %s, %s %s",
                self.request_id,
                self.method.decode(),
                self.path.decode(),
                exc_info=error,
            )
        if self.finished or self._disconnected:
            return
        if self.startedWriting:
            self.link.close()
        else:
            self.answer(503 if task.cancelled() and Draining.value else 500)

    def expire(self) -> None:
        """End a request whose app has not started its answer in time."""
        logger.warning("No answer in time, request %s", self.request_id)
        task = self.task
        self.answer(504)
        if task is not None:
            task.cancel()

    def connectionLost(self, reason: Failure) -> None:
        """Tell the app that its client has left; it may go on for ``close_seconds``."""
        self.release_body()
        http.Request.connectionLost(self, reason)
        self._wake()
        if self.task is not None:
            self.server.orphans[self.task] = monotonic() + self.server.config.close_seconds

    def release_body(self) -> None:
        """Give the space of the body back."""
        self.server.spooled -= self.received
        self.received = 0
        self._body_done = True
        if self.content is not None:
            self.content.close()
            self.content = None

    def _wake(self) -> None:
        if self._gone is not None:
            self._gone.set()

    def check_timeouts(self) -> None:
        """Do nothing: the server watches channels."""

    def _become_websocket(self) -> None:
        """Hand the connection to Autobahn, with the request replayed to it."""
        link = self.link
        transport = self.transport
        protocol = self.server.ws_factory.buildProtocol(transport.getPeer())
        protocol.link = link
        protocol.request_id = self.request_id
        protocol._raw_query_string = self.query_string
        self.release_body()
        lines = [self.method + b" " + self.uri + b" HTTP/1.1"]
        for name, values in self.requestHeaders.getAllRawHeaders():
            lower = name.lower()
            if b"_" in name or lower in _NOT_FOR_APPS:
                continue
            if lower == b"x-request-id":
                name = b"X-Client-Request-Id"
            lines.append(name + b": " + b",".join(values))
        # What the client sent early belongs to the socket.
        early = b"".join(link._dataBuffer)
        link._dataBuffer = []
        link.websocket = protocol
        self.transport = None
        transport.protocol = protocol
        protocol.makeConnection(transport)
        protocol.dataReceived(b"\r\n".join(lines) + b"\r\n\r\n" + early)
        transport.resumeProducing()
