"""The dashboard through the real server: its forms pass the guard, and the test call is a real one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.live_api.site import Site
from tests.pages import Page, secrets_in

SIGN_IN = """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.utils import timezone
from accounts.models import User
from accounts.services import personal_organization

user = User.objects.create_user("dashboard@example.com")
User.objects.filter(pk=user.pk).update(email_verified_at=timezone.now())
personal_organization(user=user, now=timezone.now())
session = SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "allauth.account.auth_backends.AuthenticationBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.create()
print(session.session_key)
"""


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[httpx.Client]:
    """A newcomer who has confirmed their address."""
    key = site.live.python(SIGN_IN).splitlines()[-1]
    with httpx.Client(base_url=site.url, timeout=120) as client:
        client.cookies.set("sessionid", key)
        yield client


def send(browser: httpx.Client, page: str, path: str, **form: str) -> httpx.Response:
    """Post a form of the page to the path, with the page's hidden fields."""
    fields = Page(browser.get(page).text).fields
    return browser.post(path, data={**fields, **form})


def test_a_newcomers_first_minute_without_scripts(site, browser, demo):
    assert browser.get("/start").headers["location"] == "/welcome"
    (secret,) = secrets_in(browser.get("/welcome").text)

    tested = send(browser, "/welcome", "/welcome/test")

    assert tested.status_code == 200
    assert f"<strong>{demo}</strong> answers:" in tested.text
    assert "demo weights" in tested.text
    called = site.live.chat("Hello!", key=secret, model=demo)
    assert called.status_code == 200
    assert browser.get("/welcome/status").json()["received"] is True
    assert browser.get("/start").headers["location"] == "/usage"
    assert re.search(r"<dt>Requests</dt><dd>2</dd>", browser.get("/usage?range=1h").text)
    rows = browser.get("/usage.csv?range=1h&group_by=token").text.splitlines()
    assert len(rows) in (2, 3)  # both may fall into one minute


def test_a_form_passes_the_guard_and_needs_its_token(browser):
    form = {"name": "Live", "scopes": "user:read", "expires": "7", "budget_period": "never"}

    made = send(browser, "/settings/tokens/new", "/settings/tokens/new", **form)
    bare = browser.post("/settings/tokens/new", data=form)

    assert (made.status_code, len(secrets_in(made.text))) == (201, 1)
    assert bare.status_code == 403
    assert bare.headers["x-request-id"] in bare.text


def test_a_secret_made_here_opens_the_api_at_once_and_not_after_its_end(site, browser):
    page = send(
        browser,
        "/settings/tokens/new",
        "/settings/tokens/new",
        name="Short",
        scopes="user:read",
        expires="7",
        budget_period="never",
    ).text
    (secret,) = secrets_in(page)
    headers = {"Authorization": f"Bearer {secret}"}
    path = next(each for each in Page(page).addresses if "/settings/tokens/tok_" in each)

    before = httpx.get(f"{site.url}/api/users/me", headers=headers)
    send(browser, f"{path}/revoke", f"{path}/revoke", confirm="Short")
    after = httpx.get(f"{site.url}/api/users/me", headers=headers)

    assert (before.status_code, after.status_code) == (200, 401)
    assert before.json()["user"]["email"] == "dashboard@example.com"
