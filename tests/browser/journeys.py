"""Ways through the pages that several tests take."""

from __future__ import annotations

from typing import Any

DEMO = "Qwen/Qwen3.5-4B"
PASSWORD = "a rather long password"


def sign_up(page: Any, email: str) -> None:
    """Fill in the form and the code that a loopback installation shows on the page."""
    page.goto("/signup")
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password").first.fill(PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    page.get_by_label("Code").fill(page.locator(".mail .code").inner_text())
    page.get_by_role("button", name="Confirm").click()
