"""Every page of the dashboard, and the way into it, is accessible in both colour schemes."""

from __future__ import annotations

import re

import pytest

from tests.browser.chromium import violations
from tests.browser.journeys import PASSWORD, sign_up

pytestmark = pytest.mark.slow
DASHBOARD = (
    "/welcome", "/usage", "/usage?range=90d&group_by=model", "/settings/tokens",
    "/settings/tokens/new", "/settings/members", "/settings/limits", "/settings/organization",
    "/settings/audit", "/settings/email", "/settings/security", "/settings/security/password",
    "/settings/security/sessions", "/settings/security/keys", "/organizations/new",
)  # fmt: skip
AGAIN = ("/settings/security/app",)  # asks for the password first
OUTSIDE = ("/", "/signup", "/login", "/password/reset", "/no-such-page")
SCHEMES = ("light", "dark")
JOIN = re.compile(r"/join/[\w-]+")
SMALL = {"width": 360, "height": 800}


def found_on(page, path: str) -> list[str]:
    """What axe finds in both schemes, and whether a phone would scroll sideways."""
    wide = page.viewport_size
    found = []
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        found += [f"{path} ({scheme}): {line}" for line in violations(page)]
    page.set_viewport_size(SMALL)
    if page.evaluate("document.documentElement.scrollWidth") > SMALL["width"]:
        found.append(f"{path}: wider than {SMALL['width']} px")
    page.set_viewport_size(wide)
    return found


@pytest.fixture(scope="module", autouse=True)
def _demo_model(live):
    live.wait_ready(seconds=200)


def test_the_way_in_is_accessible(page):
    found = []
    for path in OUTSIDE:
        page.goto(path)
        found += found_on(page, path)
    page.goto("/signup")
    page.get_by_label("Email").fill("way@example.com")
    page.get_by_label("Password").first.fill("short")
    page.get_by_role("button", name="Sign up").click()
    found += found_on(page, "/signup with an error")
    page.get_by_label("Password").first.fill(PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    page.get_by_label("Code").wait_for()
    found += found_on(page, "/verify")
    assert found == []


def test_the_dashboard_is_accessible(live, page):
    sign_up(page, "owner@example.com")
    page.wait_for_url("**/welcome")
    found = found_on(page, "/welcome with the key")
    page.goto("/settings/tokens/new")
    page.get_by_label("Name").fill("Mine")
    page.get_by_role("button", name="Make token").click()
    found += found_on(page, "/settings/tokens/new with the secret")
    page.goto("/settings/members")
    page.get_by_role("button", name="Make invite").click()
    found += found_on(page, "an invite's link")
    (link,) = set(JOIN.findall(page.content()))
    page.goto(link)
    found += found_on(page, "/join")
    for path in DASHBOARD:
        answer = page.goto(path)
        assert answer.ok, path
        assert "/login" not in page.url, path
        found += found_on(page, path)
    page.goto("/settings/tokens")
    page.get_by_role("link", name="Mine").first.click()
    page.wait_for_url("**/settings/tokens/tok_**")
    found += found_on(page, "a token")
    for path in AGAIN:
        page.goto(path)
        found += found_on(page, f"{path}: confirm")
        if page.get_by_label("Password").count():
            page.get_by_label("Password").first.fill(PASSWORD)
            page.get_by_role("button", name="Confirm").click()
        found += found_on(page, path)
    assert found == []
