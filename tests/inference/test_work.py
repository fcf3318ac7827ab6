"""One request under way in a Runner's process."""

from __future__ import annotations

import pytest
from django.utils import timezone

from inference.contracts import chat
from inference.work import Work

MESSAGES = [{"role": "user", "content": "hi"}]


def work(request):
    return Work(
        job_id="j",
        task=chat.TASK,
        request=request,
        organization_id=1,
        token_id=None,
        user_id=None,
        salt="1",
        model_id="m",
        created_at=timezone.now(),
    )


@pytest.mark.parametrize(
    ("wish", "takes"),
    [
        ({}, False),
        ({"n": 2}, False),
        ({"n": 128}, True),
        ({"n": 8, "prompts": ["a", "b"]}, True),
        ({"tools": [{}]}, True),
        ({"response_format": {"type": "json_object"}}, True),
    ],
)
def test_what_takes_long_to_prepare_leaves_the_event_loop(wish, takes):
    assert work({"messages": MESSAGES, **wish}).takes_preparing() is takes
