"""Input and answer of scoring pairs of texts (Task `openai/score`). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference.contracts.embeddings import usage_body

TASK = "openai/score"


@dataclass(frozen=True, slots=True)
class ScoreInput:
    """Texts that are paired: one with each other one, or each with its own."""

    text_1: tuple[str, ...]
    text_2: tuple[str, ...]

    def pairs(self) -> list[tuple[str, str]]:
        """The pairs in order."""
        first = self.text_1 * len(self.text_2) if len(self.text_1) == 1 else self.text_1
        return list(zip(first, self.text_2, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a frame."""
        return {"text_1": list(self.text_1), "text_2": list(self.text_2)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ScoreInput:
        """Rebuild from `as_dict`."""
        return cls(tuple(data["text_1"]), tuple(data["text_2"]))


def from_body(body: dict[str, Any]) -> ScoreInput:
    """The contract from a request body that the API's serializer has already checked."""
    return ScoreInput(tuple(body["text_1"]), tuple(body["text_2"]))


def answer_body(
    *,
    job_id: str,
    created: int,
    model: str,
    body: dict[str, Any],
    result: dict[str, Any],
    units: dict[str, int],
) -> dict[str, Any]:
    """vLLM's list of scores."""
    del body
    return {
        "id": f"score-{job_id.replace('-', '')}",
        "object": "list",
        "created": created,
        "model": model,
        "data": [
            {"index": index, "object": "score", "score": score}
            for index, score in enumerate(result["scores"])
        ],
        "usage": usage_body(units),
    }
