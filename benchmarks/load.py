"""A lean load generator: keep-alive HTTP/1.1 by hand on asyncio protocols, in its own process.

A closed loop: each connection asks, waits for the whole answer and asks again until the time is
over. The client costs little (about 50 us per answer), so that what is measured is the server.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
OK = b"HTTP/1.1 200"
TOKEN = re.compile(rb"w\d+ ")  # the stub engine's words; several may share a chunk
LAST = b"data: [DONE]\n\n\r\n0\r\n\r\n"
PATIENCE_SECONDS = 60.0
Samples = list[float]


@dataclass(slots=True)
class Plan:
    """What to ask for, how long, from how many connections (begun over `spread` seconds)."""

    port: int
    key: str
    path: str
    body: dict[str, Any]
    connections: int
    seconds: float
    spread: float = 0.0
    host: str = "127.0.0.1"

    def request(self) -> bytes:
        """The bytes of every request."""
        body = json.dumps(self.body).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Accept: application/json\r\nUser-Agent: bench/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True)
class Result:
    """Samples in milliseconds. `gaps` are between two tokens of one stream."""

    answered: int = 0
    failed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    client_cpu_s: float = 0.0
    latencies: Samples = field(default_factory=list)
    first_tokens: Samples = field(default_factory=list)
    gaps: Samples = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One connection that asks for whole answers."""

    transport: asyncio.Transport

    def __init__(self, load: Load) -> None:
        self.load = load
        self.waits = False
        self.sent_at = 0.0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        if self.waits:
            self.failed(f"connection lost: {error!r}")

    def ask(self) -> None:
        self.waits = True
        self.sent_at = time.perf_counter()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        head = data.find(b"\r\n\r\n")
        if head < 0 or len(data) < head + 4 + int(LENGTH.search(data, 0, head + 2)[1]):  # type: ignore[index]
            self.buffer = data
            return
        self.buffer = b""
        if data.startswith(OK):
            self.answered()
        else:
            self.failed(data.decode(errors="replace"))

    def answered(self) -> None:
        self.waits = False
        result = self.load.result
        result.answered += 1
        result.latencies.append((time.perf_counter() - self.sent_at) * 1000)
        self.load.next(self)

    def failed(self, what: str) -> None:
        self.waits = False
        result = self.load.result
        result.failed += 1
        if len(result.errors) < 3:
            result.errors.append(what[-300:])
        self.load.leave()


class StreamConnection(Connection):
    """One connection that asks for streams."""

    last_token_at = 0.0
    tail = b""

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.tail:
            self.last_token_at = 0.0
            if not data.startswith(OK):
                self.failed(data.decode(errors="replace"))
                return
        count = len(TOKEN.findall(data))
        result = self.load.result
        if count:
            result.tokens += count
            if not self.last_token_at:
                result.first_tokens.append((now - self.sent_at) * 1000)
            else:
                result.gaps.append((now - self.last_token_at) * 1000)
            result.gaps += [0.0] * (count - 1)
            self.last_token_at = now
        self.tail = (self.tail + data)[-len(LAST) :]
        if self.tail == LAST:
            self.tail = b""
            self.answered()


class Load:
    """All connections of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.request = plan.request()
        self.result = Result()
        self.until = 0.0
        self.open = plan.connections
        self.over = asyncio.Event()

    def next(self, connection: Connection) -> None:
        if time.perf_counter() < self.until:
            connection.ask()
        else:
            self.leave()

    def leave(self) -> None:
        self.open -= 1
        if not self.open:
            self.over.set()

    async def run(self) -> Result:
        """Connect, say so, wait for the word, run."""
        loop = asyncio.get_running_loop()
        kind = StreamConnection if self.plan.body.get("stream") else Connection
        connections: list[Connection] = []
        for _ in range(self.plan.connections):
            _, protocol = await loop.create_connection(
                lambda: kind(self), self.plan.host, self.plan.port
            )
            connections.append(protocol)
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        used, began = time.process_time(), time.perf_counter()
        self.until = began + self.plan.seconds
        for number, connection in enumerate(connections):
            loop.call_later(self.plan.spread * number / len(connections), connection.ask)
        try:
            async with asyncio.timeout(self.plan.seconds + PATIENCE_SECONDS):
                await self.over.wait()
        except TimeoutError:
            self.result.failed += sum(connection.waits for connection in connections)
            self.result.errors.append("no answer in time")
        self.result.seconds = time.perf_counter() - began
        self.result.client_cpu_s = time.process_time() - used
        for connection in connections:
            connection.waits = False
            connection.transport.close()
        return self.result


class Client:
    """A load process that is connected and waits for `go`."""

    def __init__(self, plan: Plan) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", json.dumps(asdict(plan))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        line = self.process.stdout.readline()
        if line != b"ready\n":
            raise RuntimeError(f"the load generator did not start: {line!r}")

    def go(self) -> Result:
        """Run the plan."""
        out, _ = self.process.communicate(b"go\n")
        return Result(**json.loads(out))


if __name__ == "__main__":
    done = asyncio.run(Load(Plan(**json.loads(sys.argv[1]))).run())
    print(json.dumps(asdict(done)), flush=True)
