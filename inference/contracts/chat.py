"""Chat completion: what a runner is given and what it answers (Task `openai/chat-completion`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TASK = "openai/chat-completion"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose the next token. None means: what the model's own generation config says.

    Ranges (checked at the API): temperature 0-2, top_p in (0, 1], top_k >= 0 (0 = off),
    min_p 0-1, penalties -2 to 2, repetition_penalty > 0, seed any 64-bit integer.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class ChatInput:
    """One chat request as a runner sees it. `max_tokens` None means: up to the context length.

    A message's content is text, None, or a list of parts: `{"type": "text", "text": …}` and
    `{"type": "image", "url": …}` (what hosts the Runner puts the bytes there as `data`).
    `prompts` (texts or token ids) stand in for messages where nothing is to be templated; each has
    `n` choices, numbered one prompt after the other, and `echo` puts it before its choices.
    `top_logprobs` None means no log probabilities, 0 those of the chosen tokens alone.
    `response_format` is None, `{"type": "json_object"}` or `{"type": "json_schema", "schema": …}`.
    `tools` are OpenAI's function tools; `tool_choice` is none, auto, required or `=name`.
    `template` goes to the chat template as keyword arguments.
    """

    messages: list[dict[str, Any]]
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    top_logprobs: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    response_format: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    template: dict[str, Any] = field(default_factory=dict)
    prompts: tuple[str | list[int], ...] = ()
    echo: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a frame or a JSON column; absent keys mean the defaults."""
        sampling = {
            name: value
            for name in SAMPLING_FIELDS
            if (value := getattr(self.sampling, name)) is not None
        }
        wishes = {
            name: value
            for name, default in WISHES.items()
            if (value := getattr(self, name)) != default
        }
        if self.logit_bias:  # keys are text in JSON
            wishes["logit_bias"] = {str(token): bias for token, bias in self.logit_bias.items()}
        return {
            "messages": self.messages,
            "sampling": sampling,
            "max_tokens": self.max_tokens,
            "stop": self.stop,
            **wishes,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ChatInput:
        """Rebuild from `as_dict`; unknown keys are ignored so that old and new code can meet."""
        sampling = {k: v for k, v in (data.get("sampling") or {}).items() if k in SAMPLING_FIELDS}
        wishes = {name: data[name] for name in WISHES if data.get(name) is not None}
        for name in ("tools", "prompts"):
            wishes[name] = tuple(wishes.get(name, ()))
        bias = wishes.get("logit_bias", {})
        wishes["logit_bias"] = {int(token): float(value) for token, value in bias.items()}
        return cls(
            messages=data["messages"],
            sampling=Sampling(**sampling),
            max_tokens=data.get("max_tokens"),
            stop=tuple(data.get("stop") or ()),
            **wishes,
        )


SAMPLING_FIELDS = frozenset(Sampling.__dataclass_fields__)
# What few requests ask for, and its default: only what differs travels.
WISHES: dict[str, Any] = {
    "ignore_eos": False,
    "n": 1,
    "top_logprobs": None,
    "logit_bias": {},
    "response_format": None,
    "tools": (),
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "template": {},
    "prompts": (),
    "echo": False,
}


def from_body(body: dict[str, Any]) -> ChatInput:
    """The contract from a request body that the API's serializer has already checked."""
    stop = body.get("stop")
    limit = body.get("max_completion_tokens")
    given = {key: body[key] for key in SAMPLING_FIELDS if body.get(key) is not None}
    return ChatInput(
        messages=body["messages"],
        sampling=Sampling(**given),
        max_tokens=limit if limit is not None else body.get("max_tokens"),
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        ignore_eos=bool(body.get("ignore_eos")),
    )


def usage_body(units: dict[str, int]) -> dict[str, int]:
    """OpenAI's usage object."""
    prompt, completion = units.get("prompt_tokens", 0), units.get("completion_tokens", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def completion_body(
    *, job_id: str, created: int, model: str, text: str, reason: str, units: dict[str, int]
) -> dict[str, Any]:
    """OpenAI's chat.completion object for a finished Job."""
    return {
        "id": completion_id(job_id),
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": reason,
            }
        ],
        "usage": usage_body(units),
    }


def completion_id(job_id: str) -> str:
    """The OpenAI id of a Job's answer."""
    return f"chatcmpl-{job_id.replace('-', '')}"
