"""The guard in front of Daphne: it refuses early, holds back, and ends cleanly.

Daphne reads a whole body before any view runs, writes without looking whether the client reads,
answers its own errors in HTML and a crashed app only on a one-second timer. The classes here keep
Daphne's wiring (Twisted, the asyncio reactor, Autobahn) and replace those parts:

- ``GuardedChannel``: one connection. Judges the headers before the body, closes what is half sent
  or never read.
- ``GuardedRequest``: one HTTP request. Its ASGI ``send`` waits while the client does not read, its
  ``receive`` reads the body piece by piece.
- ``GuardedWebSocket``: one WebSocket, with a frame cap and the same waiting.
- ``GuardedServer``: listens on an inherited socket, watches all of them once a second, drains.

Per-connection timers are replaced by that one watch, and small answers are sent without a turn
through the event loop, which makes a guarded request cheaper than a bare Daphne one.
"""

# Daphne's server must come first: it installs the asyncio reactor.
from daphne.server import Server, reactor  # isort: skip

import asyncio
import ipaddress
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from io import BytesIO
from tempfile import SpooledTemporaryFile
from time import monotonic
from typing import IO, Any
from urllib.parse import unquote
from uuid import uuid4

from autobahn.twisted.websocket import ConnectionDeny
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from twisted.internet import tcp
from twisted.internet.interfaces import IAddress
from twisted.logger import globalLogBeginner
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import http

from casola_site.core.guard_rules import (
    Draining,
    GuardConfig,
    Headers,
    draining,
    envelope,
    refusal,
    response_head,
)

__all__ = ["ClientGone", "GuardConfig", "GuardedServer", "draining", "envelope"]

logger = logging.getLogger("casola.web")

Message = MutableMapping[str, Any]

_READ_SIZE = 64 * 1024
_SPOOL_IN_MEMORY = 256 * 1024
_WS_QUEUE_HIGH = 64
_WS_QUEUE_LOW = 16
_GOING_AWAY = 1001
_BAD_VALUE_BYTES = b"\x0b\x0c\x1c\x1d\x1e\x85"
_NOT_FOR_APPS = frozenset({b"daphne-root-path"})
_HOP_HEADERS = frozenset({b"transfer-encoding", b"connection"})


class ClientGone(asyncio.CancelledError):
    """Raised by ``send`` where a stream goes on although its client has left.

    A cancellation, not an error: Django closes the response on it, ``finally`` blocks run, and no
    ``except Exception`` takes it for a fault of the server.
    """


def _log_failure(event: dict[str, Any]) -> None:
    """Pass on what Twisted caught; everything else it says is left out."""
    failure = event.get("log_failure")
    if failure is not None:
        logger.error("Exception inside the server: %s", failure.getTraceback())


def _decoded_path(uri: bytes) -> str:
    return unquote(uri.split(b"?", 1)[0].decode("latin-1"))


class GuardedRequest(WebRequest):
    """One HTTP request between a channel and the ASGI app."""

    def __init__(self, channel: "GuardedChannel", queued: object = False) -> None:
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
        headers, body = refusal(_decoded_path(self.path), status, self.request_id)
        self._status, self._reply_headers, self.chunked = status, headers, 0
        self._write_body(body, more=False)

    # Ending

    def _app_done(self, task: "asyncio.Task[None]") -> None:
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


class GuardedChannel(http.HTTPChannel):
    """One client connection, speaking HTTP/1."""

    requestFactory = GuardedRequest
    factory: "GuardedHTTPFactory"

    def __init__(self) -> None:
        """Start unconnected."""
        super().__init__()
        self.refused = False
        self.waiting = False
        self.websocket: GuardedWebSocket | None = None
        self.address = ""
        self.deadline = 0.0
        self.body_deadline = 0.0
        self._in_request = False
        self._closing = False
        self._discarded = 0
        self._stalled_at = 0.0
        self._stalled_with = 0
        self._waiters: list[asyncio.Future[None]] = []

    # Connection

    def connectionMade(self) -> None:
        """Count the connection; refuse it where its address has too many."""
        config = self.factory.server.config
        transport = self.transport
        transport.setTcpNoDelay(True)
        self._networkProducer = transport
        transport.registerProducer(self, True)
        self._direct = type(transport) is tcp.Server
        self.MAX_LENGTH = config.max_header_line
        self.totalHeadersSize = config.max_header_bytes
        self.maxHeaders = config.max_headers
        self.deadline = monotonic() + config.request_seconds
        if not self.factory.admit(self):
            self.refuse(429)

    def connectionLost(self, reason: Failure) -> None:
        """Forget the connection and tell its request."""
        self.forget()
        super().connectionLost(reason)

    def forget(self) -> None:
        """Take the connection out of the books and wake what waits for it."""
        self.factory.release(self)
        self._wake()

    def busy(self) -> bool:
        """Return whether a drain has to wait for this connection."""
        if self.refused or self.websocket is not None:
            return False
        return self._in_request or self._handlingRequest or self.unsent() > 0

    def close(self) -> None:
        """Close after what is already written, however slowly the client takes it."""
        if not self._closing:
            self._closing = True
            self._mark_stall()
            self.loseConnection()

    # Reading

    def dataReceived(self, data: bytes) -> None:
        """Feed the parser; the clock of a request starts with its first byte."""
        if not self._in_request and not self._handlingRequest:
            self._in_request = True
            self.deadline = monotonic() + self.factory.server.config.request_seconds
        LineReceiver.dataReceived(self, data)

    def lineReceived(self, line: bytes) -> None:
        """Refuse headers that are too large as a whole."""
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self.refuse(431)
            return
        super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a request line or header that is too long."""
        self.refuse(431)

    def headerReceived(self, line: bytes) -> bool:
        """Refuse too many headers."""
        if self.refused:
            return False
        if self._receivedHeaderCount >= self.maxHeaders:
            self.refuse(431)
            return False
        return super().headerReceived(line)

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        # More digits than Python converts would be an exception in the parser.
        if header == b"Content-Length" and data.isdigit() and len(data) > 18:
            self.length = None
            self.refuse(413)
            return False
        return super()._maybeChooseTransferDecoder(header, data)

    def allHeadersReceived(self) -> None:
        """Judge the request before its body is read."""
        if self.refused:
            return
        request = self.requests[-1]
        self.persistent = self.checkPersistence(request, self._version)
        if self.length == 0:
            return
        status = self._judge(request)
        if status:
            self.refuse(status)
            return
        request.gotLength(self.length)
        config = self.factory.server.config
        now = monotonic()
        size = request.cap if self.length is None else self.length
        self.body_deadline = now + config.request_seconds + size / config.min_body_rate
        self.deadline = now + config.request_seconds
        expect = request.requestHeaders.getRawHeaders(b"Expect")
        if expect and expect[0].lower() == b"100-continue" and self._version == b"HTTP/1.1":
            self._send100Continue()

    def _judge(self, request: GuardedRequest) -> int:
        """Return the status to refuse a request with a body, or 0."""
        config = self.factory.server.config
        path = _decoded_path(self._path)
        if not config.is_known(path):
            return 404
        if not config.public(path, self._command.decode()):
            values = request.requestHeaders.getRawHeaders(b"Authorization")
            check = config.plausible_credential
            if not values or not values[0] or (check is not None and not check(values[0])):
                return 401
        request.cap = config.body_caps(path)
        return 413 if self.length is not None and self.length > request.cap else 0

    def allContentReceived(self) -> None:
        """Start the request; from here on no clock of the connection runs."""
        if self.refused:
            return
        self._in_request = False
        self.deadline = 0.0
        super().allContentReceived()

    def requestDone(self, request: GuardedRequest) -> None:
        """Go on to the next request, unless the client does not read the answers."""
        if self.waiting and self._dataBuffer:
            self.persistent = 0
        if Draining.value and not self._dataBuffer:
            self.persistent = 0
        self.deadline = monotonic() + self.factory.server.config.request_seconds
        if not self.persistent:
            self._closing = True
            self._mark_stall()
        super().requestDone(request)
        if self.waiting and not self._closing:
            self.transport.pauseProducing()

    # Refusing

    def refuse(self, status: int) -> None:
        """Answer with the envelope, throw the rest of the request away, close."""
        if self.refused:
            return
        self.refused = True
        uri = getattr(self, "_path", b"/")
        request_id = self.requests[-1].request_id if self.requests else uuid4().hex
        headers, body = refusal(_decoded_path(uri), status, request_id)
        transport = self.transport
        transport.unregisterProducer()
        transport.write(response_head(b"HTTP/1.1", status, headers, close=True) + body)
        transport.loseWriteConnection()
        for request in self.requests:
            request.release_body()
        self.requests = []
        self._buffer = b""
        self._in_request = False
        self.deadline = monotonic() + self.factory.server.config.linger_seconds
        self.dataReceived = self._discard  # type: ignore[method-assign]

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(400)

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > self.factory.server.config.linger_bytes:
            self.transport.abortConnection()

    # Writing

    def write(self, data: bytes) -> None:
        """Send at once what the socket takes, hand the rest to the transport."""
        transport = self.transport
        if (
            self._direct
            and not transport._tempDataLen
            and not transport.dataBuffer
            and transport.connected
            and not transport.disconnecting
        ):
            try:
                sent = transport.socket.send(data)
            except OSError:
                # Full or broken: the transport finds out which.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        transport.write(data)

    def unsent(self) -> int:
        """Return the bytes that wait in this process for the client to read."""
        transport = self.transport
        return len(transport.dataBuffer) - transport.offset + transport._tempDataLen

    def pauseProducing(self) -> None:
        """Hold the app: the send buffer is full."""
        if not self.waiting:
            self.waiting = True
            self._mark_stall()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Let the app go on: the send buffer is empty."""
        self.waiting = False
        self._stalled_at = 0.0
        self._wake()
        super().resumeProducing()

    async def drained(self) -> None:
        """Wait until the send buffer is empty or the client has left."""
        waiter = self.factory.server.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _mark_stall(self) -> None:
        self._stalled_at = monotonic()
        self._stalled_with = self.unsent()

    # The watch

    def check(self, now: float) -> None:
        """End what takes too long; called by the server about once a second."""
        if self.deadline and now > self.deadline and not self._closing:
            self._expire()
        elif self._stalled_at:
            self._check_stall(now)
        elif self._handlingRequest and self.requests:
            request = self.requests[0]
            limit = self.factory.server.config.response_seconds
            waits = request.task is not None and not request.startedWriting
            if waits and now - request.started_at > limit:
                request.expire()

    def _expire(self) -> None:
        if self.refused:
            self.transport.abortConnection()
        elif self._in_request:
            self.refuse(408)
        else:
            self.close()

    def _check_stall(self, now: float) -> None:
        config = self.factory.server.config
        if now - self._stalled_at <= config.unsent_seconds:
            return
        left = self.unsent()
        if self._stalled_with - left >= config.unsent_limit:
            self._stalled_at, self._stalled_with = now, left
        else:
            logger.info("Cut %s: it does not read its answer", self.address)
            self.transport.abortConnection()


class GuardedHTTPFactory(HTTPFactory):
    """Builds channels and keeps the books of open connections."""

    protocol = GuardedChannel
    server: "GuardedServer"

    def __init__(self, server: "GuardedServer") -> None:
        """Build channels for ``server``."""
        http.HTTPFactory.__init__(self, timeout=None)
        self.server = server
        self.channels: set[GuardedChannel] = set()
        self.per_address: Counter[str] = Counter()

    def buildProtocol(self, addr: IAddress) -> GuardedChannel:
        """Return a channel for a new connection."""
        channel = GuardedChannel()
        channel.factory = self
        return channel

    def log(self, request: http.Request) -> None:
        """Do nothing: no access log."""

    def admit(self, channel: GuardedChannel) -> bool:
        """Count a connection; return whether its address may have it."""
        host = channel.transport.getPeer().host
        if ":" in host:
            host = str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
        channel.address = host
        self.channels.add(channel)
        self.per_address[host] += 1
        return self.per_address[host] <= self.server.config.max_connections_per_ip

    def release(self, channel: GuardedChannel) -> None:
        """Forget a connection, once."""
        if channel in self.channels:
            self.channels.discard(channel)
            self.per_address[channel.address] -= 1
            if not self.per_address[channel.address]:
                del self.per_address[channel.address]


class GuardedWebSocket(WebSocketProtocol):
    """One WebSocket: Daphne's, with envelopes, both back-pressures and a cap on frames."""

    link: GuardedChannel
    request_id: str
    _paused_reading = False

    def sendHttpErrorResponse(
        self, code: int, reason: str, responseHeaders: list[tuple[str, str]] | None = None
    ) -> None:
        """Refuse the handshake with the envelope."""
        uri = getattr(self, "http_request_uri", "/").encode()
        headers, body = refusal(_decoded_path(uri), code, self.request_id)
        extra = [(k.encode(), v.encode()) for k, v in responseHeaders or ()]
        self.sendData(response_head(b"HTTP/1.1", code, headers + extra, close=True) + body)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Queue a message for the app; stop reading where the app does not keep up."""
        super().onMessage(payload, isBinary)
        queue = getattr(self, "application_queue", None)
        if queue is not None and queue.qsize() > _WS_QUEUE_HIGH and not self._paused_reading:
            self._paused_reading = True
            self.transport.pauseProducing()

    async def receive(self, queue: "asyncio.Queue[Message]") -> Message:
        """ASGI receive."""
        message = await queue.get()
        if self._paused_reading and queue.qsize() < _WS_QUEUE_LOW:
            self._paused_reading = False
            self.transport.resumeProducing()
        return message

    async def send(self, message: Message) -> None:
        """ASGI send: waits while the client does not read."""
        if "disconnected" in self.server.connections.get(self, {"disconnected": 0}):
            return
        self.handle_reply(message)
        if self.link.waiting:
            await self.link.drained()

    def serverAccept(self, subprotocol: str | None = None) -> None:
        """Accept, and name the request in the answer."""
        self.handshake_deferred.callback((subprotocol, {"x-request-id": self.request_id}))
        del self.handshake_deferred

    def serverClose(self, code: int | None = None) -> None:
        """Close with any code that the protocol knows, not only an application's own."""
        code = 1000 if code is None else code
        if code == 1000 or code >= 3000:
            self.sendClose(code=code)
        elif self.state == self.STATE_OPEN:
            self.sendCloseFrame(code=code)

    def end(self, code: int) -> None:
        """End the socket, whatever state it is in."""
        if self.state == self.STATE_OPEN:
            self.serverClose(code)
        elif hasattr(self, "handshake_deferred"):
            status = ConnectionDeny.INTERNAL_SERVER_ERROR if code == 1011 else 503
            deferred = self.handshake_deferred
            del self.handshake_deferred
            deferred.errback(ConnectionDeny(code=status, reason=""))

    def handle_exception(self, exception: BaseException) -> None:
        """End the socket of an app that crashed."""
        self.end(1011)

    def connectionLost(self, reason: Failure) -> None:
        """Forget the connection under the socket."""
        self.link.forget()
        super().connectionLost(reason)


class GuardedWebSocketFactory(WebSocketFactory):
    """Builds guarded WebSockets."""

    protocol = GuardedWebSocket


class _FairPort(tcp.Port):
    """Accepts one connection a turn, so that processes on one socket share a burst."""

    @property
    def numberAccepts(self) -> int:
        """Always 1; Twisted raises its own with the traffic."""
        return 1

    @numberAccepts.setter
    def numberAccepts(self, value: int) -> None:
        """Keep 1."""


class GuardedServer(Server):
    """Daphne's server on inherited listening sockets, behind the guard."""

    def __init__(
        self,
        application: Callable[..., Awaitable[None]],
        config: GuardConfig,
        *,
        sockets: list[socket.socket],
        ready_callable: Callable[[], None] | None = None,
    ) -> None:
        """Serve ``application`` on ``sockets``, which already listen."""
        super().__init__(
            application,
            endpoints=["inherited"],
            ready_callable=ready_callable,
            server_name="",
            websocket_max_message_size=config.ws_frame_bytes,
            websocket_max_frame_size=config.ws_frame_bytes,
            application_close_timeout=config.close_seconds,
        )
        self.config = config
        self.sockets = sockets
        self.ports: list[tcp.Port] = []
        self.connections: dict[Any, dict[str, Any]] = {}
        self.running: set[asyncio.Task[None]] = set()
        self.orphans: dict[asyncio.Task[None], float] = {}
        self.spooled = 0
        self.loop: asyncio.AbstractEventLoop = reactor._asyncioEventloop
        self._drain_until = 0.0
        self._drain_stage = 0

    @property
    def draining(self) -> bool:
        """Whether the server has been told to stop."""
        return Draining.value

    def run(self) -> None:
        """Serve until a signal ends it; returns after the drain."""
        config = self.config
        self.http_factory = GuardedHTTPFactory(self)
        self.ws_factory = GuardedWebSocketFactory(self, server="")
        self.ws_factory.setProtocolOptions(
            autoPingTimeout=self.ping_timeout,
            allowNullOrigin=True,
            openHandshakeTimeout=self.websocket_handshake_timeout,
            maxMessagePayloadSize=config.ws_frame_bytes,
            maxFramePayloadSize=config.ws_frame_bytes,
            failByDrop=False,
        )
        globalLogBeginner.beginLoggingTo(
            [_log_failure], redirectStandardIO=False, discardBuffer=True
        )
        asyncio.set_event_loop(self.loop)
        for each in self.sockets:
            each.setblocking(False)
            port = _FairPort._fromListeningDescriptor(
                reactor, each.fileno(), each.family, self.http_factory
            )
            port.startListening()
            self.ports.append(port)
            each.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._on_signal)
        limits = (config.request_seconds, config.unsent_seconds, config.response_seconds)
        self._watch_every = max(0.05, min(1.0, *(limit / 4 for limit in limits)))
        self.loop.call_later(self._watch_every, self._watch)
        reactor.callLater(2, self.timeout_checker)
        if self.ready_callable:
            self.loop.call_soon(self.ready_callable)
        reactor.run(installSignalHandlers=False)

    # WebSocket applications (HTTP requests keep their own)

    def create_application(
        self, protocol: GuardedWebSocket, scope: dict[str, Any]
    ) -> "asyncio.Queue[Message]":
        """Start the app of a WebSocket and return its queue of messages."""
        queue: asyncio.Queue[Message] = asyncio.Queue()
        scope["asgi"] = {"version": "3.0"}
        scope["request_id"] = protocol.request_id

        def receive() -> Awaitable[Message]:
            return protocol.receive(queue)

        task = self.loop.create_task(self.application(scope, receive, protocol.send))
        self.running.add(task)
        self.connections[protocol]["application_instance"] = task
        task.add_done_callback(lambda done: self._socket_app_done(protocol, done))
        return queue

    def _socket_app_done(self, protocol: GuardedWebSocket, task: "asyncio.Task[None]") -> None:
        self.running.discard(task)
        self.orphans.pop(task, None)
        details = self.connections.get(protocol, {"disconnected": 0})
        details.pop("application_instance", None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error(
                "Unhandled exception in a socket, request %s", protocol.request_id, exc_info=error
            )
        if "disconnected" in details:
            self.connections.pop(protocol, None)
        else:
            protocol.end(1011 if error else _GOING_AWAY if Draining.value else 1000)

    def protocol_disconnected(self, protocol: GuardedWebSocket) -> None:
        """Let the app of a closed socket go on for ``close_seconds``."""
        details = self.connections.get(protocol)
        if details is None or "disconnected" in details:
            return
        details["disconnected"] = monotonic()
        task = details.get("application_instance")
        if task is None:
            del self.connections[protocol]
        else:
            self.orphans[task] = monotonic() + self.config.close_seconds

    # The watch

    def _watch(self) -> None:
        self.loop.call_later(self._watch_every, self._watch)
        now = monotonic()
        for channel in list(self.http_factory.channels):
            channel.check(now)
        for task, deadline in list(self.orphans.items()):
            if now > deadline:
                logger.warning("An app went on after its client had left and is cancelled")
                del self.orphans[task]
                task.cancel()

    # The drain

    def _on_signal(self) -> None:
        if Draining.value:
            os._exit(1)
        self.drain()

    def drain(self) -> None:
        """Stop accepting, let open requests go on for ``drain_seconds``, then end them."""
        Draining.value = True
        self._drain_until = monotonic() + self.config.drain_seconds
        for port in self.ports:
            port.stopListening()
        for channel in list(self.http_factory.channels):
            if not channel.busy() and channel.websocket is None and not channel.refused:
                channel.close()
        for protocol in list(self.connections):
            protocol.end(_GOING_AWAY)
        self._drain_step()

    def _drain_step(self) -> None:
        """Go from waiting (0) over cancelled (1) to stopped."""
        busy = self.running or any(channel.busy() for channel in self.http_factory.channels)
        late = monotonic() > self._drain_until
        if not busy or (late and self._drain_stage == 1):
            reactor.stop()
            return
        if late:
            self._drain_stage = 1
            self._drain_until = monotonic() + self.config.drain_grace_seconds
            for task in list(self.running):
                task.cancel()
        self.loop.call_later(0.05, self._drain_step)
