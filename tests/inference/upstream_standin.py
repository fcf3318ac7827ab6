"""A small server that behaves as a test tells it: what an upstream may do, and what none should."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "their/model"


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Standin:
    """`answers` by path; each is called with the handler and the body."""

    url: str = ""
    models: Any = field(default_factory=lambda: {"object": "list", "data": [{"id": NAME}]})
    models_status: int = 200
    answers: dict[str, Callable[[Handler, dict[str, Any]], None]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    """Somebody closed the connection before the answer was over."""

    def posts(self) -> list[Seen]:
        return [one for one in self.seen if one.method == "POST"]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    standin: Standin

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.note({})
        if self.path.endswith("/models"):
            self.json(self.standin.models, self.standin.models_status)
        else:
            self.json({"error": "no"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        self.note(body)
        answer = self.standin.answers.get(self.path)
        if answer is None:
            self.json({"detail": "Not Found"}, 404)
            return
        try:
            answer(self, body)
        except OSError:
            self.standin.left.set()
            self.close_connection = True

    def note(self, body: dict[str, Any]) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.standin.seen.append(Seen(self.command, self.path, headers, body))

    def json(self, body: Any, status: int = 200, **headers: str) -> None:
        self.raw(json.dumps(body).encode(), status, **headers)

    def raw(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        found = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {**found, **given}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, body: Any) -> None:
        self.chunk(b"data: " + json.dumps(body).encode() + b"\n\n")

    def end_stream(self) -> None:
        self.chunk(b"")

    def cut(self) -> None:
        """Close without the end that was promised."""
        self.close_connection = True
        self.connection.close()


def delta(text: str | None = None, index: int = 0, reason: str | None = None, **more: Any) -> dict:
    """A chat chunk."""
    body = {**({} if text is None else {"content": text}), **more}
    return {"choices": [{"index": index, "delta": body, "finish_reason": reason}]}


def usage(prompt: int, completion: int, **more: Any) -> dict:
    """The chunk that comes last."""
    return {
        "choices": [],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, **more},
    }


def streaming(*events: Any, pause: float = 0.0, done: bool = True) -> Callable[..., None]:
    """An answer of these events."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        for event in events:
            handler.event(event)
            time.sleep(pause)
        if done:
            handler.chunk(b"data: [DONE]\n\n")
        handler.end_stream()

    return answer


def endless(pause: float = 0.02) -> Callable[..., None]:
    """Words until somebody leaves."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        for number in range(100_000):
            handler.event(delta(f"w{number} "))
            time.sleep(pause)

    return answer


@contextlib.contextmanager
def standin(*, port: int = 0) -> Iterator[Standin]:
    """A running one."""
    found = Standin()
    handler = type("Bound", (Handler,), {"standin": found})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
