"""The pairs of texts that a rerank or a score request is about."""

from __future__ import annotations

from typing import Any

from inference.contracts import rerank
from inference.contracts.rerank import RerankInput
from inference.contracts.score import ScoreInput


def pairs_of(task: str, request: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """(first, second) of each pair in order, and what the caller names the first ones."""
    if task == rerank.TASK:
        wish = RerankInput.from_dict(request)
        return [(wish.query, document) for document in wish.documents], "query"
    return ScoreInput.from_dict(request).pairs(), "text_1"
