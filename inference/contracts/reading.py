"""The most tokens that a request which is only read can use, from the request alone (pure).

Of a text no more than its UTF-8 bytes, in whichever normal form a tokenizer may bring it; beside
them the marks around it and a prompt that the model's folder may put before it.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from inference.contracts import embeddings, rerank, score

MARKS = 8
PROMPT = 256


def most_tokens(task: str, contract: dict[str, Any]) -> int:
    """Prompt tokens at most. Raises KeyError for a Task of another kind."""
    return {
        embeddings.TASK: _of_embeddings,
        rerank.TASK: _of_rerank,
        score.TASK: _of_score,
    }[task](contract)


def _of_embeddings(contract: dict[str, Any]) -> int:
    return sum(
        len(text) + MARKS if isinstance(text, list) else _tokens(text) + PROMPT
        for text in contract["input"]
    )


def _of_rerank(contract: dict[str, Any]) -> int:
    query = _tokens(contract["query"]) + PROMPT
    return sum(_tokens(document) + query + PROMPT for document in contract["documents"])


def _of_score(contract: dict[str, Any]) -> int:
    pairs = score.ScoreInput.from_dict(contract).pairs()
    return sum(_tokens(one) + _tokens(two) + 2 * PROMPT for one, two in pairs)


def _tokens(text: str) -> int:
    if text.isascii():
        return len(text) + MARKS
    forms = (text, unicodedata.normalize("NFKD", text))
    return max(len(form.encode(errors="replace")) for form in forms) + MARKS
