"""A guarded server in a process of its own, and raw sockets to talk to it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.waiting import PATIENCE

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE.parent.parent}:{HERE}"}
KEY = "Authorization: Bearer csl_x\r\n"


class Answer:
    """A parsed HTTP answer."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.raw = raw
        self.status = int(first.split(" ")[1]) if first else 0
        pairs = [line.split(": ", 1) for line in lines]
        self.headers = {name.lower(): value for name, value in pairs}
        self.names = [name.lower() for name, _ in pairs]

    def json(self):
        return json.loads(self.body)


class Site:
    """A running server process."""

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process = process
        self.port = port
        self.pid = process.pid

    def connect(self, timeout: float = 5, receive_buffer: int = 0) -> socket.socket:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(timeout)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def send(self, data: bytes, timeout: float = 5) -> Answer:
        """Send raw bytes, read until the server closes (or the answer has its length)."""
        with self.connect(timeout) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
            return Answer(read_answer(sock))

    def request(self, path: str, headers: str = "", body: bytes = b"", method: str = "") -> Answer:
        method = method or ("POST" if body else "GET")
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n"
        return self.send(head.encode() + body)

    def events(self) -> dict:
        return self.request("/events").json()

    def rss(self) -> float:
        """Resident memory in MB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise AssertionError


def read_answer(sock: socket.socket) -> bytes:
    """Read one answer: to its length where it has one, else to the end."""
    raw = b""
    with contextlib.suppress(ConnectionError):
        while chunk := sock.recv(65536):
            raw += chunk
            head, found, body = raw.partition(b"\r\n\r\n")
            lower = head.lower()
            if found and b"content-length: " in lower:
                length = lower.split(b"content-length: ")[1].split(b"\r\n")[0]
                if len(body) >= int(length):
                    break
            if found and b"chunked" in lower and body.endswith(b"0\r\n\r\n"):
                break
    return raw


def error_of(answer: Answer) -> dict:
    """Return the error of an envelope, after checking what every one of them has."""
    body = answer.json()
    assert set(body["error"]) >= {"code", "message", "type"}
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-request-id"]) == 32
    return body["error"]


def post(path: str, headers: str, length: object) -> bytes:
    line = f"Content-Length: {length}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}{line}\r\n".encode()


def wait_for(check, seconds: float = 5.0):
    """The first true result of `check`, or the last one after PATIENCE times `seconds`."""
    end = time.monotonic() + seconds * PATIENCE
    while True:
        result = check()
        if result or time.monotonic() > end:
            return result
        time.sleep(0.03)


@contextlib.contextmanager
def running(**changes):
    command = [sys.executable, str(HERE / "guarded_application.py"), json.dumps(changes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)
    try:
        yield Site(process, int(process.stdout.readline()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
