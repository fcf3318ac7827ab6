"""The plan's two budgets, shared by all tokens over all web processes, and early refusals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.live_api.envelope import CHAT, bearer, chat_body, job_body

THREADS = 64


def burst(number: int, work: Callable[[int], httpx.Response]) -> list[httpx.Response]:
    """All of them at once on 64 threads."""
    gate = threading.Barrier(min(number, THREADS))

    def one(index: int) -> httpx.Response:
        if index < THREADS:
            gate.wait(30)
        return work(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(number)))


@pytest.mark.sqlite
def test_a_burst_admits_exactly_the_plan(site):
    """10 submissions and 60 API requests, however many tokens, processes and refusals there are."""
    clients = [
        httpx.Client(base_url=url, headers=bearer(site.free[label]), timeout=60)
        for url in site.urls
        for label in ("one", "two")
    ]

    def submit(index: int) -> httpx.Response:
        client = clients[index % 4]
        if index % 8 < 4:
            return client.post(CHAT, json=chat_body(max_tokens=1))
        return client.post("/api/jobs", json=job_body())

    def read(index: int) -> httpx.Response:
        path = ("/openai/v1/models", "/api/users/me", "/api/model-status")[index % 3]
        return clients[index % 4].get(path)

    began, received = time.monotonic(), []

    def timed(index: int) -> httpx.Response:
        answer = submit(index)
        received.append(time.monotonic())
        return answer

    answers = burst(100, timed)
    admitted = [answer for answer in answers if answer.status_code != 429]
    assert {answer.status_code for answer in admitted} <= {200, 201}
    assert len(admitted) == 10
    for answer in answers:
        check_headers(answer, 10)
    remaining = {answer.headers["x-ratelimit-remaining-requests"] for answer in admitted}
    assert remaining == {str(left) for left in range(10)}

    # the other budget is untouched
    reads = burst(150, read)
    assert sum(answer.status_code == 200 for answer in reads) == 60
    for answer in reads:
        check_headers(answer, 60)

    # what was refused did not count: room comes when the first admitted ones are a minute old
    asked = time.monotonic()
    refused = submit(0)
    assert refused.status_code == 429
    assert time.monotonic() - began < 59
    wait = int(refused.headers["retry-after"])
    # The first was admitted after we began and before its answer came.
    soonest = min(59, 60 - (time.monotonic() - began))
    assert soonest <= wait <= 61 - (asked - min(received))
    for client in clients:
        client.close()


def check_headers(answer: httpx.Response, limit: int) -> None:
    """The seed's 429, and what every counted answer carries."""
    assert answer.headers["x-ratelimit-limit-requests"] == str(limit)
    assert 0 <= int(answer.headers["x-ratelimit-remaining-requests"]) < limit
    assert 0 <= int(answer.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    assert answer.headers["x-request-id"]
    if answer.status_code != 429:
        return
    assert 1 <= int(answer.headers["retry-after"]) <= 59
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    error = answer.json()["error"]
    if "/openai/" in str(answer.request.url):
        assert error.pop("param") is None
    assert answer.json().keys() == {"error"}
    assert error == {
        "code": "rate_limit",
        "message": "Rate limit exceeded",
        "type": "rate_limit_error",
    }


def test_a_submission_counts_whatever_its_outcome(site):
    """And an unauthenticated call counts nothing; cancel, list and 404 are API requests."""
    secret = site.counted["one"]
    with httpx.Client(base_url=site.url, headers=bearer(secret), timeout=60) as client:

        def left(answer: httpx.Response) -> tuple[str, int]:
            return (
                answer.headers["x-ratelimit-limit-requests"],
                int(answer.headers["x-ratelimit-remaining-requests"]),
            )

        assert left(client.post(CHAT, json=chat_body())) == ("10", 9)
        assert left(client.post(CHAT, json=chat_body(n=0))) == ("10", 8)
        assert left(client.post(CHAT, content=b"{")) == ("10", 7)
        assert left(client.post(CHAT, json=chat_body(model="no/such"))) == ("10", 6)
        assert left(client.post("/api/jobs", json={})) == ("10", 5)
        assert left(client.post(CHAT, json=chat_body(stream=True))) == ("10", 4)
        httpx.post(site.url + CHAT, json=chat_body(), headers=bearer("csl_sk_wrong"))
        assert left(client.post(CHAT, json=chat_body("!error"))) == ("10", 3)
        made = client.post("/api/jobs", json=job_body(input={"duration_ms": 60_000}))
        assert left(made) == ("10", 2)
        # other spellings and methods do not move a submission to the other budget
        override = {"X-HTTP-Method-Override": "GET"}
        assert left(client.post(CHAT, json=chat_body(), headers=override)) == ("10", 1)
        cancel = client.post(f"/api/jobs/{made.json()['id']}/cancel")
        assert left(cancel) == ("60", 59)
        assert left(client.get("/api/jobs/none")) == ("60", 58)
        tokens = f"/api/organizations/{site.counted['id']}/tokens"
        assert left(client.post(tokens, json={})) == ("60", 57)
        assert left(client.get("/openai/v1/models")) == ("60", 56)


def test_an_unlimited_plan_has_no_headers(http):
    for answer in (http.get("/openai/v1/models"), http.post(CHAT, json=chat_body())):
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


@pytest.mark.slow
def test_half_a_gigabyte_from_nobody_is_refused_early(site):
    """Neither memory nor patience: 401 long before the body is through."""
    web = site.web_process()
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        part = b"a" * (1 << 20)
        for _ in range(512):
            sent += len(part)
            yield part

    before = web.memory_info().rss
    most = 0
    for headers in ({}, {"Content-Length": str(512 << 20)}):
        sent = 0
        began = time.monotonic()
        try:
            answer = httpx.post(
                site.url + CHAT,
                content=body(),
                headers={"Content-Type": "application/json", **headers},
                timeout=30,
            )
            assert answer.status_code in (401, 413)
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            assert sent < 512 << 20
        most = max(most, web.memory_info().rss)
        assert time.monotonic() - began < 10
    assert most - before < 20e6
