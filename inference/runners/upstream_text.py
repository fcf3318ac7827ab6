"""Chat and completion at an upstream: the contract as a request body, its chunks as Deltas."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

from inference.contracts import chat
from inference.contracts.answers import ARGUMENTS, CONTENT, REASONING
from inference.contracts.chat import ChatInput
from inference.runners.base import Delta, InvalidInput, Units
from inference.runners.upstream_link import Unreadable, clean

BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 4
MOST_COUNT = 1 << 31
MOST_CALLS = 128
OFF = {"frequency_penalty": 0.0, "presence_penalty": 0.0}
REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
PICTURES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)


def chat_body(request: ChatInput, *, takes_images: bool) -> dict[str, Any]:
    """OpenAI's fields; what the caller left open is left to the upstream. Raises InvalidInput."""
    body: dict[str, Any] = {
        "messages": [
            _message(message, index, takes_images) for index, message in enumerate(request.messages)
        ],
        **_sampling(request),
    }
    if request.top_logprobs is not None:
        body.update(logprobs=True, top_logprobs=request.top_logprobs)
    if request.response_format is not None:
        body.update(_format(request.response_format))
    if request.tools:
        choice = request.tool_choice
        body["tools"] = list(request.tools)
        body["tool_choice"] = (
            {"type": "function", "function": {"name": choice[1:]}} if choice[:1] == "=" else choice
        )
        if not request.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    if request.template:
        body["chat_template_kwargs"] = request.template
    return body


def completion_body(request: ChatInput) -> dict[str, Any]:
    """The same for the older endpoint."""
    body = {"prompt": _alone(list(request.prompts)), **_sampling(request)}
    if request.echo:
        body["echo"] = True
    if request.top_logprobs is not None:
        body["logprobs"] = request.top_logprobs
    return body


def _alone(prompts: list[Any]) -> Any:
    """A single text needs no list, and not every server takes one."""
    return prompts[0] if len(prompts) == 1 else prompts


def _sampling(request: ChatInput) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: value
        for name in sorted(chat.SAMPLING_FIELDS)
        if (value := getattr(request.sampling, name)) != OFF.get(name)
    }
    if request.max_tokens is not None:
        found["max_tokens"] = request.max_tokens
    if request.stop:
        found["stop"] = list(request.stop)
    if request.ignore_eos:
        found["ignore_eos"] = True
    if request.n != 1:
        found["n"] = request.n
    if request.logit_bias:
        found["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    return found


def _format(wish: dict[str, Any]) -> dict[str, Any]:
    match wish["type"]:
        case "json_schema":
            schema = {"name": "answer", "schema": wish["schema"]}
            if wish.get("strict"):
                schema["strict"] = True
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "regex":
            return {"structured_outputs": {"regex": wish["pattern"]}}
        case "choice":
            return {"structured_outputs": {"choice": wish["choices"]}}
        case "grammar":
            return {"structured_outputs": {"grammar": wish["grammar"]}}
    return {"response_format": {"type": wish["type"]}}


def _message(message: dict[str, Any], index: int, takes_images: bool) -> dict[str, Any]:
    found = dict(message)
    content = message.get("content")
    if isinstance(content, list):
        found["content"] = [
            _part(part, f"messages[{index}].content[{number}]", takes_images)
            for number, part in enumerate(content)
        ]
    if message.get("tool_calls"):
        found["tool_calls"] = [_call(call, n) for n, call in enumerate(message["tool_calls"])]
    return found


def _part(part: dict[str, Any], place: str, takes_images: bool) -> dict[str, Any]:
    if part.get("type") == "text":
        return part
    if not takes_images:
        raise InvalidInput("This model does not take images", param=place)
    data = part["data"]
    kind = next((kind for mark, kind in PICTURES if data.startswith(mark)), None)
    if kind is None:
        raise InvalidInput("The image cannot be read", code="invalid_image", param=place)
    address = f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": address}}


def _call(call: dict[str, Any], number: int) -> dict[str, Any]:
    """Arguments are JSON text on the wire, and every call has an id there."""
    function = call["function"]
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call.get("id") or f"call_{number}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def guessed_tokens(value: Any) -> int:
    """Tokens of a prompt that nobody counted: one for every four bytes of its texts."""
    if isinstance(value, str):
        return -(-len(value.encode(errors="replace")) // BYTES_PER_TOKEN)
    if isinstance(value, list | tuple):
        if value and all(isinstance(one, int) for one in value):
            return len(value)
        return sum(map(guessed_tokens, value))
    if isinstance(value, dict):
        return guessed_tokens([one for key, one in value.items() if key != "image_url"])
    return 0


def guessed_prompt(request: ChatInput) -> int:
    """The same for a whole request."""
    messages = MESSAGE_TOKENS * len(request.messages)
    return messages + guessed_tokens([request.messages, list(request.tools), list(request.prompts)])


class AnswerReader:
    """Reads chunks (or one whole answer) of either endpoint. Raises Unreadable.

    Until the upstream tells its usage, each piece that holds text counts as one token.
    """

    def __init__(self, request_id: str, request: ChatInput) -> None:
        """For one request."""
        self.usage: dict[str, Any] = {}
        self._request_id = request_id
        self._count = chat.choice_count(request.as_dict())
        self._limit = request.max_tokens
        self._prompt = guessed_prompt(request)
        self._pieces = 0
        self._thought = 0
        self._reasons: dict[int, str] = {}
        self._calls: set[tuple[int, int]] = set()

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended."""
        return len(self._reasons) == self._count

    @property
    def reason(self) -> str:
        """Why the only choice ended."""
        return self._reasons.get(0, "stop") if self._count == 1 else "stop"

    @property
    def prompt_tokens(self) -> int:
        """So far."""
        return count_of(self.usage, "prompt_tokens", self._prompt)

    def units(self, compute_ms: int) -> Units:
        """What it has used so far."""
        prompt = self.usage.get("prompt_tokens_details")
        completion = self.usage.get("completion_tokens_details")
        return Units(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self._completion,
            cached_tokens=min(count_of(prompt, "cached_tokens", 0), self.prompt_tokens),
            reasoning_tokens=min(
                count_of(completion, "reasoning_tokens", self._thought), self._completion
            ),
            compute_ms=compute_ms,
        )

    @property
    def _completion(self) -> int:
        return count_of(self.usage, "completion_tokens", self._pieces)

    def read(self, body: dict[str, Any], *, is_whole: bool = False) -> list[Delta]:
        """What a chunk says. An answer in one piece counts a token for every four bytes."""
        if isinstance(body.get("usage"), dict):
            self.usage = body["usage"]
        choices = body.get("choices")
        if not isinstance(choices, list):
            raise Unreadable
        found = [delta for choice in choices for delta in self._choice(choice, is_whole)]
        if is_whole and self._limit is not None:
            self._pieces = min(self._pieces, self._limit * self._count)
        return found

    def _choice(self, choice: Any, is_whole: bool) -> list[Delta]:
        index = choice.get("index", 0) if isinstance(choice, dict) else None
        if type(index) is not int or not 0 <= index < self._count:
            raise Unreadable
        if index in self._reasons:
            return []
        body = choice.get("message") if is_whole else choice.get("delta")
        pieces = self._pieces_of(body if isinstance(body, dict) else choice, index)
        logprobs = _logprobs(choice.get("logprobs"))
        if logprobs and not pieces:
            pieces = [(CONTENT, 0, None, "")]
        found = []
        for number, (kind, call, opens, text) in enumerate(pieces):
            self._count_piece(kind, text, is_whole)
            found.append(
                Delta(
                    self._request_id,
                    text,
                    self._completion,
                    choice=index,
                    kind=kind,
                    call=call,
                    opens=opens,
                    logprobs=() if number else logprobs,
                )
            )
        if (reason := choice.get("finish_reason")) is not None:
            self._reasons[index] = REASONS.get(str(reason), "stop")
            if self._count > 1:
                ended = self._reasons[index]
                found.append(
                    Delta(self._request_id, "", self._completion, choice=index, reason=ended)
                )
        return found

    def _count_piece(self, kind: str, text: str, is_whole: bool) -> None:
        tokens = guessed_tokens(text) if is_whole else 1
        self._pieces += tokens
        self._thought += tokens if kind == REASONING else 0

    def _pieces_of(
        self, body: dict[str, Any], index: int
    ) -> list[tuple[str, int, tuple[str, str] | None, str]]:
        """(kind, call, opens, text) of everything in a delta, a message or an old choice."""
        found: list[tuple[str, int, tuple[str, str] | None, str]] = []
        for kind, names in (
            (REASONING, ("reasoning_content", "reasoning")),
            (CONTENT, ("content", "text", "refusal")),
        ):
            texts = [body.get(name) for name in names]
            text = next((one for one in texts if one not in (None, "")), "")
            if not isinstance(text, str):
                raise Unreadable
            if text:
                found.append((kind, 0, None, clean(text)))
        calls = body.get("tool_calls") or []
        if not isinstance(calls, list):
            raise Unreadable
        for number, call in enumerate(calls):
            found.append(self._tool_call(call, number, index))
        return found

    def _tool_call(
        self, call: Any, number: int, index: int
    ) -> tuple[str, int, tuple[str, str] | None, str]:
        at = call.get("index", number) if isinstance(call, dict) else None
        function = call.get("function") if isinstance(call, dict) else None
        if type(at) is not int or not 0 <= at < MOST_CALLS or not isinstance(function, dict):
            raise Unreadable
        name, text = function.get("name"), function.get("arguments") or ""
        if not isinstance(text, str):
            raise Unreadable
        opens = None
        if (index, at) not in self._calls:
            if not isinstance(name, str) or not name:
                raise Unreadable
            self._calls.add((index, at))
            given = call.get("id")
            call_id = given if isinstance(given, str) and given else f"call_{index}_{at}"
            opens = (clean(call_id), clean(name))
        return ARGUMENTS, at, opens, clean(text)


def count_of(usage: Any, name: str, otherwise: int) -> int:
    """A number of the upstream's, or ours where it has none that makes sense."""
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if type(found) is int and 0 <= found < MOST_COUNT else otherwise


def _logprobs(found: Any) -> tuple[dict[str, Any], ...]:
    """OpenAI's objects, one per token, from either endpoint's form."""
    if not isinstance(found, dict):
        return ()
    if isinstance(found.get("content"), list):
        return tuple(_token(entry) for entry in found["content"])
    if not isinstance(found.get("tokens"), list):
        return ()
    values, tops = found.get("token_logprobs"), found.get("top_logprobs")
    if not isinstance(values, list) or len(values) != len(found["tokens"]):
        raise Unreadable
    tops = tops if isinstance(tops, list) and len(tops) == len(values) else [None] * len(values)
    return tuple(
        _token(
            {
                "token": token,
                "logprob": value,
                "top_logprobs": [
                    {"token": other, "logprob": number} for other, number in (top or {}).items()
                ],
            }
        )
        for token, value, top in zip(found["tokens"], values, tops, strict=True)
        if value is not None  # an echoed prompt's first token has none
    )


def _token(entry: Any, *, is_top: bool = False) -> dict[str, Any]:
    token = entry.get("token") if isinstance(entry, dict) else None
    logprob = entry.get("logprob") if isinstance(entry, dict) else None
    if not isinstance(token, str) or not isinstance(logprob, int | float):
        raise Unreadable
    if not math.isfinite(logprob):
        raise Unreadable
    found: dict[str, Any] = {"token": clean(token), "logprob": logprob, "bytes": entry.get("bytes")}
    if not isinstance(found["bytes"], list):
        found["bytes"] = list(found["token"].encode())
    if not is_top:
        tops = entry.get("top_logprobs") or []
        found["top_logprobs"] = [_token(top, is_top=True) for top in tops]
    return found
