"""The events of jobs over HTTP and WebSockets: whole and in order, whoever leaves, dies or is shut out."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.live import wait_until
from tests.live_api.envelope import CHAT, GHOST_JOB, assert_envelope, bearer, chat_body, job_body
from tests.live_api.site import Site
from tests.live_api.websocket import CLOSE, Refused, WebSocket

CUTS = 50
# What a runner does that has a lot to say of a job, at the pace of the test.
TALK = """
import sys, time, uuid
from django.db import transaction
from django.utils import timezone
from jobs.models import Job
from jobs.services import add_events
print("ready", flush=True)
for number in range({count}):
    with transaction.atomic():
        job = Job.objects.select_for_update().get(pk={job_id!r})
        news = {{"progress": number / {count}, "message": f"step {{number}}"}}
        add_events([(job.pk, "progress", news)], at=timezone.now())
    time.sleep({pause})
"""
SLOW = {"duration_ms": 60_000}


def make_job(site: Site, key: str = "", **options: Any) -> str:
    body = job_body(input={"units": 1, **options})
    answer = site.live.post("/api/jobs", body, key or site.alpha["user_write"])
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def cancel(site: Site, job_id: str, key: str = "") -> None:
    answer = site.live.post(f"/api/jobs/{job_id}/cancel", None, key or site.alpha["user_write"])
    assert answer.status_code == 200, answer.text


def events_path(job_id: str) -> str:
    return f"/api/jobs/{job_id}/events"


def socket_url(site: Site, job_id: str, number: int = 0, query: str = "") -> str:
    return f"{site.urls[number].replace('http', 'ws')}/ws/jobs/{job_id}{query}"


def parsed(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events of a stream as they come; their framing is checked."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith((":", "retry:")):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if not fields:
            continue
        body = json.loads(fields["data"])
        if "error" not in body or "seq" in body:
            assert (int(fields["id"]), fields["event"]) == (body["seq"], body["type"])
        fields = {}
        yield body


def stream_of(url: str, job_id: str, key: str, after: int = 0):
    headers = bearer(key) | ({"Last-Event-ID": str(after)} if after else {})
    return httpx.stream("GET", url + events_path(job_id), headers=headers, timeout=30)


def whole(site: Site, job_id: str, key: str = "", after: int = 0) -> list[dict[str, Any]]:
    with stream_of(site.url, job_id, key or site.alpha["user_read"], after) as response:
        assert response.status_code == 200, response.read()
        return list(parsed(response.iter_lines()))


def shape(found: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    return [(event["seq"], event["type"], event["status"]) for event in found]


WHOLE = [
    (1, "created", "pending"),
    (2, "claimed", "processing"),
    (3, "completed", "completed"),
]


@pytest.mark.sqlite
def test_a_finished_job_is_told_whole_and_the_stream_ends(site, ended):
    job_id = make_job(site, result={"text": "done"})
    job = ended(job_id)

    with stream_of(site.url, job_id, site.alpha["user_read"]) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert len(response.headers["x-request-id"]) == 32
        found = list(parsed(response.iter_lines()))

    assert shape(found) == WHOLE
    assert found[-1] == {
        "id": job_id,
        "seq": 3,
        "type": "completed",
        "status": "completed",
        "at": job["completed_at"],
        "data": {"attempt": 1},
        "result": job["result"],
        "error": None,
        "usage": job["usage"],
    }
    assert found[-1]["result"] == {"text": "done"}
    assert whole(site, job_id, after=1) == found[1:]
    assert whole(site, job_id, after=3) == []
    with WebSocket(socket_url(site, job_id), **bearer(site.alpha["user_read"])) as socket:
        assert socket.messages() == found
        assert socket.code == 1000
    with WebSocket(
        socket_url(site, job_id, query="?after=2"), **bearer(site.alpha["user_read"])
    ) as socket:
        assert socket.messages() == found[2:]


def test_events_come_as_they_happen(site):
    job_id = make_job(site, duration_ms=1500)
    seen = []
    with stream_of(site.urls[1], job_id, site.alpha["user_read"]) as response:
        events = parsed(response.iter_lines())
        seen += [(event["type"], time.monotonic()) for event in events]
    assert [name for name, _ in seen] == ["created", "claimed", "completed"]
    assert seen[2][1] - seen[1][1] > 1


def test_an_interactive_request_has_one_event(site):
    answer = site.live.post(CHAT, chat_body(), site.alpha["user_write"])
    (event,) = whole(site, answer.headers["x-casola-job-id"])
    assert shape([event]) == [(1, "completed", "completed")]
    assert event["usage"] == {"prompt_tokens": 1, "completion_tokens": 16} | event["usage"]


def test_a_job_that_fails_says_why(site):
    job_id = make_job(site, error="worker_error")
    last = whole(site, job_id)[-1]
    assert (last["type"], last["result"]) == ("failed", None)
    assert last["error"]["code"] == "worker_error"


def test_what_was_deleted_leaves_the_end(site, ended):
    job_id = make_job(site, result={"text": "secret"})
    ended(job_id)
    path = f"{site.url}/api/jobs/{job_id}/data"
    assert httpx.delete(path, headers=bearer(site.alpha["user_write"])).status_code == 200
    (last,) = whole(site, job_id)
    assert shape([last]) == WHOLE[2:]
    assert last["result"] is None


def follow_by_sse(site: Site, job_id: str, chance: random.Random, seen: list[int]) -> int:
    """Read to the end, cut off at random; returns how often the line was cut."""
    cuts, after = 0, 0
    while True:
        url = chance.choice(site.urls)
        until = time.monotonic() + chance.uniform(0, 0.25) if cuts < CUTS else float("inf")
        with stream_of(url, job_id, site.alpha["user_read"], after) as response:
            assert response.status_code == 200, response.read()
            for event in parsed(response.iter_lines()):
                seen.append(event["seq"])
                after = event["seq"]
                if event["type"] == "cancelled":
                    return cuts
                if time.monotonic() > until:
                    break
        cuts += 1


def follow_by_socket(site: Site, job_id: str, chance: random.Random, seen: list[int]) -> int:
    cuts, after = 0, 0
    while True:
        url = socket_url(site, job_id, chance.randrange(2))
        until = time.monotonic() + chance.uniform(0, 0.25) if cuts < CUTS else float("inf")
        with WebSocket(url) as socket:
            socket.send({"type": "auth", "token": site.alpha["user_read"], "after": after})
            while (event := socket.receive()) is not None:
                seen.append(event["seq"])
                after = event["seq"]
                if event["type"] == "cancelled":
                    return cuts
                if time.monotonic() > until:
                    break
        cuts += 1


@pytest.mark.slow
def test_fifty_cuts_lose_double_and_swap_nothing(site):
    """A job that says something every 30 ms, followed in both ways over both web processes."""
    job_id = make_job(site, **SLOW)
    chances = [random.Random(3), random.Random(5)]
    seen: list[list[int]] = [[], []]
    with ThreadPoolExecutor(2) as pool:
        readers = [
            pool.submit(follow, site, job_id, chances[number], seen[number])
            for number, follow in enumerate((follow_by_sse, follow_by_socket))
        ]
        site.live.python(TALK.format(job_id=job_id, count=250, pause=0.03))
        cancel(site, job_id)
        cuts = [reader.result(60) for reader in readers]

    everything = whole(site, job_id)
    assert [event["seq"] for event in everything] == list(range(1, len(everything) + 1))
    assert len(everything) == 253
    for found, number in zip(seen, cuts, strict=True):
        assert found == list(range(1, 254))
        assert number >= CUTS


def test_a_killed_runner_shows_as_a_second_attempt_and_one_end(site):
    (runner,) = [row for row in site.live.runners() if row["model_id"] == "test/echo"]
    job_id = make_job(site, duration_ms=1_500)
    wait_until(lambda: site.live.job(job_id, site.alpha["user_read"])["status"] == "processing")
    os.kill(runner["pid"], signal.SIGKILL)

    found = whole(site, job_id)

    assert shape(found) == [
        *WHOLE[:2],
        (3, "crashed", "pending"),
        (4, "claimed", "processing"),
        (5, "completed", "completed"),
    ]
    assert [event["data"].get("attempt") for event in found] == [None, 1, None, 2, 2]
    site.live.wait_ready("test/echo")


# -- who is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "4", "9" * 10, "\u0661"])
@pytest.mark.parametrize("name", ["Last-Event-ID", "after"])
def test_an_id_of_no_event_is_refused(site, ended, name, value):
    job_id = make_job(site)
    ended(job_id)
    headers, params = bearer(site.alpha["user_read"]), {}
    if name == "after":
        params = {name: value}
    else:
        headers[name] = value
    raw = {key: text.encode() for key, text in headers.items()}
    answer = httpx.get(site.url + events_path(job_id), headers=raw, params=params)
    error = assert_envelope(answer, 400, code="invalid_value")
    assert error["param"] == name
    with WebSocket(
        socket_url(site, job_id, query=f"?after={value}" if value.isascii() else "?after=x"),
        **bearer(site.alpha["user_read"]),
    ) as socket:
        (message,) = socket.messages()
    assert (message["type"], message["error"]["param"]) == ("error", "after")
    assert socket.code == 4400


def test_strangers_and_ghosts_are_the_same_404(site):
    job_id = make_job(site)
    for key, wanted in (
        (site.beta["user_read"], job_id),
        (site.alpha["user_read"], GHOST_JOB),
        (site.alpha["user_read"], "odd"),
    ):
        answer = site.live.get(events_path(wanted), key)
        assert assert_envelope(answer, 404)["message"] == "Job not found"
        with WebSocket(socket_url(site, wanted), **bearer(key)) as socket:
            (message,) = socket.messages()
        assert message == {"type": "error", **answer.json()}
        assert socket.code == 4404


def test_without_a_good_token_there_is_nothing(site):
    job_id = make_job(site)
    for key in ("", "csl_sk_junk", site.alpha["expired"], site.stopped["one"]):
        answer = httpx.get(site.url + events_path(job_id), headers=bearer(key) if key else {})
        assert_envelope(answer, 401)
        with WebSocket(socket_url(site, job_id)) as socket:
            socket.send({"type": "auth", "token": key})
            (message,) = socket.messages()
        assert message["error"]["code"] == "invalid_api_key"
        assert socket.code == 4401


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"no json",
        b"[]",
        b"[" * 10_000,
        b'{"type": "hello"}',
        b'{"type": "auth"}',
        b'{"type": "auth", "token": 7}',
        b'{"type": "auth", "token": null}',
    ],
)
def test_an_odd_first_message_closes_the_socket(site, message):
    with WebSocket(socket_url(site, GHOST_JOB)) as socket:
        socket.send(message)
        (answer,) = socket.messages()
    assert (answer["error"]["code"], socket.code) == ("invalid_api_key", 4401)


def test_who_says_nothing_is_sent_away(site):
    began = time.monotonic()
    with WebSocket(socket_url(site, GHOST_JOB)) as socket:
        assert [message["type"] for message in socket.messages()] == ["error"]
    assert socket.code == 4401
    assert time.monotonic() - began > 4


def test_other_paths_have_no_sockets(site):
    for path in ("/ws", "/ws/jobs", "/ws/jobs/", "/ws/jobs/a/b", "/api/jobs"):
        with pytest.raises(Refused), WebSocket(site.url + path):
            pass


# -- cookies --------------------------------------------------------------------------------------

SIGN_IN = """
from importlib import import_module
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from accounts.models import User
user = User.objects.get(email={email!r})
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[-1]
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.create()
print(settings.SESSION_COOKIE_NAME + "=" + session.session_key)
"""


def test_a_members_session_opens_the_jobs_of_their_organization_from_our_pages_only(site, ended):
    own, foreign = make_job(site), make_job(site, site.beta["user_write"])
    ended(own)
    cookie = site.live.python(SIGN_IN.format(email="alpha@example.com")).splitlines()[-1]

    def open_socket(job_id: str, **headers: str) -> WebSocket:
        return WebSocket(socket_url(site, job_id), Cookie=cookie, **headers)

    with open_socket(own, Origin=site.url) as socket:
        assert shape(socket.messages()) == WHOLE
    with open_socket(foreign, Origin=site.url) as socket:
        assert socket.messages()[0]["error"]["message"] == "Job not found"
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
        with open_socket(own, **headers) as socket:
            socket.send({"type": "hello"})
            assert socket.messages()[0]["error"]["code"] == "invalid_api_key"
        assert socket.code == 4401


# -- how long and how many ------------------------------------------------------------------------


def test_a_revoked_token_ends_its_streams(site):
    def issue() -> dict[str, Any]:
        path = f"/api/organizations/{site.alpha['id']}/tokens"
        wish = {"name": "short", "scopes": ["user:read"]}
        return site.live.post(path, wish, site.alpha["admin_write"]).json()

    made, job_id = issue(), make_job(site, **SLOW)
    with (
        stream_of(site.url, job_id, made["secret"]) as response,
        WebSocket(socket_url(site, job_id, 1), **bearer(made["secret"])) as socket,
    ):
        lines = parsed(response.iter_lines())
        assert next(lines)["type"] == "created"
        assert socket.receive()["type"] == "created"
        path = f"{site.url}/api/organizations/{site.alpha['id']}/tokens/{made['token']['id']}"
        began = time.monotonic()
        httpx.delete(path, headers=bearer(site.alpha["admin_write"]))
        *_, last = lines
        assert last["error"]["code"] == "invalid_api_key"
        *_, last = socket.messages()
        assert (last["error"]["code"], socket.code) == ("invalid_api_key", 4401)
    assert time.monotonic() - began < 15
    cancel(site, job_id)


def test_the_plans_cap_holds_over_both_processes_and_both_ways(site):
    key = site.tiny["one"]
    job_id = make_job(site, key, **SLOW)
    used = f"/api/organizations/{site.tiny['id']}/limits"

    def open_now() -> int:
        data = site.live.get(used, key).json()["limits"]["data"]
        return next(entry["used"] for entry in data if entry["name"] == "sockets")

    with stream_of(site.urls[0], job_id, key) as stream:
        events = parsed(stream.iter_lines())
        assert next(events)["type"] == "created"
        with WebSocket(socket_url(site, job_id, 1), **bearer(key)) as socket:
            assert socket.receive()["type"] == "created"
            assert open_now() == 2
            for url in site.urls:
                answer = httpx.get(url + events_path(job_id), headers=bearer(key))
                error = assert_envelope(answer, 429, code="queue_full")
                assert error["message"] == (
                    "Too many event connections are open: the plan Tiny allows 2"
                )
            with WebSocket(socket_url(site, job_id), **bearer(key)) as refused:
                assert refused.messages()[0]["error"]["code"] == "queue_full"
            assert refused.code == 4429
            other = make_job(site)
            with stream_of(site.url, other, site.alpha["user_read"]) as response:
                assert response.status_code == 200
        wait_until(lambda: open_now() == 1, seconds=5)
    wait_until(lambda: open_now() == 0, seconds=5)
    cancel(site, job_id, key)


def test_who_never_reads_holds_nobody_up(site, ended):
    job_id = make_job(site, duration_ms=1_000)
    with WebSocket(socket_url(site, job_id), **bearer(site.alpha["user_read"])) as lazy:
        assert shape(whole(site, job_id)) == WHOLE
        assert shape(lazy.messages()) == WHOLE


def test_who_closes_politely_is_let_go(site):
    job_id = make_job(site, **SLOW)
    with WebSocket(socket_url(site, job_id), **bearer(site.alpha["user_read"])) as socket:
        assert socket.receive()["type"] == "created"
        socket.send(b"\x03\xe8", kind=CLOSE)
        while socket.receive() is not None:
            pass
        assert socket.code == 1000
    cancel(site, job_id)
