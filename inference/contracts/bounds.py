"""The most that one request can use, from the request alone (pure).

What a budget holds back for a request follows from this, so every number is an upper bound: of the
prompt its UTF-8 bytes, in whichever normal form a tokenizer may bring it, and room for what chat
templates write around it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inference.contracts import (
    chat,
    completion,
    embeddings,
    images,
    reading,
    rerank,
    score,
    speech,
    transcription,
    translation,
    video,
)

UNKNOWN_CONTEXT = 1 << 17  # where nobody could say how long the model's is
REQUEST_TOKENS = 512  # what a template may write once: dates, a system prompt of its own
MESSAGE_TOKENS = 64  # and around each message
TOOLS_TOKENS = 1024  # and where there are tools, for how to call them
REWRITTEN = 4  # JSON that a template writes anew grows by indents and escapes
OPENERS = "<[|\uff5c\u2581"  # a literal of a control token that begins so is broken in two
ECHO_TASK = "test/echo"
SPOKEN_MS = (speech.LONGEST_SECONDS + 60) * 1000  # the last piece may pass the limit
HEARD_MS = transcription.LONGEST_SECONDS * 1000
OTHER_UNITS = ("characters", "audio_ms", "images", "pixels", "video_ms")


@dataclass(frozen=True, slots=True)
class Limits:
    """What of the model and the installation bounds a request; `context` None: not known."""

    context: int | None
    image_tokens: int
    compute_ms: int


def most_units(task: str, request: dict[str, Any], limits: Limits) -> dict[str, int]:
    """The most of each unit that the Task's input can use. Raises KeyError for another Task."""
    return dict.fromkeys(OTHER_UNITS, 0) | BOUNDS[task](request, limits)


def _text_units(request: dict[str, Any], limits: Limits) -> dict[str, int]:
    prompts = request.get("prompts") or ()
    if prompts:
        tokens = [_prompt_tokens(prompt) for prompt in prompts]
    else:
        tokens = [_conversation_tokens(request, limits)]
    room = None if limits.context is None else max(0, limits.context - 1)
    prompt = sum(tokens if room is None else (min(count, room) for count in tokens))
    wished = request.get("max_tokens")
    if wished is None:
        each = UNKNOWN_CONTEXT if room is None else room
    else:
        each = wished if room is None else min(wished, room)
    choices = chat.choice_count(request)
    return {
        "prompt_tokens": prompt,
        "cached_tokens": prompt,
        "completion_tokens": each * choices,
        "compute_ms": limits.compute_ms * choices,
    }


def _prompt_tokens(prompt: str | list[int]) -> int:
    return len(prompt) if isinstance(prompt, list) else _tokens(prompt) + 2


def _conversation_tokens(request: dict[str, Any], limits: Limits) -> int:
    messages = request.get("messages") or []
    total = REQUEST_TOKENS + MESSAGE_TOKENS * len(messages)
    for message in messages:
        for key, value in message.items():
            if key == "content":
                total += _content_tokens(value, limits)
            elif key == "tool_calls":
                total += _json_tokens(value) + MESSAGE_TOKENS * len(value or ())
            elif isinstance(value, str):
                total += _tokens(value)
    if tools := request.get("tools"):
        total += TOOLS_TOKENS + _json_tokens(tools) + MESSAGE_TOKENS * len(tools)
    return total


def _content_tokens(content: Any, limits: Limits) -> int:
    if isinstance(content, str):
        return _tokens(content)
    total = 0
    for part in content or ():
        is_text = isinstance(part, dict) and part.get("type") == "text"
        total += _tokens(part["text"]) if is_text else limits.image_tokens
    return total


def _json_tokens(value: Any) -> int:
    return REWRITTEN * _tokens(json.dumps(value, ensure_ascii=False))


def _tokens(text: str) -> int:
    """No tokenizer makes more tokens of a text than it has bytes; a piece broken off may add one."""
    if text.isascii():
        count = len(text)
    else:
        forms = (text, unicodedata.normalize("NFKD", text))
        count = max(len(form.encode(errors="replace")) for form in forms)
    return count + sum(map(text.count, OPENERS))


def _echo_units(request: dict[str, Any], limits: Limits) -> dict[str, int]:
    """The stub engine bills what it is told to."""
    return {
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "completion_tokens": max(0, int(request.get("units") or 0)),
        "compute_ms": limits.compute_ms,
    }


def _speech_units(request: dict[str, Any], limits: Limits) -> dict[str, int]:
    return {
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "completion_tokens": 0,
        "characters": len(request["text"]),
        "audio_ms": SPOKEN_MS,
        "compute_ms": limits.compute_ms,
    }


def _image_units(request: dict[str, Any], limits: Limits) -> dict[str, int]:
    return {
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "completion_tokens": 0,
        "images": request.get("count", 1),
        "pixels": images.most_pixels(request),
        "compute_ms": limits.compute_ms,
    }


def _video_units(request: dict[str, Any], limits: Limits) -> dict[str, int]:
    return {
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "completion_tokens": 0,
        "video_ms": video.most_milliseconds(request),
        "compute_ms": limits.compute_ms,
    }


def _hearing_units(request: dict[str, Any], limits: Limits) -> dict[str, int]:
    """How long a sound is only its decoding tells."""
    del request
    return {
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "completion_tokens": 0,
        "audio_ms": HEARD_MS,
        "compute_ms": limits.compute_ms,
    }


def _reading_units(task: str) -> Callable[[dict[str, Any], Limits], dict[str, int]]:
    """Of a Task that only reads: an encoder makes no tokens."""

    def units(request: dict[str, Any], limits: Limits) -> dict[str, int]:
        return {
            "prompt_tokens": reading.most_tokens(task, request),
            "cached_tokens": 0,
            "completion_tokens": 0,
            "compute_ms": limits.compute_ms,
        }

    return units


# A new Task stands here as well, or requests for it fail under a budget.
BOUNDS: dict[str, Callable[[dict[str, Any], Limits], dict[str, int]]] = {
    chat.TASK: _text_units,
    completion.TASK: _text_units,
    embeddings.TASK: _reading_units(embeddings.TASK),
    rerank.TASK: _reading_units(rerank.TASK),
    score.TASK: _reading_units(score.TASK),
    speech.TASK: _speech_units,
    images.GENERATION: _image_units,
    images.EDIT: _image_units,
    video.TEXT_TO_VIDEO: _video_units,
    video.IMAGE_TO_VIDEO: _video_units,
    transcription.TASK: _hearing_units,
    translation.TASK: _hearing_units,
    ECHO_TASK: _echo_units,
}
