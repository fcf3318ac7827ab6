"""Concurrency, line and queue of a small Plan: two running, one stream, three waiting."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import httpx
import pytest

from tests.live import wait_until
from tests.live_api.envelope import CHAT, assert_envelope, bearer, chat_body, job_body
from tests.servers import free_port

PACED = {"model": "test/paced"}  # a second for each answer
ENDLESS = chat_body("!tokens 600", max_tokens=600, stream=True, **PACED)
ROWS = """
import json
from jobs.models import Job
rows = Job.objects.filter(pk__in=IDS).values_list("started_at", "completed_at", "status")
print(json.dumps([[start.timestamp(), end.timestamp(), status] for start, end, status in rows]))
"""


@pytest.fixture
def pool():
    with ThreadPoolExecutor(64) as found:
        yield found


@pytest.fixture(autouse=True)
def _idle(site):
    """Nobody is left in flight, in line or in the queue."""
    yield
    wait_until(lambda: not any(used(site).values()), seconds=20, what="an idle organization")


def used(site) -> dict[str, int]:
    """What counts against the caps at this moment, as the API tells it."""
    path = f"/api/organizations/{site.tiny['id']}/limits"
    answer = httpx.get(site.url + path, headers=bearer(site.tiny["one"]), timeout=60)
    data = answer.json()["limits"]["data"]
    return {entry["name"]: entry["used"] for entry in data if entry["period"] is None}


def chat(site, number: int, **body: Any) -> httpx.Response:
    """By turns to each process with each token."""
    secret = site.tiny["one" if number % 4 < 2 else "two"]
    body = chat_body(f"number {number}", **PACED, **body)
    url = site.urls[number % 2] + CHAT
    return httpx.post(url, json=body, headers=bearer(secret), timeout=120)


def most_at_once(site, answers: list[httpx.Response]) -> int:
    """By the Runner's clock: from the begin of the model's work to its end's commit."""
    ids = [answer.headers["x-casola-job-id"] for answer in answers]
    rows = json.loads(site.live.python(f"IDS = {ids!r}{ROWS}").splitlines()[-1])
    assert [row[2] for row in rows] == ["completed"] * len(answers)
    return max(sum(a <= start < b for a, b, _ in rows) for start, _, _ in rows)


def queue_ms(answer: httpx.Response) -> int:
    times = dict(part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
    assert int(times["queue"]) + int(times["model"]) <= int(times["total"]) + 5
    return int(times["queue"])


@pytest.mark.sqlite
def test_two_run_three_wait_and_the_rest_is_refused(site, pool):
    answers = list(pool.map(lambda number: chat(site, number), range(8)))

    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert (len(served), len(refused)) == (5, 3)
    for answer in refused:
        error = assert_envelope(answer, 429, code="queue_full")
        assert error["message"] == "Too many requests are waiting: the plan Tiny allows 3"
        assert answer.headers["retry-after"] == "5"
    assert most_at_once(site, served) == 2
    waited = sorted(queue_ms(answer) for answer in served)
    assert waited[2] > 300, waited  # an answer takes a second


@pytest.mark.sqlite
def test_one_stream_at_a_time_and_whole_answers_beside_it(site, pool):
    kinds = [True, True, False, True, False]
    asked = [pool.submit(chat, site, n, stream=kind) for n, kind in enumerate(kinds)]
    answers = [future.result() for future in asked]

    assert {answer.status_code for answer in answers} == {200}
    streams = [answer for answer, kind in zip(answers, kinds, strict=True) if kind]
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in streams)
    assert most_at_once(site, streams) == 1
    assert most_at_once(site, answers) == 2


def fill(site, pool, url: str = "") -> list[httpx.Response]:
    """Take both slots: one endless stream, one long whole answer; returns the open stream."""
    client = httpx.Client(base_url=url or site.url, headers=bearer(site.tiny["one"]), timeout=120)
    stream = client.send(client.build_request("POST", CHAT, json=ENDLESS), stream=True)
    assert stream.status_code == 200
    return [stream]


def is_waiting(site, number: int) -> Callable[[], bool]:
    return lambda: used(site)["waiting_requests"] == number


def second_stream(site, pool) -> Future[httpx.Response]:
    """It waits for the first one's end."""
    waits = pool.submit(chat, site, 1, stream=True)
    wait_until(is_waiting(site, 1))
    return waits


def test_a_caller_who_leaves_makes_room(site, pool):
    (stream,) = fill(site, pool)
    waits = second_stream(site, pool)
    assert used(site) == {
        "running_requests": 1,
        "streams": 1,
        "waiting_requests": 1,
        "sockets": 0,
        "running_jobs": 0,
        "queued_jobs": 0,
        "storage_bytes": 0,
    }
    stream.close()
    began = time.monotonic()
    assert waits.result(30).status_code == 200
    assert time.monotonic() - began < 10


def test_a_caller_who_leaves_the_line_leaves_his_place(site, pool):
    (stream,) = fill(site, pool)
    with httpx.Client(base_url=site.urls[1], headers=bearer(site.tiny["two"])) as client:
        for _ in range(5):  # more than there are places
            with pytest.raises(httpx.ReadTimeout):
                client.post(CHAT, json=ENDLESS, timeout=0.7)
    wait_until(is_waiting(site, 0), seconds=10)
    waits = second_stream(site, pool)
    stream.close()
    assert waits.result(30).status_code == 200


def test_a_killed_web_process_frees_what_it_held(site, pool):
    port = free_port()
    process = site.live.start_process("web3", "web", "--port", str(port))
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: httpx.get(url + "/livez").status_code == 200)
        (stream,) = fill(site, pool, url)
        waits = second_stream(site, pool)
        os.killpg(process.pid, signal.SIGKILL)
        began = time.monotonic()
        assert waits.result(60).status_code == 200
        took = time.monotonic() - began
        print(f"after a kill the slot was given again, and used, within {took:.1f} s")
        assert took < 20
        stream.close()
    finally:
        site.live.processes.pop("web3").wait(10)


def test_a_revoked_token_leaves_the_line(site, pool):
    path = f"/api/organizations/{site.tiny['id']}/tokens"
    admin = {"headers": bearer(site.tiny["one"]), "timeout": 60}
    body = {"name": "short", "scopes": ["user:write"], "service_account": True}
    made = httpx.post(site.url + path, json=body, **admin).json()
    (stream,) = fill(site, pool)
    waits = pool.submit(
        httpx.post, site.urls[1] + CHAT, json=ENDLESS, headers=bearer(made["secret"]), timeout=60
    )
    wait_until(is_waiting(site, 1))
    httpx.delete(f"{site.url}{path}/{made['token']['id']}", **admin)
    assert_envelope(waits.result(30), 401, code="invalid_api_key")
    stream.close()


def test_a_change_of_plan_holds_from_the_next_request_on(site, pool):
    def put_on(plan: str) -> None:
        site.live.python(
            "from accounts.actors import SYSTEM\n"
            "from accounts.models import Organization\n"
            "from accounts.services.organizations import change_plan\n"
            "from django.utils import timezone\n"
            f"row = Organization.objects.get(public_id={site.tiny['id']!r})\n"
            f"change_plan(organization=row, plan_code={plan!r}, reason='a test', by=SYSTEM,"
            " now=timezone.now())"
        )

    put_on("pro")
    try:
        answers = list(pool.map(lambda number: chat(site, number), range(8)))
    finally:
        put_on("tiny")
    assert {answer.status_code for answer in answers} == {200}
    assert most_at_once(site, answers) > 2
    # Each process knows the present plan.
    answers = list(pool.map(lambda number: chat(site, number), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 3


def test_an_organization_without_caps_has_them_all_at_once(site, pool):
    def ask(_: int) -> httpx.Response:
        body, headers = chat_body(**PACED), bearer(site.alpha["user_write"])
        return httpx.post(site.url + CHAT, json=body, headers=headers, timeout=60)

    answers = list(pool.map(ask, range(12)))

    assert {answer.status_code for answer in answers} == {200}
    assert most_at_once(site, answers) > 2


@pytest.mark.sqlite
def test_jobs_beyond_the_cap_wait_and_beyond_the_queue_are_refused(site, pool):
    clients = [
        httpx.Client(base_url=url, headers=bearer(site.tiny[label]), timeout=60)
        for url in site.urls
        for label in ("one", "two")
    ]

    def submit(number: int) -> httpx.Response:
        body = job_body(input={"duration_ms": 60_000})
        return clients[number % 4].post("/api/jobs", json=body)

    answers = list(pool.map(submit, range(64)))
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    # Three wait; up to two began meanwhile and made room.
    assert 3 <= len(accepted) <= 5
    for answer in answers:
        if answer.status_code != 201:
            error = assert_envelope(answer, 429, code="queue_full")
            assert error["message"] == "Too many jobs are waiting: the plan Tiny allows 3"
    wait_until(lambda: used(site)["running_jobs"] == 2)
    wait([pool.submit(clients[0].post, f"/api/jobs/{one}/cancel") for one in accepted])

    short, made, running = job_body(input={"duration_ms": 1500}), [], []
    while len(made) < 8:
        answer = clients[0].post("/api/jobs", json=short)
        made += [answer.json()["id"]] if answer.status_code == 201 else []
        running.append(used(site)["running_jobs"])
    for one in made:
        done = site.live.wait_job(one, key=site.tiny["one"])
        assert done["status"] == "completed"
        running.append(used(site)["running_jobs"])
    assert max(running) == 2
    for client in clients:
        client.close()
