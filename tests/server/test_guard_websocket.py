"""WebSockets behind the guard, on real sockets."""

import base64
import contextlib
import json
import os
import socket
import struct
import time

import pytest
from guarded_site import Answer, error_of, read_answer, running


def upgrade(site, path: str, headers: str = "") -> tuple[socket.socket, bytes]:
    sock = site.connect()
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
    )
    raw = b""
    while b"\r\n\r\n" not in raw and (chunk := sock.recv(4096)):
        raw += chunk
    return sock, raw


def frame(payload: bytes) -> bytes:
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xff" + struct.pack(">Q", size)
    return b"\x81" + length + b"\0\0\0\0" + payload


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    stream = sock.makefile("rb")
    kind, size = stream.read(2)
    if size == 126:
        (size,) = struct.unpack(">H", stream.read(2))
    return kind & 15, stream.read(size)


def test_a_socket_speaks_and_ignores_spoofed_headers(site):
    sock, head = upgrade(site, "/ws", "Daphne-Root-Path: /evil\r\nX-Request-Id: chosen\r\n")
    with sock:
        assert head.startswith(b"HTTP/1.1 101")
        sock.sendall(frame(b"hi"))
        text, root_path, request_id = json.loads(read_frame(sock)[1])
    assert (text, root_path) == ("hi", "")
    assert f"x-request-id: {request_id}".encode() in head.lower()
    assert len(request_id) == 32


def test_a_socket_frame_over_the_cap_closes_with_1009(site):
    before = site.rss()
    sock, _ = upgrade(site, "/ws")
    with sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(frame(b"x" * 3_000_000))
        kind, payload = read_frame(sock)
    assert (kind, payload[:2]) == (8, struct.pack(">H", 1009))
    assert site.rss() - before < 20


@pytest.mark.parametrize(("path", "status"), [("/ws/no", 403), ("/ws/crash", 500)])
def test_a_refused_socket_gets_the_envelope(site, path, status):
    sock, raw = upgrade(site, path)
    with sock:
        sock.settimeout(1)
        raw += read_answer(sock)
    answer = Answer(raw)
    assert answer.status == status
    error_of(answer)


def test_a_socket_that_nobody_reads_is_cut():
    with running(unsent_seconds=1, close_seconds=0.1) as site:
        before = site.rss()
        sock, _ = upgrade(site, "/ws/flood")
        with sock:
            time.sleep(0.4)
            sent = site.events()["sent"]
            time.sleep(0.2)
            assert site.events()["sent"] == sent
            assert site.rss() - before < 10
            time.sleep(1.4)
            with contextlib.suppress(ConnectionError):
                while sock.recv(1 << 20):
                    pass
