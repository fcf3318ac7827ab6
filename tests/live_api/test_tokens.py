"""Changed, rotated and ended tokens: obeyed by both web processes at once, and by open streams."""

from __future__ import annotations

import time

import pytest

from tests.live_api.envelope import CHAT, assert_envelope, chat_body
from tests.live_api.test_tenancy import call, mint, stream_of


def own(site, made, end: str = "") -> str:
    return f"/api/organizations/{site.alpha['id']}/tokens/{made['token']['id']}{end}"


def statuses(site, secret) -> set[int]:
    """Of both kinds of route in both processes."""
    return {
        status
        for url in site.urls
        for status in (
            call(site, secret, "GET", "/openai/v1/models", url=url).status_code,
            call(site, secret, "POST", CHAT, chat_body(max_tokens=1), url).status_code,
        )
    }


CHANGES = {
    "revoked": ("DELETE", "", None, "invalid_api_key"),
    "rotated": ("POST", "/rotate", None, "invalid_api_key"),
    "rotated with grace": ("POST", "/rotate", {"grace_seconds": 2}, "invalid_api_key"),
    "scopes": ("PATCH", "", {"scopes": ["user:read"]}, "insufficient_scope"),
    "models": ("PATCH", "", {"allowed_models": []}, "model_not_found"),
    "expiry": ("PATCH", "", {}, "invalid_api_key"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_counts_at_once_and_ends_open_streams(site, change):
    method, end, body, code = CHANGES[change]
    made = mint(site, site.alpha["admin_write"], scopes=["user:write"]).json()
    secret = made["secret"]
    assert statuses(site, secret) == {200}
    if change == "expiry":
        body = {"expires_at": int(time.time()) + 2}
    with stream_of(site, secret) as answer:
        lines = answer.iter_lines()
        next(lines)
        done = call(site, site.alpha["admin_write"], method, own(site, made, end), body)
        assert done.status_code == 200, done.text
        since = time.monotonic()
        if change in ("revoked", "rotated"):
            assert statuses(site, secret) == {401}
        elif change in ("scopes", "models"):
            assert statuses(site, secret) == {200, 403 if change == "scopes" else 404}
        else:
            assert statuses(site, secret) <= {200, 401}
        text = "\n".join(lines)
    assert time.monotonic() - since < 15
    assert code in text
    if change.startswith("rotated"):
        assert statuses(site, done.json()["secret"]) == {200}
    if method != "PATCH" or change == "expiry":
        assert statuses(site, secret) == {401}


def test_a_rotated_secret_works_until_its_grace_ends(site):
    made = mint(site, site.alpha["admin_write"], scopes=["user:write"]).json()
    assert statuses(site, made["secret"]) == {200}
    path = own(site, made, "/rotate")
    rotated = call(site, site.alpha["admin_write"], "POST", path, {"grace_seconds": 3}).json()
    assert statuses(site, made["secret"]) | statuses(site, rotated["secret"]) == {200}
    until = rotated["token"]["previous_secret_until"]
    time.sleep(max(0.0, until + 1.1 - time.time()))
    assert statuses(site, made["secret"]) == {401}
    assert statuses(site, rotated["secret"]) == {200}
    shown = call(site, site.alpha["admin_read"], "GET", own(site, made))
    assert rotated["secret"] not in shown.text
    assert_envelope(call(site, made["secret"], "GET", "/openai/v1/models"), 401)


def test_the_housekeeping_writes_the_use(site):
    """The node's own turn comes once a minute; its code is asked here for the next one."""
    made = mint(site, site.alpha["admin_write"], scopes=["user:write"]).json()
    before = int(time.time())
    assert statuses(site, made["secret"]) == {200}
    site.live.python(
        "from casola_site.core import redis\n"
        "from tokens import uses\n"
        "redis.client().delete(uses.TURN)\n"
        "uses.write()"
    )
    shown = call(site, site.alpha["admin_read"], "GET", own(site, made)).json()["token"]
    assert before <= shown["last_used_at"] <= time.time()
