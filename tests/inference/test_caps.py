"""How large a body may be is said once at the door and once at the view: they must agree."""

from __future__ import annotations

import pytest

from casola_site.guard_config import body_cap
from inference.api.openai.chat import ChatCompletionViewSet
from inference.api.openai.completions import CompletionViewSet


@pytest.mark.parametrize(
    ("path", "view"),
    [
        ("/openai/v1/chat/completions", ChatCompletionViewSet),
        ("/openai/v1/completions", CompletionViewSet),
    ],
)
def test_the_view_takes_what_the_guard_lets_in(path, view):
    assert view.body_cap == body_cap(path)
