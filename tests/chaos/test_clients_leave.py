"""Callers who go away, and callers who do not read."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from tests.chaos.world import ECHO, World
from tests.live import CHAT, wait_until

pytestmark = pytest.mark.slow


def test_leaving_a_stream_cancels_and_charges_what_was_produced(world: World):
    with world.open_stream(1000) as stream:
        stream.read(words=20)
        job_id = stream.seen.job_id
    left = time.monotonic()
    row = world.wait_row(job_id, 10)
    seconds = time.monotonic() - left
    print(f"left a stream: cancelled after {seconds:.2f} s")
    assert row["status"] == "cancelled"
    seen = len(stream.seen.text.split())
    assert seen <= row["completion_tokens"] <= seen + 60  # a second at 20 ms each
    assert row["amount"] == row["completion_tokens"]


def test_leaving_a_waiting_request_cancels_it(world: World):
    body = {"model": ECHO, "messages": [{"role": "user", "content": "!tokens 1000"}]}
    [(began,)] = world.query("SELECT now()")
    sql = "SELECT id FROM jobs_job WHERE status = 'cancelled' AND created_at > %s"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(world.url + CHAT, json=body, headers=world.headers(), timeout=1)
    rows = wait_until(lambda: world.query(sql, began), seconds=10)
    row = world.wait_row(str(rows[0][0]))
    assert 1 <= row["completion_tokens"] <= 120  # of 1000, 20 ms each


def test_a_hundred_leave_at_once(world: World):
    def leave(number: int) -> str:
        with world.open_stream(2000) as stream:
            stream.read(words=1 + number % 5)
            return stream.seen.job_id

    leaving = [world.in_background(leave, number) for number in range(100)]
    job_ids = [future.result(60) for future in leaving]
    assert all(job_ids)
    left = time.monotonic()
    rows = [world.wait_row(job_id, 10) for job_id in job_ids]
    print(f"100 left: all recorded {time.monotonic() - left:.1f} s later")
    assert {row["status"] for row in rows} == {"cancelled"}
    outstanding = "SELECT outstanding FROM jobs_runner WHERE state = 'live'"
    wait_until(lambda: world.query(outstanding) == [(0,)], seconds=5, what="free slots")


def test_a_slow_reader_disturbs_nobody(world: World):
    body = (
        '{"model":"test/echo","stream":true,"messages":[{"role":"user","content":"!tokens 20000"}]}'
    )
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {world.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", world.port))
        slow.sendall((head + body).encode())
        time.sleep(0.5)
        others = [world.in_background(world.stream, 30) for _ in range(8)]
        seen = [future.result(30) for future in others]
    assert all(one.is_whole for one in seen), seen
