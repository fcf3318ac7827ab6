"""Plain text completion (Task `openai/completion`): chat's contract with prompts for messages."""

from __future__ import annotations

from typing import Any

from inference.contracts.answers import Choices
from inference.contracts.chat import (
    ChatInput,
    bias_of,
    sampling_of,
    stops_of,
    usage_body,
)

TASK = "openai/completion"
MAX_TOKENS = 16


def from_body(body: dict[str, Any]) -> ChatInput:
    """The contract from a request body that the API's serializer has already checked."""
    limit = body.get("max_tokens")
    return ChatInput(
        messages=[],
        prompts=tuple(body["prompt"]),
        echo=bool(body.get("echo")),
        sampling=sampling_of(body),
        max_tokens=MAX_TOKENS if limit is None else limit,
        stop=stops_of(body),
        ignore_eos=bool(body.get("ignore_eos")),
        n=body.get("n") or 1,
        top_logprobs=body.get("logprobs"),
        logit_bias=bias_of(body),
    )


def logprobs_body(tokens: list[dict[str, Any]], offset: int) -> dict[str, Any] | None:
    """The old form of log probabilities; `offset` is where the first token begins in the text."""
    if not tokens:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [_top(token) for token in tokens],
        "text_offset": offsets,
    }


def _top(token: dict[str, Any]) -> dict[str, float]:
    """The likeliest tokens and the chosen one; of tokens that look alike the likelier counts."""
    found: dict[str, float] = {}
    for entry in [*(token.get("top_logprobs") or ()), token]:
        found.setdefault(entry["token"], entry["logprob"])
    return found


def choice_bodies(choices: Choices) -> list[dict[str, Any]]:
    """OpenAI's choices of a finished answer."""
    return [
        {
            "index": index,
            "text": choice.text,
            "logprobs": logprobs_body(choice.logprobs, choice.lead),
            "finish_reason": choice.reason,
        }
        for index, choice in enumerate(choices)
    ]


def completion_body(
    *,
    job_id: str,
    created: int,
    model: str,
    choices: list[dict[str, Any]],
    units: dict[str, int],
) -> dict[str, Any]:
    """OpenAI's text_completion object for a finished Job."""
    return {
        "id": completion_id(job_id),
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage_body(units),
    }


def completion_id(job_id: str) -> str:
    """The OpenAI id of a Job's answer."""
    return f"cmpl-{job_id.replace('-', '')}"
