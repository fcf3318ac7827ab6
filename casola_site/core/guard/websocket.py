"""One WebSocket between a connection and the ASGI app."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from autobahn.twisted.websocket import ConnectionDeny
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from twisted.python.failure import Failure

from casola_site.core.guard.rules import Message, decoded_path, refusal, response_head

if TYPE_CHECKING:
    from casola_site.core.guard.channel import GuardedChannel

_QUEUE_HIGH = 64
_QUEUE_LOW = 16


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
        headers, body = refusal(decoded_path(uri), code, self.request_id)
        extra = [(k.encode(), v.encode()) for k, v in responseHeaders or ()]
        self.sendData(response_head(b"HTTP/1.1", code, headers + extra, close=True) + body)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Queue a message for the app; stop reading where the app does not keep up."""
        super().onMessage(payload, isBinary)
        queue = getattr(self, "application_queue", None)
        if queue is not None and queue.qsize() > _QUEUE_HIGH and not self._paused_reading:
            self._paused_reading = True
            self.transport.pauseProducing()

    async def receive(self, queue: asyncio.Queue[Message]) -> Message:
        """ASGI receive."""
        message = await queue.get()
        if self._paused_reading and queue.qsize() < _QUEUE_LOW:
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
