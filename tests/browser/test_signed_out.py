"""Pages that need no account: accessible in both colour schemes, and loading nothing foreign."""

from __future__ import annotations

import pytest

from tests.browser.chromium import violations

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/admin/login/"])
def test_a_signed_out_page_is_accessible(page, path, scheme):
    page.emulate_media(color_scheme=scheme)
    assert page.goto(path).ok
    assert violations(page) == []
