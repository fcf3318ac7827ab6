"""A WebSocket client as small as the tests need it."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from typing import Any
from urllib.parse import urlsplit

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Refused(Exception):
    """The handshake was answered with another status."""


class WebSocket:
    """One connection; a context manager."""

    def __init__(self, url: str, *, timeout: float = 30, **headers: str) -> None:
        parts = urlsplit(url)
        self.code: int | None = None
        self.sock = socket.create_connection((parts.hostname, parts.port), timeout=timeout)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        self.stream = self.sock.makefile("rb")
        status = int(self.stream.readline().split()[1])
        while self.stream.readline().strip():
            pass
        if status != 101:
            self.close()
            raise Refused(status)

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Cut the line."""
        self.stream.close()
        self.sock.close()

    def send(self, body: Any, *, kind: int = TEXT) -> None:
        """A message, as JSON unless it is bytes."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 65_536:
            length = b"\xfe" + struct.pack(">H", size)
        else:
            length = b"\xff" + struct.pack(">Q", size)
        self.sock.sendall(bytes([0x80 | kind]) + length + b"\0\0\0\0" + payload)

    def receive(self) -> dict[str, Any] | None:
        """The next message, None once the other end has closed; then `code` says why."""
        while True:
            head = self.stream.read(2)
            if len(head) < 2:
                return None
            kind, size = head[0] & 15, head[1]
            if size == 126:
                (size,) = struct.unpack(">H", self.stream.read(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self.stream.read(8))
            payload = self.stream.read(size)
            if kind == PING:
                self.send(payload, kind=PONG)
            elif kind == CLOSE:
                (self.code,) = struct.unpack(">H", payload[:2])
                return None
            else:
                return json.loads(payload)

    def messages(self) -> list[dict[str, Any]]:
        """All that come until the other end closes."""
        found = []
        while (message := self.receive()) is not None:
            found.append(message)
        return found
