"""Chat completion: what a runner is given and what it answers (Task `openai/chat-completion`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from inference.contracts.answers import Choices, ChoiceSoFar

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
    `response_format` is None or a dict with `type`: json_object, json_schema (`schema`, `strict`),
    regex (`pattern`), choice (`choices`, texts) or grammar (`grammar`).
    `tools` are OpenAI's function tools; `tool_choice` is none, auto, required or `=name`.
    `template` goes to the chat template as keyword arguments; without `enable_thinking` in it a
    model that can think does not.
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
    limit = body.get("max_completion_tokens")
    return ChatInput(
        messages=body["messages"],
        sampling=sampling_of(body),
        max_tokens=limit if limit is not None else body.get("max_tokens"),
        stop=stops_of(body),
        ignore_eos=bool(body.get("ignore_eos")),
        n=body.get("n") or 1,
        top_logprobs=(body.get("top_logprobs") or 0) if body.get("logprobs") else None,
        logit_bias=bias_of(body),
        response_format=format_of(body.get("response_format")),
        tools=tuple(body.get("tools") or ()),
        tool_choice=body.get("tool_choice") or "auto",
        parallel_tool_calls=body.get("parallel_tool_calls") is not False,
        template=body.get("chat_template_kwargs") or {},
    )


def sampling_of(body: dict[str, Any]) -> Sampling:
    """How a checked body wants its tokens chosen."""
    return Sampling(**{key: body[key] for key in SAMPLING_FIELDS if body.get(key) is not None})


def stops_of(body: dict[str, Any]) -> tuple[str, ...]:
    """The stop texts of a checked body."""
    stop = body.get("stop")
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)


def bias_of(body: dict[str, Any]) -> dict[int, float]:
    """The logit bias of a checked body by token id."""
    bias = body.get("logit_bias") or {}
    return {int(token): float(value) for token, value in bias.items()}


def format_of(wish: dict[str, Any] | None) -> dict[str, Any] | None:
    """A checked `response_format` in the contract's words; plain text is None."""
    if wish is None or wish["type"] == "text":
        return None
    if wish["type"] != "json_schema":
        return wish
    inner = wish["json_schema"]
    return {
        "type": "json_schema",
        "schema": inner["schema"],
        "strict": bool(inner.get("strict")),
    }


def choice_count(request: dict[str, Any]) -> int:
    """How many choices the answer to a contract (as a dict) has."""
    return (request.get("n") or 1) * max(1, len(request.get("prompts") or ()))


def usage_body(units: dict[str, int]) -> dict[str, Any]:
    """OpenAI's usage object."""
    prompt, completion = units.get("prompt_tokens", 0), units.get("completion_tokens", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": units.get("cached_tokens", 0)},
        "completion_tokens_details": {"reasoning_tokens": units.get("reasoning_tokens", 0)},
    }


def message_body(choice: ChoiceSoFar) -> dict[str, Any]:
    """OpenAI's assistant message; content is null where there are tool calls and no text."""
    text = choice.text
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.calls and not text else text,
    }
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.calls:
        message["tool_calls"] = [call.body() for _, call in sorted(choice.calls.items())]
    return message


def choice_bodies(choices: Choices) -> list[dict[str, Any]]:
    """OpenAI's choices of a finished answer."""
    return [
        {
            "index": index,
            "message": message_body(choice),
            "logprobs": {"content": choice.logprobs, "refusal": None} if choice.logprobs else None,
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
    """OpenAI's chat.completion object for a finished Job."""
    return {
        "id": completion_id(job_id),
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": usage_body(units),
    }


def completion_id(job_id: str) -> str:
    """The OpenAI id of a Job's answer."""
    return f"chatcmpl-{job_id.replace('-', '')}"
