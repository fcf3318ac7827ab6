"""Input and answer of embeddings (Task `openai/embeddings`). Pure."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TASK = "openai/embeddings"
FLOAT, BASE64 = "float", "base64"
ITEM = 4  # bytes of a float32


@dataclass(frozen=True, slots=True)
class EmbeddingsInput:
    """Texts or token ids, in order.

    `dimensions` None means the model's own; `truncate` None refuses texts that are too long, -1
    cuts them to what the model takes, a number to that many tokens.
    """

    input: tuple[str | list[int], ...]
    dimensions: int | None = None
    truncate: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a frame; absent keys mean the defaults."""
        found: dict[str, Any] = {"input": list(self.input)}
        if self.dimensions is not None:
            found["dimensions"] = self.dimensions
        if self.truncate is not None:
            found["truncate"] = self.truncate
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EmbeddingsInput:
        """Rebuild from `as_dict`."""
        return cls(tuple(data["input"]), data.get("dimensions"), data.get("truncate"))


def from_body(body: dict[str, Any]) -> EmbeddingsInput:
    """The contract from a request body that the API's serializer has already checked."""
    return EmbeddingsInput(
        tuple(body["input"]), body.get("dimensions"), body.get("truncate_prompt_tokens")
    )


def split(result: dict[str, Any]) -> Iterator[memoryview]:
    """The bytes of each vector of a Runner's result."""
    whole, size = memoryview(result["vectors"]), result["width"] * ITEM
    return (whole[at : at + size] for at in range(0, len(whole), size))


def numbers(vector: memoryview) -> list[float]:
    """The values of one vector."""
    found = array("f")
    found.frombytes(vector)
    return found.tolist()


def rendered(vector: memoryview, encoding: str) -> str:
    """One vector as JSON text. Nine digits tell every float32 from its neighbours."""
    if encoding == BASE64:
        return f'"{base64.b64encode(vector).decode("ascii")}"'
    values = numbers(vector)
    return "[" + ",".join(["%.9g"] * len(values)) % tuple(values) + "]"


def usage_body(units: dict[str, int]) -> dict[str, Any]:
    """OpenAI's usage object of endpoints that only read."""
    tokens = units.get("prompt_tokens", 0)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def answer_body(
    *,
    job_id: str,
    created: int,
    model: str,
    body: dict[str, Any],
    result: dict[str, Any],
    units: dict[str, int],
) -> dict[str, Any]:
    """OpenAI's list of embeddings."""
    del job_id, created
    is_base64 = body.get("encoding_format") == BASE64
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(vector).decode("ascii")
                if is_base64
                else numbers(vector),
            }
            for index, vector in enumerate(split(result))
        ],
        "model": model,
        "usage": usage_body(units),
    }
