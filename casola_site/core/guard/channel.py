"""One client connection, speaking HTTP/1."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING
from uuid import uuid4

from twisted.internet import tcp
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import http

from casola_site.core.guard.request import GuardedRequest
from casola_site.core.guard.rules import Draining, decoded_path, refusal, response_head

if TYPE_CHECKING:
    from casola_site.core.guard.factory import GuardedHTTPFactory
    from casola_site.core.guard.websocket import GuardedWebSocket

logger = logging.getLogger("casola.web")


class GuardedChannel(http.HTTPChannel):
    """One client connection, speaking HTTP/1."""

    requestFactory = GuardedRequest
    factory: GuardedHTTPFactory

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
        path = decoded_path(self._path)
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
        headers, body = refusal(decoded_path(uri), status, request_id)
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
