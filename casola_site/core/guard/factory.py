"""The open connections, counted by address."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING

from daphne.http_protocol import HTTPFactory
from twisted.internet.interfaces import IAddress
from twisted.web import http

from casola_site.core.guard.channel import GuardedChannel

if TYPE_CHECKING:
    from casola_site.core.guard.server import GuardedServer


class GuardedHTTPFactory(HTTPFactory):
    """Builds channels and keeps the books of open connections."""

    protocol = GuardedChannel
    server: GuardedServer

    def __init__(self, server: GuardedServer) -> None:
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
