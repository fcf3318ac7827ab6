"""A started Casola and a browser in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.chromium import QUIET, Watch, find_chromium
from tests.live import Live


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser. It ends with the module: its event loop would bar Django's ORM in later tests."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def live(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Web process, runner node and background functions, as `make run` starts them."""
    found = Live.from_environment(
        tmp_path_factory.mktemp("browser") / "var",
        environment={"RUNNER_SLOTS": "4", "SIGNUP_RATE": "100/h"},
    )
    try:
        found.start()
        found.start_process("default", "qnode", "default")
        yield found
    finally:
        found.stop()


@pytest.fixture
def watch(live: Live) -> Iterator[Watch]:
    """Fails the test afterwards for a foreign request or a complaint of the browser."""
    found = Watch(live.url)
    yield found
    found.check()


@pytest.fixture
def context(chromium: Any, live: Live, watch: Watch) -> Iterator[Any]:
    """A fresh browser profile."""
    made = chromium.new_context(base_url=live.url, viewport={"width": 1280, "height": 900})
    made.set_default_timeout(15_000)
    made.grant_permissions(["clipboard-read", "clipboard-write"])
    made.on("request", watch.on_request)
    made.on("console", watch.on_console)
    made.on("weberror", lambda error: watch.complaints.append(str(error.error)))
    yield made
    made.close()


@pytest.fixture
def page(context: Any) -> Any:
    """One tab."""
    return context.new_page()
