"""The server: it listens on inherited sockets, watches every connection, drains."""

# Daphne's server must come first: it installs the asyncio reactor.
from daphne.server import Server, reactor  # isort: skip

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from twisted.internet import tcp
from twisted.logger import globalLogBeginner

from casola_site.core.guard.factory import GuardedHTTPFactory
from casola_site.core.guard.rules import Draining, GuardConfig, Message
from casola_site.core.guard.websocket import GuardedWebSocket, GuardedWebSocketFactory

logger = logging.getLogger("casola.web")

_GOING_AWAY = 1001


def _log_failure(event: dict[str, Any]) -> None:
    """Pass on what Twisted caught; everything else it says is left out."""
    failure = event.get("log_failure")
    if failure is not None:
        logger.error("Exception inside the server: %s", failure.getTraceback())


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
    ) -> asyncio.Queue[Message]:
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

    def _socket_app_done(self, protocol: GuardedWebSocket, task: asyncio.Task[None]) -> None:
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
