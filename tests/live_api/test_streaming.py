"""Server-sent events as they go over the wire."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.live_api.envelope import CHAT, assert_envelope, bearer, chat_body
from tests.live_api.site import PACED_MS, PACED_TOKENS


def events(text: str) -> list[str]:
    """The data of each event; fails on anything else."""
    assert text.endswith("\n\n")
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks), blocks
    return [block.removeprefix("data: ") for block in blocks]


@pytest.mark.sqlite
def test_framing(http):
    response = http.post(CHAT, json=chat_body(stream=True))
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.headers["x-request-id"]
    assert response.headers["x-casola-job-id"]
    *chunks, end = events(response.text)
    assert end == "[DONE]"
    chunks = [json.loads(chunk) for chunk in chunks]
    for chunk in chunks:
        assert set(chunk) == {"id", "object", "created", "model", "choices"}
        (choice,) = chunk["choices"]
        assert set(choice) == {"index", "delta", "logprobs", "finish_reason"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
    }


def test_usage_chunk(http):
    body = chat_body(stream=True, stream_options={"include_usage": True})
    *chunks, _ = events(http.post(CHAT, json=body).text)
    chunks = [json.loads(chunk) for chunk in chunks]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 1,
        "completion_tokens": 16,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_chunks_come_when_they_are_made(http):
    with http.stream("POST", CHAT, json=chat_body(model="test/paced", stream=True)) as response:
        lines = response.iter_lines()
        times = [time.monotonic() for line in lines if '"content":"w' in line]
    assert len(times) > PACED_TOKENS / 2
    assert times[-1] - times[0] > 0.5 * PACED_TOKENS * PACED_MS / 1000


@pytest.mark.parametrize("text", ["!error", "!slow 100 !error"])
def test_failure_before_the_first_token_is_an_http_error(http, text):
    response = http.post(CHAT, json=chat_body(text, stream=True))
    assert_envelope(response, 502, code="worker_error")


def test_refusals_of_a_stream_are_http_errors(http):
    assert_envelope(http.post(CHAT, json=chat_body(stream=True, n=0)), 400, code="invalid_value")
    body = chat_body(stream=True, model="no/such")
    assert_envelope(http.post(CHAT, json=body), 404, code="model_not_found")


def test_an_http_1_0_client_gets_the_stream_unchunked(site):
    async def main():
        reader, writer = await asyncio.open_connection("127.0.0.1", site.live.port)
        body = json.dumps(chat_body(stream=True)).encode()
        writer.write(
            f"POST {CHAT} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {site.alpha['user_write']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer

    head, _, text = asyncio.run(main()).partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert events(text.decode())[-1] == "[DONE]"


@pytest.mark.slow
def test_a_thousand_open_streams(site, http):
    """All complete; streams cost the web process no thread and little memory."""
    streams, tokens = 1000, 80
    http.post(CHAT, json=chat_body(model="test/paced"))
    web = site.web_process()
    body = json.dumps(chat_body(f"!tokens {tokens}", model="test/paced", stream=True)).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {site.alpha['user_write']}\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    begun = 0
    all_begun = asyncio.Event()

    async def one() -> int:
        nonlocal begun
        reader, writer = await asyncio.open_connection("127.0.0.1", site.live.port)
        writer.write(head + body)
        assert b" 200 " in await reader.readline()
        begun += 1
        if begun == streams:
            all_begun.set()
        rest = await reader.read()
        writer.close()
        assert all_begun.is_set(), "some ended before all were open"
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), rest[-200:]
        return rest.count(b'"content":"w')

    async def main() -> tuple[list[int], int, int]:
        tasks = [asyncio.create_task(one()) for _ in range(streams)]
        done = asyncio.gather(*tasks)
        await asyncio.wait_for(all_begun.wait(), 30)
        during = web.num_threads(), web.memory_info().rss
        return await asyncio.wait_for(done, 60), *during

    threads, memory = web.num_threads(), web.memory_info().rss
    counts, threads_during, memory_during = asyncio.run(main())
    assert len(counts) == streams
    assert threads_during <= threads + 2
    assert web.num_threads() <= threads + 2
    assert memory_during - memory < 60e6
    assert web.memory_info().rss - memory < 60e6


def test_key_in_the_query_is_ignored(site, bare):
    response = bare.post(
        f"{CHAT}?api_key={site.alpha['user_write']}&token={site.alpha['user_write']}",
        json=chat_body(stream=True),
    )
    assert_envelope(response, 401, code="invalid_api_key")
    assert bare.post(CHAT, json=chat_body(), headers=bearer(site.beta["user_write"])).is_success
