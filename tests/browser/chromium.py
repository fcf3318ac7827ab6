"""Finding a chromium and driving it the way a person would."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = "apt-get install chromium"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WCAG = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
    }
}


def find_chromium() -> str:
    """Its path; without one CI fails and any other run skips."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    message = f"no chromium on this machine; install one with: {INSTALL}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@dataclass
class Watch:
    """What a browser context asked for, and what its pages complained of."""

    own_origin: str
    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def on_request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        is_remote = parts.scheme in ("http", "https", "ws", "wss")
        if is_remote and f"{parts.scheme}://{parts.netloc}" != self.own_origin:
            self.foreign.append(request.url)

    def on_console(self, message: Any) -> None:
        # A status of 4xx is shown as a console error too; the tests assert on those themselves.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def check(self) -> None:
        """No request to another origin, no script error, nothing that the CSP blocked."""
        assert self.foreign == []
        assert self.complaints == []


def violations(page: Any) -> list[str]:
    """What axe finds on the page as it stands, one line for each node."""
    found = Axe().run(page, options=WCAG).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:150]} ({node.get('failureSummary', '')[:200]})"
        for rule in found
        for node in rule["nodes"]
    ]
