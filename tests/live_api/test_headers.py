"""Tricks with headers, methods and paths change neither who is asking nor what is asked."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx
import pytest

from tests.live_api.envelope import CHAT, GHOST_JOB, assert_envelope, bearer, chat_body, job_body

MODELS = "/openai/v1/models"
STATUS = "/api/model-status"


def raw(site, request: bytes, port: int | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one hand-written request."""

    async def main() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port or site.live.port)
        writer.write(request)
        try:
            return await asyncio.wait_for(reader.read(), 15)
        finally:
            writer.close()

    head, _, body = asyncio.run(main()).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    return int(first.split()[1]), headers, body


def request_bytes(
    method: str, path: str, headers: list[tuple[str, bytes]], body: bytes = b""
) -> bytes:
    """An HTTP/1.1 request with exactly these headers."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: 127.0.0.1", b"Connection: close"]
    if body:
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    lines += [name.encode() + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def good_authorizations(secret: str) -> dict[str, bytes]:
    return {
        "usual": f"Bearer {secret}".encode(),
        "lower case scheme": f"bearer {secret}".encode(),
        "upper case scheme": f"BEARER {secret}".encode(),
        "fal's scheme": f"Key {secret}".encode(),
        "fal's scheme, lower case": f"key {secret}".encode(),
    }


def bad_authorizations(secret: str) -> dict[str, bytes]:
    key = secret.encode()
    basic = base64.b64encode(b"x:" + key)
    return {
        "nothing": b"",
        "scheme only": b"Bearer",
        "scheme and blank": b"Bearer ",
        "no scheme": key,
        "no blank": b"Bearer" + key,
        "basic": b"Basic " + basic,
        "digest": b'Digest username="x"',
        "token scheme": b"Token " + key,
        "quoted": b'Bearer "' + key + b'"',
        "upper case secret": b"Bearer " + key.upper(),
        "short": b"Bearer " + key[:-1],
        "long": b"Bearer " + key + b"a",
        "twice": b"Bearer " + key + b" " + key,
        "list": b"Bearer " + key + b", Bearer " + key,
        "bearer bearer": b"Bearer Bearer " + key,
        "sql": b"Bearer csl_sk_' OR pg_sleep(5) --",
        "10 KB": b"Bearer csl_sk_" + b"a" * 10_000,
        "unknown secret": b"Bearer csl_sk_" + b"0" * 36 + b"000000",
        "not ASCII": b"Bearer csl_sk_\xff\xfe\xc3\xa9",
        "NUL": b"Bearer " + key + b"\x00",
        "wide digits": "Bearer csl_sk_\uff11\uff12\uff13".encode(),
    }


@pytest.mark.parametrize("surface", ["viewset", "consumer"])
def test_authorization_spellings(site, surface):
    secret = site.alpha["user_write"]
    body = json.dumps(chat_body(max_tokens=1)).encode() if surface == "consumer" else b""
    method, path = ("POST", CHAT) if surface == "consumer" else ("GET", MODELS)
    for label, value in good_authorizations(secret).items():
        status, _, answer = raw(site, request_bytes(method, path, [("Authorization", value)], body))
        assert status == 200, (label, answer)
    for label, value in bad_authorizations(secret).items():
        status, headers, answer = raw(
            site, request_bytes(method, path, [("Authorization", value)], body)
        )
        assert status in (401, 400) if label in ("NUL", "not ASCII") else status == 401, (
            label,
            status,
            answer,
        )
        error = json.loads(answer)["error"]
        assert error["type"] in ("authentication_error", "invalid_request_error")
        assert headers["x-request-id"]
        assert secret.encode() not in answer


@pytest.mark.parametrize("surface", ["viewset", "consumer"])
def test_two_authorization_headers_are_none(site, surface):
    """Whichever a proxy in front looked at, the answer cannot depend on the order."""
    alpha = ("Authorization", f"Bearer {site.alpha['user_write']}".encode())
    beta = ("Authorization", f"Bearer {site.beta['user_write']}".encode())
    junk = ("Authorization", b"Bearer x")
    body = json.dumps(chat_body(max_tokens=1)).encode() if surface == "consumer" else b""
    method, path = ("POST", CHAT) if surface == "consumer" else ("GET", MODELS)
    for pair in ([alpha, beta], [alpha, junk], [junk, alpha]):
        status, _, answer = raw(site, request_bytes(method, path, pair, body))
        assert status in (400, 401), answer


@pytest.mark.parametrize("path", [MODELS, STATUS, "/api/users/me"])
def test_a_key_counts_only_in_its_header(site, bare, path):
    secret = site.alpha["user_write"]
    for options in (
        {"params": {"api_key": secret, "token": secret, "Authorization": f"Bearer {secret}"}},
        {"headers": {"X-Api-Key": secret, "Api-Key": secret, "Proxy-Authorization": secret}},
        {"cookies": {"Authorization": secret, "sessionid": secret}},
    ):
        with httpx.Client(base_url=site.url) as client:
            assert_envelope(client.get(path, **options), 401, code="invalid_api_key")
    with httpx.Client(base_url=site.url, auth=("x", secret)) as client:
        assert_envelope(client.get(path), 401, code="invalid_api_key")


def test_headers_do_not_choose_the_organization(site, http):
    for header in ("X-Organization", "OpenAI-Organization", "X-Org-Id", "X-Tenant", "Org"):
        body = http.get("/api/users/me", headers={header: site.beta["id"]}).json()
        assert body["organization"]["id"] == site.alpha["id"]
    body = http.get("/api/users/me", params={"organization": site.beta["id"]}).json()
    assert body["organization"]["id"] == site.alpha["id"]


def test_headers_do_not_choose_path_or_method(site, http):
    for name, value in (
        ("Daphne-Root-Path", "/openai"),
        ("X-Forwarded-Prefix", "/openai"),
        ("X-Script-Name", "/api"),
        ("SCRIPT_NAME", "/api"),
        ("X-Original-URL", "/api/users/me"),
        ("X-Rewrite-URL", "/api/users/me"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
    ):
        body = http.get(STATUS, headers={name: value}).json()
        assert set(body) == {"models"}, name
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        token = site.alpha["user_read_id"]
        path = f"/api/organizations/{site.alpha['id']}/tokens/{token}"
        shown = http.get(path, headers={name: "DELETE"}, params={"_method": "DELETE"})
        assert shown.json()["token"]["status"] == "active"


def test_forwarded_addresses_of_strangers_are_not_believed(site):
    """There is no trusted proxy here, so the IP allow-list sees the peer."""
    for value in ("203.0.113.7", "203.0.113.7, 127.0.0.1", "127.0.0.1, 203.0.113.7"):
        headers = {
            **bearer(site.alpha["elsewhere"]),
            "X-Forwarded-For": value,
            "X-Real-Ip": value,
            "Forwarded": f"for={value}",
        }
        assert_envelope(httpx.get(site.url + MODELS, headers=headers), 401)
        assert_envelope(httpx.post(site.url + CHAT, headers=headers, json=chat_body()), 401)
    allowed = {**bearer(site.alpha["here"]), "X-Forwarded-For": "203.0.113.7"}
    assert httpx.get(site.url + MODELS, headers=allowed).status_code == 200
    assert httpx.post(site.url + CHAT, headers=allowed, json=chat_body()).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"{MODELS}/",
        "//openai/v1/models",
        "/openai//v1/models",
        "/openai/v1//models",
        f"{STATUS}/",
        "/api//model-status",
        "//api/model-status",
        "/api/jobs/",
        f"{CHAT}/",
        "/openai/v1/chat/completions//",
        "/OPENAI/v1/models",
        "/api/Model-Status",
        "/openai",
        "/openai/",
        "/api",
        "/api/",
        "/fal/x",
        "/api/../api/users/me",
        "/api/%2e%2e/api/users/me",
        "/api/users%2Fme/",
        "/openai/v1/models%00",
        "/openai/v1/models;x=1",
    ],
)
def test_other_spellings_of_a_path_are_not_found(site, path):
    key = ("Authorization", f"Bearer {site.alpha['admin_write']}".encode())
    for method, body in (("GET", b""), ("POST", json.dumps(chat_body()).encode())):
        status, headers, answer = raw(site, request_bytes(method, path, [key], body))
        assert status in (404, 400, 405), (status, answer)
        assert "location" not in headers
        assert headers["content-type"].startswith("application/json"), headers
        assert json.loads(answer)["error"]["type"] in ("not_found_error", "invalid_request_error")


def test_absolute_and_odd_targets(site):
    key = ("Authorization", f"Bearer {site.alpha['admin_write']}".encode())
    for target in ("http://evil.example/api/users/me", "*", "api/users/me", "?x"):
        status, headers, answer = raw(site, request_bytes("GET", target, [key]))
        assert status < 500, answer
        assert "location" not in headers
        if status >= 400 and "json" in headers["content-type"]:
            assert json.loads(answer)["error"]["code"]


ROUTES = {
    CHAT: {"POST"},
    MODELS: {"GET"},
    f"{MODELS}/test/echo": {"GET"},
    STATUS: {"GET"},
    "/api/jobs": {"GET", "POST"},
    f"/api/jobs/{GHOST_JOB}": {"GET"},
    f"/api/jobs/{GHOST_JOB}/cancel": {"POST"},
    f"/api/jobs/{GHOST_JOB}/events": {"GET"},
    f"/api/jobs/{GHOST_JOB}/data": {"DELETE"},
    "/api/organizations/{org}/tokens": {"GET", "POST"},
    "/api/organizations/{org}/tokens/tok_x": {"GET", "PATCH", "DELETE"},
    "/api/users/me": {"GET"},
}


@pytest.mark.parametrize("path", list(ROUTES))
def test_methods(site, http, path):
    allowed = ROUTES[path]
    path = path.format(org=site.alpha["id"])
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO"):
        if method in allowed:
            continue
        body = b"{}" if method in ("POST", "PUT", "PATCH") else None
        headers = {"Content-Type": "application/json"} if body else {}
        response = http.request(method, path, content=body, headers=headers)
        assert_envelope(response, 405, code="method_not_allowed")
        offered = {word.strip() for word in response.headers["allow"].split(",")}
        assert allowed <= offered <= allowed | {"HEAD", "OPTIONS"}, response.headers["allow"]
    head = http.head(path)
    assert head.content == b""
    assert head.status_code == (http.get(path).status_code if "GET" in allowed else 405)


@pytest.mark.parametrize("path", [MODELS, "/api/users/me", CHAT, "/api/jobs"])
def test_options_tells_an_anonymous_caller_nothing(bare, path):
    response = bare.options(path, headers={"Origin": "https://evil.example"})
    assert response.status_code in (401, 405)
    assert "access-control-allow-origin" not in response.headers
    assert_envelope(response, response.status_code)


def test_any_accept_is_fine(http):
    for accept in ("application/octet-stream", "text/html", "application/binary", "x", "*/*;q=0"):
        headers = {"Accept": accept}
        for response in (
            http.get(MODELS, headers=headers),
            http.post(CHAT, json=chat_body(), headers=headers),
            http.post("/api/jobs", json=job_body(), headers=headers),
        ):
            assert response.is_success
            assert response.headers["content-type"] == "application/json"


def test_ids_with_encoded_slashes(site, http):
    assert http.get(f"{MODELS}/test%2Fecho").json()["id"] == "test/echo"
    for path in (f"/api/jobs/x%2F{GHOST_JOB}", f"/api/jobs/{GHOST_JOB}%2Fcancel"):
        assert_envelope(http.get(path), (404, 405))
    path = f"/api/organizations/{site.beta['id']}%2F..%2F{site.alpha['id']}/tokens"
    assert_envelope(http.get(path), 404)


def test_a_foreign_host_header_is_refused(site):
    headers = {"Host": "evil.example", "Authorization": f"Bearer {site.alpha['admin_write']}"}
    for response in (
        httpx.get(site.url + STATUS, headers=headers),
        httpx.post(site.url + CHAT, headers=headers, json=chat_body()),
    ):
        assert_envelope(response, 400)
        assert "evil.example" not in response.text
