"""Load for the embeddings benchmark, in a process of its own: a fixed list of requests.

`concurrency` connections take request after request until the list is empty. The same code drives
every server and asks for base64, as OpenAI's clients do; an answer is right if it has as many
vectors as there were texts.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from array import array
from dataclasses import asdict, dataclass, field
from typing import Any

PATIENCE_SECONDS = 300.0
Samples = list[float]


@dataclass(slots=True)
class EmbeddingsPlan:
    """Which texts to send where, and how many requests at a time; `keeps` returns the vectors."""

    port: int
    path: str
    model: str
    work: list[list[str]]
    concurrency: int
    key: str = ""
    keeps: bool = False

    def request(self, texts: list[str]) -> bytes:
        """One request's bytes."""
        body = json.dumps(
            {"model": self.model, "input": texts, "encoding_format": "base64"}
        ).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True)
class EmbeddingsResult:
    """Times in milliseconds."""

    seconds: float = 0.0
    texts: int = 0
    tokens: int = 0
    failed: int = 0
    latencies: Samples = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    vectors: list[list[float]] = field(default_factory=list)


async def _ask(
    plan: EmbeddingsPlan, texts: list[str], reader: Any, writer: Any, result: EmbeddingsResult
) -> None:
    began = time.perf_counter()
    writer.write(plan.request(texts))
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    )
    body = json.loads(await reader.readexactly(length))
    result.latencies.append((time.perf_counter() - began) * 1000)
    if not head.startswith(b"HTTP/1.1 200") or len(body["data"]) != len(texts):
        raise ValueError(str(body)[:300])
    result.texts += len(texts)
    result.tokens += body["usage"]["prompt_tokens"]
    if plan.keeps:
        for entry in body["data"]:
            numbers = array("f")
            numbers.frombytes(base64.b64decode(entry["embedding"]))
            result.vectors.append(numbers.tolist())


async def _work(plan: EmbeddingsPlan, left: list[list[str]], result: EmbeddingsResult) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", plan.port, limit=1 << 26)
    while left:
        texts = left.pop()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await _ask(plan, texts, reader, writer, result)
        except (OSError, EOFError, ValueError, KeyError, StopIteration) as error:
            result.failed += 1
            result.errors.append(f"{type(error).__name__}: {error}"[:300])
            return
    writer.close()


async def _run(plan: EmbeddingsPlan) -> EmbeddingsResult:
    result, left = EmbeddingsResult(), list(reversed(plan.work))
    began = time.perf_counter()
    await asyncio.gather(*(_work(plan, left, result) for _ in range(plan.concurrency)))
    result.seconds = time.perf_counter() - began
    result.failed += len(left)
    return result


def drive(plan: EmbeddingsPlan) -> EmbeddingsResult:
    """Do the work from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.embeddings_load"],
        input=json.dumps(asdict(plan)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return EmbeddingsResult(**json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(_run(EmbeddingsPlan(**json.loads(sys.stdin.read())))))))
