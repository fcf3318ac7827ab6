"""Load for the chat benchmark, in a process of its own: a fixed list of streamed requests.

`concurrency` workers take request after request until the list is empty, each on a connection of
its own. The same code drives every server; an answer is right if its usage says as many tokens as
were asked for.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.chat_model import TURN

PATIENCE_SECONDS = 600.0
Samples = list[float]


@dataclass(slots=True)
class ChatPlan:
    """What to ask of which server; `extra` goes into every body."""

    port: int
    path: str
    model: str
    work: list[Any]
    concurrency: int
    key: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def request(self, messages: list[dict[str, str]], tokens: int) -> bytes:
        """One request's bytes."""
        body = json.dumps(
            {
                "model": self.model,
                "messages": messages,
                "max_tokens": tokens,
                "temperature": 0,
                "stream": True,
                **self.extra,
            }
        ).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True)
class ChatResult:
    """Times in milliseconds; `gaps` are between two arrivals of text within one answer."""

    seconds: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    failed: int = 0
    first: Samples = field(default_factory=list)
    gaps: Samples = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def _body(reader: asyncio.StreamReader) -> Any:
    """The pieces of a chunked body, or of one that ends with the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError((head + await reader.read(2000)).decode(errors="replace")[-500:])
    if b"chunked" not in head.lower():
        while data := await reader.read(65536):
            yield data
        return
    while size := int(await reader.readline(), 16):
        yield (await reader.readexactly(size + 2))[:-2]


def _is_answer(delta: dict[str, Any]) -> bool:
    """Whether it brings text of the answer; `transformers serve` sends the prompt first."""
    content = delta.get("content")
    return bool(content) and TURN not in content


async def _answer(plan: ChatPlan, messages: Any, tokens: int, result: ChatResult) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", plan.port)
    began = last = time.perf_counter()
    writer.write(plan.request(messages, tokens))
    first, usage, rest = 0.0, None, b""
    try:
        async for data in _body(reader):
            now = time.perf_counter()
            *lines, rest = (rest + data).split(b"\n")
            news = False
            for line in lines:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(line.decode())
                usage = event.get("usage") or usage
                news |= any(_is_answer(choice["delta"]) for choice in event["choices"])
            if news:
                if first:
                    result.gaps.append((now - last) * 1000)
                else:
                    first = (now - began) * 1000
                last = now
    finally:
        writer.close()
    if not usage or usage["completion_tokens"] != tokens or not first:
        raise RuntimeError(f"asked for {tokens} tokens, usage {usage}, first after {first} ms")
    result.first.append(first)
    result.tokens += tokens
    result.prompt_tokens += usage["prompt_tokens"]
    details = usage.get("prompt_tokens_details") or {}
    result.cached_tokens += details.get("cached_tokens") or 0


async def run(plan: ChatPlan) -> ChatResult:
    """Do all the work."""
    result = ChatResult()
    left = iter(plan.work)

    async def worker() -> None:
        for messages, tokens in left:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await _answer(plan, messages, tokens, result)
            except (OSError, ValueError, EOFError, RuntimeError, TimeoutError) as error:
                result.failed += 1
                result.errors.append(f"{type(error).__name__}: {error}"[:500])

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(plan.concurrency)))
    result.seconds = time.perf_counter() - began
    return result


def drive(plan: ChatPlan) -> ChatResult:
    """Run a plan in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chat_load"],
        input=json.dumps(asdict(plan)).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return ChatResult(**json.loads(done.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(ChatPlan(**json.load(sys.stdin)))))))
