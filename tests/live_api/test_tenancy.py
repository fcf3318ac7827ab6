"""Two organizations: neither sees the other, and no token reaches further than it was given."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.live_api.envelope import (
    CHAT,
    GHOST_JOB,
    TEXT,
    assert_envelope,
    bearer,
    chat_body,
    job_body,
    text_body,
)

GHOST_TOKEN = "tok_0000000000000000000000"
GHOST_ORG = "org_0000000000000000000000"
SCOPES = ("user_read", "user_write", "admin_read", "admin_write")


def call(site, secret: str, method: str, path: str, body: object = None, url: str = ""):
    return httpx.request(
        method, (url or site.url) + path, json=body, headers=bearer(secret), timeout=60
    )


@pytest.fixture(scope="module")
def alphas_job(site) -> str:
    made = call(site, site.alpha["user_write"], "POST", "/api/jobs", job_body())
    return made.json()["id"]


@pytest.mark.sqlite
@pytest.mark.parametrize("scope", ["user_write", "admin_write"])
def test_a_foreign_id_is_like_none(site, alphas_job, scope):
    """Status, body and headers are the same bytes for what is another's and what is not."""
    secret, alpha, beta = site.beta[scope], site.alpha["id"], site.beta["id"]
    token = site.alpha["user_read_id"]
    body = {"name": "x", "scopes": ["user:read"]}
    pairs = [
        ("GET", f"/api/jobs/{alphas_job}", f"/api/jobs/{GHOST_JOB}", None),
        ("POST", f"/api/jobs/{alphas_job}/cancel", f"/api/jobs/{GHOST_JOB}/cancel", None),
        ("GET", f"/api/jobs/{alphas_job}/events", f"/api/jobs/{GHOST_JOB}/events", None),
        ("DELETE", f"/api/jobs/{alphas_job}/data", f"/api/jobs/{GHOST_JOB}/data", None),
        ("GET", f"/api/organizations/{alpha}/tokens", f"/api/organizations/{GHOST_ORG}/tokens", 0),
        (
            "POST",
            f"/api/organizations/{alpha}/tokens",
            f"/api/organizations/{GHOST_ORG}/tokens",
            body,
        ),
        *[
            (
                method,
                f"/api/organizations/{org}/tokens/{token}",
                f"/api/organizations/{ghost}/tokens/{GHOST_TOKEN}",
                None,
            )
            for method in ("GET", "PATCH", "DELETE")
            for org, ghost in ((alpha, GHOST_ORG), (beta, beta))
        ],
    ]
    pairs += [
        (method, path.format(org=alpha), path.format(org=GHOST_ORG), content)
        for method, path, content, scope_needed in ROUTES
        if "{org}" in path
        and "{token}" not in path
        and "{ghost}" not in path
        and scope_needed.startswith("admin")
    ]
    for method, foreign, ghost, body in pairs:
        one = call(site, secret, method, foreign, body or None)
        other = call(site, secret, method, ghost, body or None)
        assert one.status_code == other.status_code, foreign
        is_admins = foreign.startswith("/api/organizations/")
        assert one.status_code == (403 if scope == "user_write" and is_admins else 404)
        assert one.content == other.content
        varying = {"x-request-id", "date", "content-length"}
        assert [name for name in one.headers if name not in varying] == [
            name for name in other.headers if name not in varying
        ]
        assert_envelope(one, one.status_code)
    shown = call(
        site, site.alpha["admin_read"], "GET", f"/api/organizations/{alpha}/tokens/{token}"
    )
    assert shown.json()["token"]["status"] == "active"


def test_listings_hold_only_ones_own(site):
    for mine, other in ((site.alpha, site.beta), (site.beta, site.alpha)):
        path = f"/api/organizations/{mine['id']}/tokens?limit=100&order=asc"
        shown = call(site, mine["admin_read"], "GET", path)
        ids = {token["id"] for token in shown.json()["tokens"]}
        assert mine["user_read_id"] in ids
        assert not ids & {other[f"{scope}_id"] for scope in SCOPES}
        assert "csl_sk_" in shown.text
        assert not any(mine[scope] in shown.text for scope in SCOPES)
        foreign = f"/api/organizations/{mine['id']}/tokens?after={other['user_read_id']}"
        none = f"/api/organizations/{mine['id']}/tokens?after={GHOST_TOKEN}"
        one = call(site, mine["admin_read"], "GET", foreign)
        assert one.content == call(site, mine["admin_read"], "GET", none).content
        assert_envelope(one, 400)


BUDGET = {"amount": "1000000000", "period": "monthly"}
ROUTES = [
    ("GET", "/openai/v1/models", None, "user:read"),
    ("GET", "/openai/v1/models/test/echo", None, "user:read"),
    ("GET", "/api/model-status", None, "user:read"),
    ("GET", "/api/users/me", None, "user:read"),
    ("GET", "/api/jobs", None, "user:read"),
    ("GET", "/api/jobs/{job}", None, "user:read"),
    ("GET", "/api/jobs/{job}/events?after=3", None, "user:read"),
    ("DELETE", "/api/jobs/{job}/data", None, "user:write"),
    ("POST", "/api/jobs", job_body(), "user:write"),
    ("POST", "/api/jobs/{job}/cancel", None, "user:write"),
    ("POST", CHAT, chat_body(), "user:write"),
    ("POST", CHAT, chat_body(stream=True), "user:write"),
    ("POST", TEXT, text_body(), "user:write"),
    ("POST", TEXT, text_body(stream=True), "user:write"),
    ("GET", "/api/organizations/{org}/tokens", None, "admin:read"),
    ("GET", "/api/organizations/{org}/tokens/{token}", None, "admin:read"),
    (
        "POST",
        "/api/organizations/{org}/tokens",
        {"name": "x", "scopes": ["user:read"]},
        "admin:write",
    ),
    ("GET", "/api/organizations/{org}/tokens/presets", None, "admin:read"),
    ("PATCH", "/api/organizations/{org}/tokens/{token}", {"name": "user_read"}, "admin:write"),
    ("POST", "/api/organizations/{org}/tokens/{ghost}/rotate", None, "admin:write"),
    ("DELETE", "/api/organizations/{org}/tokens/{ghost}", None, "admin:write"),
    ("GET", "/api/organizations", None, "admin:read"),
    ("POST", "/api/organizations", {"name": "Another"}, "admin:write"),
    ("GET", "/api/organizations/{org}", None, "admin:read"),
    ("PATCH", "/api/organizations/{org}", {"name": "alpha"}, "admin:write"),
    ("GET", "/api/organizations/{org}/members", None, "admin:read"),
    ("PATCH", "/api/organizations/{org}/members/none", {"role": "viewer"}, "admin:write"),
    ("DELETE", "/api/organizations/{org}/members/none", None, "admin:write"),
    ("GET", "/api/organizations/{org}/transfer", None, "admin:read"),
    ("POST", "/api/organizations/{org}/transfer", {"member_id": "none"}, "admin:write"),
    ("DELETE", "/api/organizations/{org}/transfer", None, "admin:write"),
    ("POST", "/api/organizations/{org}/transfer/accept", None, "user:write"),
    ("GET", "/api/organizations/{org}/invites", None, "admin:read"),
    ("POST", "/api/organizations/{org}/invites", {"role": "viewer"}, "admin:write"),
    ("DELETE", "/api/organizations/{org}/invites/none", None, "admin:write"),
    ("POST", "/api/organizations/{org}/invites/none/resend", None, "admin:write"),
    ("GET", "/api/organizations/{org}/audit", None, "admin:read"),
    ("GET", "/api/organizations/{org}/usage", None, "admin:read"),
    ("GET", "/api/organizations/{org}/usage?format=csv", None, "admin:read"),
    ("GET", "/api/organizations/{org}/limits", None, "admin:read"),
    ("GET", "/api/organizations/{org}/budget", None, "admin:read"),
    ("PUT", "/api/organizations/{org}/budget", BUDGET, "admin:write"),
    ("DELETE", "/api/organizations/{org}/budget", None, "admin:write"),
    ("POST", "/api/invites/accept", {"token": "none"}, "user:write"),
]
INCLUDES = {
    "user_read": {"user:read"},
    "user_write": {"user:read", "user:write"},
    "admin_read": {"user:read", "admin:read"},
    "admin_write": {"user:read", "user:write", "admin:read", "admin:write"},
}


@pytest.mark.sqlite
@pytest.mark.parametrize("scope", SCOPES)
def test_scopes(site, alphas_job, scope):
    for method, path, body, needed in ROUTES:
        path = path.format(
            job=alphas_job,
            org=site.alpha["id"],
            token=site.alpha["user_read_id"],
            ghost=GHOST_TOKEN,
        )
        response = call(site, site.alpha[scope], method, path, body)
        if needed in INCLUDES[scope]:
            assert response.status_code in (200, 201, 404, 409), (path, response.text)
        else:
            error = assert_envelope(response, 403, code="insufficient_scope")
            assert needed in error["message"]
        if method == "GET":
            unseen = call(site, site.alpha[scope], "HEAD", path)
            assert unseen.status_code == response.status_code, path


def test_the_scope_is_checked_before_the_body(site):
    for path in (CHAT, TEXT, "/api/jobs"):
        response = call(site, site.alpha["user_read"], "POST", path, {"nonsense": True})
        assert_envelope(response, 403, code="insufficient_scope")
        response = httpx.post(
            site.url + path,
            content=b"{",
            headers={**bearer(site.alpha["user_read"]), "Content-Type": "application/json"},
        )
        assert_envelope(response, 403, code="insufficient_scope")


def test_bodies_do_not_choose_the_organization(site):
    foreign = {
        "organization": site.beta["id"],
        "organization_id": site.beta["id"],
        "org": site.beta["id"],
        "user_id": 1,
        "token_id": site.beta["user_read_id"],
        "status": "completed",
        "id": GHOST_JOB,
        "units": {"completion_tokens": 0},
    }
    made = call(site, site.alpha["user_write"], "POST", "/api/jobs", job_body(**foreign))
    job = made.json()["id"]
    assert job != GHOST_JOB
    assert call(site, site.alpha["user_read"], "GET", f"/api/jobs/{job}").status_code == 200
    assert call(site, site.beta["admin_write"], "GET", f"/api/jobs/{job}").status_code == 404
    answer = call(site, site.alpha["user_write"], "POST", CHAT, chat_body(**foreign))
    job = answer.headers["x-casola-job-id"]
    assert call(site, site.beta["admin_write"], "GET", f"/api/jobs/{job}").status_code == 404
    body = {"name": "x", "scopes": ["user:read"], **foreign, "secret": "csl_sk_mine", "hash": "x"}
    path = f"/api/organizations/{site.alpha['id']}/tokens"
    made = call(site, site.alpha["admin_write"], "POST", path, body).json()
    assert made["token"]["status"] == "active"
    assert made["token"]["id"] != site.beta["user_read_id"]
    me = call(site, made["secret"], "GET", "/api/users/me").json()
    assert me["organization"]["id"] == site.alpha["id"]


def mint(site, secret: str, url: str = "", **body: object) -> httpx.Response:
    path = f"/api/organizations/{site.alpha['id']}/tokens"
    return call(site, secret, "POST", path, {"name": "minted", **body}, url)


@pytest.mark.parametrize(
    "scopes", [["system:read"], ["system:write"], ["worker:write"], ["root"], [], ["user:read", 5]]
)
def test_scopes_nobody_here_can_grant(site, scopes):
    response = mint(site, site.alpha["admin_write"], scopes=scopes)
    assert_envelope(response, (400, 403))


def test_a_minted_token_is_never_broader(site):
    assert_envelope(mint(site, site.alpha["admin_read"], scopes=["admin:read"]), 403)
    assert_envelope(mint(site, site.alpha["user_write"], scopes=["user:read"]), 403)
    narrow = mint(site, site.alpha["admin_write"], scopes=["admin:write"]).json()["secret"]
    assert mint(site, narrow, scopes=["admin:write"]).status_code == 201
    assert_envelope(mint(site, narrow, scopes=["admin:write", "system:read"]), (400, 403))


def test_a_minted_token_keeps_the_model_allow_list(site):
    """A token for one model cannot make itself one for all."""
    secret = site.alpha["narrow"]
    inherited = mint(site, secret, scopes=["user:write"]).json()
    assert inherited["token"]["allowed_models"] == ["test/echo"]
    assert call(site, inherited["secret"], "POST", CHAT, chat_body()).status_code == 200
    body = chat_body(model="test/paced")
    assert_envelope(call(site, inherited["secret"], "POST", CHAT, body), 404)
    for models in (["test/paced"], ["test/echo", "test/paced"]):
        wider = mint(site, secret, scopes=["user:write"], allowed_models=models)
        assert_envelope(wider, 403)
    same = mint(site, secret, scopes=["user:write"], allowed_models=["test/echo"])
    assert same.status_code == 201


def test_a_minted_token_keeps_the_address_allow_list(site):
    first = mint(
        site, site.alpha["admin_write"], scopes=["admin:write"], allowed_ips=["127.0.0.0/8"]
    ).json()["secret"]
    inherited = mint(site, first, scopes=["user:read"]).json()["token"]
    assert inherited["allowed_ips"] == ["127.0.0.0/8"]
    narrower = mint(site, first, scopes=["user:read"], allowed_ips=["127.0.0.1"])
    assert narrower.status_code == 201
    for wider in (["0.0.0.0/0"], ["127.0.0.1", "10.0.0.1"], ["::/0"]):
        assert_envelope(mint(site, first, scopes=["user:read"], allowed_ips=wider), 403)


def test_a_minted_token_does_not_outlive_its_maker(site):
    until = int(time.time()) + 3600
    first = mint(site, site.alpha["admin_write"], scopes=["admin:write"], expires_at=until).json()
    inherited = mint(site, first["secret"], scopes=["user:read"]).json()["token"]
    assert inherited["expires_at"] == until
    assert_envelope(mint(site, first["secret"], scopes=["user:read"], expires_at=until + 60), 403)
    earlier = mint(site, first["secret"], scopes=["user:read"], expires_at=until - 60)
    assert earlier.status_code == 201


def test_the_model_allow_list(site):
    secret = site.alpha["narrow"]
    assert call(site, secret, "POST", CHAT, chat_body()).status_code == 200
    listed = call(site, secret, "GET", "/openai/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["test/echo"]
    status = call(site, secret, "GET", "/api/model-status").json()["models"]
    assert [model["model_id"] for model in status] == ["test/echo"]
    for method, path in (
        ("GET", "/openai/v1/models/{}"),
        ("POST", CHAT),
        ("POST", "/api/jobs"),
    ):
        bodies = []
        for model in ("test/paced", "test/ghost"):
            body = None
            if path == CHAT:
                body = chat_body(model=model)
            elif path == "/api/jobs":
                body = job_body(model_id=model, input={"model": 5})
            response = call(site, secret, method, path.format(model), body)
            assert_envelope(response, 404, code="model_not_found")
            bodies.append(response.text.replace(model, "?"))
        assert bodies[0] == bodies[1], "an existing model must look like none"
    alias = call(site, secret, "POST", CHAT, chat_body(model="ECHO"))
    assert alias.status_code == 200


@pytest.mark.sqlite
def test_revocation_counts_at_once(site):
    """48 warm parallel calls over two web processes and both kinds of route, then all refused."""
    made = mint(site, site.alpha["admin_write"], scopes=["user:write"]).json()
    secret = made["secret"]

    def one(number: int) -> int:
        url = site.urls[number % 2]
        if number % 4 < 2:
            return call(site, secret, "POST", CHAT, chat_body(max_tokens=1), url).status_code
        return call(site, secret, "GET", "/openai/v1/models", url=url).status_code

    with ThreadPoolExecutor(48) as pool:
        assert set(pool.map(one, range(48))) == {200}
        path = f"/api/organizations/{site.alpha['id']}/tokens/{made['token']['id']}"
        revoked = call(site, site.alpha["admin_write"], "DELETE", path)
        assert revoked.json()["token"]["status"] == "revoked"
        assert set(pool.map(one, range(48))) == {401}
    again = call(site, site.alpha["admin_write"], "DELETE", path)
    # its last use may have been written meanwhile
    first, second = (
        {**answer.json()["token"], "last_used_at": None} for answer in (revoked, again)
    )
    assert second == first


def test_expiry(site):
    for method, path, body in (("GET", "/openai/v1/models", None), ("POST", CHAT, chat_body())):
        expired = call(site, site.alpha["expired"], method, path, body)
        assert_envelope(expired, 401, code="invalid_api_key")
        junk = call(site, "csl_sk_junk", method, path, body)
        assert junk.content == expired.content
    until = int(time.time()) + 2
    secret = mint(site, site.alpha["admin_write"], scopes=["user:write"], expires_at=until).json()[
        "secret"
    ]
    assert call(site, secret, "POST", CHAT, chat_body()).status_code == 200
    assert call(site, secret, "GET", "/openai/v1/models").status_code == 200
    time.sleep(max(0.0, until + 0.1 - time.time()))
    assert_envelope(call(site, secret, "POST", CHAT, chat_body()), 401)
    assert_envelope(call(site, secret, "GET", "/openai/v1/models"), 401)


def test_tokens_of_a_suspended_organization_open_nothing(site):
    secret = site.stopped["one"]
    assert_envelope(call(site, secret, "GET", "/openai/v1/models"), 401)
    assert_envelope(call(site, secret, "POST", CHAT, chat_body()), 401)


def test_expiry_in_the_past_or_given_twice(site):
    for options in (
        {"expires_at": 1},
        {"expires_at": int(time.time()) + 60, "expires_in_days": 1},
        {"expires_at": 10**15},
        {"expires_in_days": 0},
        {"expires_in_days": 4000},
    ):
        response = mint(site, site.alpha["admin_write"], scopes=["user:read"], **options)
        assert_envelope(response, 400)


def test_one_idempotency_key_makes_one_token_and_one_job(site):
    key = f"key-{time.time()}"
    headers = {**bearer(site.alpha["admin_write"]), "Idempotency-Key": key}
    path = f"/api/organizations/{site.alpha['id']}/tokens"
    body = {"name": "once", "scopes": ["user:read"]}

    def token(url: str) -> httpx.Response:
        return httpx.post(url + path, json=body, headers=headers, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(token, site.urls * 4))
    assert {answer.status_code for answer in answers} <= {201, 409}
    made = [answer.json() for answer in answers if answer.status_code == 201]
    assert len({answer["token"]["id"] for answer in made}) == 1
    assert sum(answer["secret"] is not None for answer in made) == 1
    assert_envelope(httpx.post(site.url + path, json={**body, "name": "y"}, headers=headers), 409)

    def job(url: str) -> httpx.Response:
        return httpx.post(url + "/api/jobs", json=job_body(), headers=headers, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(job, site.urls * 4))
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    other = {**bearer(site.beta["admin_write"]), "Idempotency-Key": key}
    foreign = httpx.post(site.url + "/api/jobs", json=job_body(), headers=other)
    assert foreign.status_code == 201
    assert foreign.json()["id"] not in json.dumps([answer.json() for answer in answers])


def test_an_open_stream_ends_soon_after_its_token_is_revoked(site):
    made = mint(site, site.alpha["admin_write"], scopes=["user:write"]).json()
    request = chat_body("!tokens 400", stream=True, model="test/paced")
    headers = bearer(made["secret"])
    with httpx.stream("POST", site.url + CHAT, json=request, headers=headers, timeout=40) as answer:
        lines = answer.iter_lines()
        next(lines)
        path = f"/api/organizations/{site.alpha['id']}/tokens/{made['token']['id']}"
        assert call(site, site.alpha["admin_write"], "DELETE", path).status_code == 200
        since = time.monotonic()
        text = "\n".join(lines)
    assert time.monotonic() - since < 15
    assert text.count("invalid_api_key") == 1
    assert text.rstrip().endswith("data: [DONE]")


def stream_of(site, secret: str):
    request = chat_body("!tokens 400", stream=True, model="test/paced")
    headers = bearer(secret)
    return httpx.stream("POST", site.url + CHAT, json=request, headers=headers, timeout=40)


@pytest.mark.parametrize("how", ["demoted", "disabled", "removed"])
def test_a_role_counts_at_once_and_ends_open_streams(site, how):
    """In both web processes from the next request on; the others' tokens go on."""
    secret, path = site.team[how], f"/api/organizations/{site.team['id']}/members/"
    for url in site.urls:
        assert call(site, secret, "GET", "/openai/v1/models", url=url).status_code == 200
    with stream_of(site, secret) as answer:
        lines = answer.iter_lines()
        next(lines)
        path += site.team[f"{how}_user"]
        if how == "removed":
            done = call(site, site.team["one"], "DELETE", path)
        else:
            body = {"role": "viewer" if how == "demoted" else "disabled"}
            done = call(site, site.team["one"], "PATCH", path, body)
        assert done.status_code == 200
        since = time.monotonic()
        for url in site.urls:
            chat = call(site, secret, "POST", CHAT, chat_body(), url)
            read = call(site, secret, "GET", "/openai/v1/models", url=url)
            expected = (403, 200) if how == "demoted" else (401, 401)
            assert (chat.status_code, read.status_code) == expected
            kept = call(site, site.team["kept"], "POST", CHAT, chat_body(), url)
            assert kept.status_code == 200
        text = "\n".join(lines)
    assert time.monotonic() - since < 15
    assert ("insufficient_scope" if how == "demoted" else "invalid_api_key") in text


def test_a_suspension_counts_at_once_and_ends_open_streams(site):
    secret, url = site.team["kept"], f"/api/organizations/{site.team['id']}/audit?limit=1"

    def staff(verb: str) -> None:
        site.live.python(
            "from accounts.actors import SYSTEM\n"
            "from accounts.models import Organization\n"
            f"from accounts.services import {verb}_organization\n"
            "from casola_site.core.clock import now\n"
            f"row = Organization.objects.get(public_id='{site.team['id']}')\n"
            f"{verb}_organization(organization=row, reason='a test', by=SYSTEM, now=now())"
        )

    with stream_of(site, secret) as answer:
        lines = answer.iter_lines()
        next(lines)
        staff("suspend")
        since = time.monotonic()
        for base in site.urls:
            assert_envelope(call(site, secret, "POST", CHAT, chat_body(), base), 401)
            assert_envelope(call(site, site.team["one"], "GET", url, url=base), 401)
        text = "\n".join(lines)
    assert time.monotonic() - since < 15
    assert "invalid_api_key" in text
    staff("unsuspend")
    assert call(site, secret, "POST", CHAT, chat_body()).status_code == 200
    [event] = call(site, site.team["one"], "GET", url).json()["events"]
    assert (event["action"], event["reason"]) == ("organization.unsuspended", "a test")


@pytest.mark.sqlite
def test_two_processes_and_one_place(site):
    """A single-use link accepted by several at once over both web processes admits one."""
    path = f"/api/organizations/{site.team['id']}/invites"
    made = call(site, site.team["one"], "POST", path, {"role": "viewer"}).json()
    secrets = [site.alpha["user_write"], site.beta["user_write"], site.free["two"]]

    def accept(number: int) -> int:
        url = site.urls[number % 2]
        body = {"token": made["token"]}
        return call(site, secrets[number % 3], "POST", "/api/invites/accept", body, url).status_code

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(accept, range(12)))
    assert set(statuses) <= {200, 404, 429}
    assert 200 in statuses
    [row] = call(site, site.team["one"], "GET", path + "?limit=1").json()["invites"]
    assert (row["uses"], row["status"]) == (1, "used")
