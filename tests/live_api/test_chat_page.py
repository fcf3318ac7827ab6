"""The examples of docs/chat.md do what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/chat.md"
EXAMPLES = re.findall(r"^ask (\S+) '(.*?)'$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.slow


def test_the_page_has_examples():
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize(("path", "body"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example(http, demo, path, body):
    response = http.post(
        f"/openai/v1/{path}", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 200, response.text
    asked = json.loads(body)
    if asked.get("stream"):
        assert response.text.endswith("data: [DONE]\n\n")
        return
    choices = response.json()["choices"]
    prompts = asked.get("prompt", [""])
    assert len(choices) == asked.get("n", 1) * len(prompts)
    if "structured_outputs" in asked:
        assert choices[0]["message"]["content"] in asked["structured_outputs"]["choice"]
    if "response_format" in asked:
        assert set(json.loads(choices[0]["message"]["content"])) == {"size", "coast"}
    if asked.get("tool_choice") == "required":
        assert choices[0]["finish_reason"] == "tool_calls"
