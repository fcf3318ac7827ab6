"""From the landing page to the first request in the usage, as a newcomer does it."""

from __future__ import annotations

import re
import time

import httpx
import pytest

from tests.browser.journeys import DEMO, PASSWORD, sign_up
from tests.live import CHAT

pytestmark = pytest.mark.slow
SECRET = re.compile(r"csl_sk_[0-9A-Za-z]{42}")


@pytest.fixture(scope="module", autouse=True)
def _demo_model(live):
    live.wait_ready(DEMO, seconds=200)


def clipboard(page) -> str:
    return page.evaluate("navigator.clipboard.readText()")


def first_call(live, key: str) -> httpx.Response:
    body = {"model": DEMO, "messages": [{"role": "user", "content": "Hello!"}]}
    return live.post(CHAT, body, key)


def test_a_newcomer_makes_the_first_call_within_a_minute(live, page):
    began = time.monotonic()
    page.goto("/")
    sign_up(page, "newcomer@example.com")
    page.wait_for_url("**/welcome")
    page.get_by_role("button", name="Copy curl sample").click()
    command = clipboard(page)
    assert command.startswith(f"curl {live.url}{CHAT} \\\n")
    (secret,) = SECRET.findall(command)
    page.get_by_text("Waiting for your first request").wait_for()
    assert first_call(live, secret).status_code == 200
    page.get_by_text("Request received").wait_for()
    page.get_by_role("link", name="See it in the usage").click()
    page.wait_for_url("**/usage")
    assert page.locator("dl.stats div", has_text="Requests").locator("dd").inner_text() == "1"
    assert time.monotonic() - began < 60


def test_the_key_is_shown_once(live, page):
    sign_up(page, "once@example.com")
    page.wait_for_url("**/welcome")
    page.get_by_role("button", name="Reveal").first.click()
    (first,) = set(SECRET.findall(page.content()))
    page.reload()
    assert SECRET.findall(page.content()) == []
    page.get_by_role("button", name="Make a new key").click()
    page.get_by_role("button", name="Reveal").first.click()
    (second,) = set(SECRET.findall(page.content()))
    assert second != first
    assert first_call(live, first).status_code == 401
    assert first_call(live, second).status_code == 200


def test_the_first_call_can_be_made_from_the_page(live, page):
    sign_up(page, "tester@example.com")
    page.wait_for_url("**/welcome")
    page.get_by_role("button", name="Test now").click()
    page.get_by_text(f"{DEMO} answers:").wait_for(timeout=60_000)
    page.get_by_text("Request received").wait_for()


def test_it_works_without_javascript(chromium, live):
    context = chromium.new_context(base_url=live.url, java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto("/")
        sign_up(page, "plain@example.com")
        page.wait_for_url("**/welcome")
        (secret,) = set(SECRET.findall(page.content()))
        assert first_call(live, secret).status_code == 200
        page.get_by_role("link", name="Look again").click()
        page.get_by_text("Request received").wait_for()
        page.goto("/usage")
        assert page.locator("dl.stats div", has_text="Requests").locator("dd").inner_text() == "1"
        page.goto("/settings/tokens")
        page.get_by_role("link", name="New token").first.click()
        page.get_by_label("Name").fill("By hand")
        page.get_by_role("button", name="Make token").click()
        (made,) = set(SECRET.findall(page.content()))
        assert live.get("/api/users/me", made).status_code == 200
    finally:
        context.close()


def test_signing_out_and_in_again_leads_to_the_usage(live, page):
    sign_up(page, "again@example.com")
    page.wait_for_url("**/welcome")
    page.get_by_role("button", name="Test now").click()
    page.get_by_text(f"{DEMO} answers:").wait_for(timeout=60_000)
    page.locator(".top details.menu summary", has_text="again@example.com").click()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{live.url}/")
    page.goto("/usage")
    page.get_by_label("Email").fill("again@example.com")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Log in", exact=True).click()
    page.wait_for_url("**/usage")
