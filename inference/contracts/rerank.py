"""Input and answer of reranking (Task `openai/rerank`). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TASK = "openai/rerank"


@dataclass(frozen=True, slots=True)
class RerankInput:
    """A query and the documents to be put in order."""

    query: str
    documents: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a frame."""
        return {"query": self.query, "documents": list(self.documents)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RerankInput:
        """Rebuild from `as_dict`."""
        return cls(data["query"], tuple(data["documents"]))


def from_body(body: dict[str, Any]) -> RerankInput:
    """The contract from a request body that the API's serializer has already checked."""
    return RerankInput(body["query"], tuple(body["documents"]))


def ranking(scores: list[float], top_n: int | None) -> list[int]:
    """Indexes of the documents, the best first; equal ones in the caller's order."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return order[:top_n] if top_n else order


def answer_body(
    *,
    job_id: str,
    created: int,
    model: str,
    body: dict[str, Any],
    result: dict[str, Any],
    units: dict[str, int],
) -> dict[str, Any]:
    """One list as Voyage's clients read it (`data`), one as Cohere's and Jina's do (`results`)."""
    del created
    scores, documents = result["scores"], body["documents"]
    tokens = units.get("prompt_tokens", 0)
    data: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for index in ranking(scores, body.get("top_n")):
        entry = {"index": index, "relevance_score": scores[index]}
        text = documents[index] if body.get("return_documents") else None
        data.append(entry if text is None else {**entry, "document": text})
        results.append(entry if text is None else {**entry, "document": {"text": text}})
    return {
        "object": "list",
        "id": f"rerank-{job_id.replace('-', '')}",
        "model": model,
        "data": data,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
        },
    }
