"""The conversation of a chat request."""

from __future__ import annotations

import re
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from casola_site.core.errors import InvalidJSON
from casola_site.core.parsers import decode_json
from inference.api.openai.checks import bad, fits_64_bits
from inference.api.openai.tools import MAX_TOOLS

MAX_MESSAGES = 2_000
MAX_IMAGES = 16
MAX_URL = 8_192
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
IMAGES = ("image_url", "input_image")
DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp|gif);base64,", re.IGNORECASE)
WEB_URL = re.compile(r"https?://[^\s/]", re.IGNORECASE)

TEXT_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {
        "type": {"type": "string", "enum": ["text"]},
        "text": {"type": "string"},
    },
}
IMAGE_PART = {
    "type": "object",
    "required": ["type", "image_url"],
    "properties": {
        "type": {"type": "string", "enum": ["image_url"]},
        "image_url": {
            "type": "object",
            "required": ["url"],
            "properties": {
                "url": {"type": "string", "description": "https:// or data:image/…;base64,"},
                "detail": {"type": "string"},
            },
        },
    },
}
TOOL_CALL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"type": "string", "enum": ["function"]},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
        },
    },
}


@extend_schema_field(
    {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_MESSAGES,
        "items": {
            "type": "object",
            "required": ["role"],
            "properties": {
                "role": {"type": "string", "enum": sorted(ROLES)},
                "content": {
                    "nullable": True,
                    "oneOf": [
                        {"type": "string"},
                        {"type": "array", "items": {"oneOf": [TEXT_PART, IMAGE_PART]}},
                    ],
                },
                "name": {"type": "string"},
                "tool_calls": {"type": "array", "items": TOOL_CALL},
                "tool_call_id": {"type": "string"},
                "reasoning_content": {"type": "string", "nullable": True},
            },
        },
    }
)
class MessagesField(serializers.Field):
    """The conversation, normalised: known roles; content text, null or, with images, parts."""

    default_error_messages = {"required": "is required", "null": "is required"}

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        """Messages as plain dicts; text parts without images are joined."""
        if not isinstance(data, list):
            raise bad("must be a list")
        if not 0 < len(data) <= MAX_MESSAGES:
            raise bad(f"must hold 1 to {MAX_MESSAGES} messages")
        messages = [self._message(item, index) for index, item in enumerate(data)]
        self._count_images(messages)
        return messages

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value

    def _message(self, item: Any, index: int) -> dict[str, Any]:
        if not isinstance(item, dict):
            raise bad("must be an object", index)
        role = item.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise bad(f"must be one of {', '.join(sorted(ROLES))}", index, "role")
        message: dict[str, Any] = {"role": ROLES[role], "content": self._content(item, index)}
        for key in ("name", "tool_call_id", "reasoning_content"):
            value = item.get(key)
            if value is not None:
                if not isinstance(value, str):
                    raise bad("must be a string", index, key)
                message[key] = value
        calls = self._calls(item, index)
        if calls:
            message["tool_calls"] = calls
        if message["content"] is None and not calls:
            if role != "assistant":
                raise bad("must be a string or a list of text parts", index, "content")
            message["content"] = ""
        return message

    def _content(self, item: dict[str, Any], index: int) -> str | list[dict[str, Any]] | None:
        content = item.get("content")
        if content is None or isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise bad("must be a string or a list of parts", index, "content")
        may_show = item.get("role") == "user"
        parts = [
            self._part(part, may_show, (index, "content", n)) for n, part in enumerate(content)
        ]
        if any(part["type"] == "image" for part in parts):
            return parts
        return "".join(part["text"] for part in parts)

    def _part(self, part: Any, may_show: bool, place: tuple[Any, ...]) -> dict[str, Any]:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise bad("must be a text part", *place, "type")
        if kind in TEXTS:
            key = TEXTS[kind]
            if not isinstance(part.get(key), str):
                raise bad("must be a string", *place, key)
            return {"type": "text", "text": part[key]}
        if kind not in IMAGES:
            raise bad(f"this model takes text only, not {kind!r}"[:200], *place, "type")
        if not may_show:
            raise bad("only user messages may hold images", *place, "type")
        return {"type": "image", "url": self._url(part.get("image_url"), place)}

    @staticmethod
    def _url(image: Any, place: tuple[Any, ...]) -> str:
        place = (*place, "image_url")
        if isinstance(image, dict):
            image, place = image.get("url"), (*place, "url")
        if not isinstance(image, str):
            raise bad("must be the address of an image", *place)
        if DATA_URL.match(image) or (WEB_URL.match(image) and len(image) <= MAX_URL):
            return image
        raise bad(
            "must be an http(s) address or data:image/png, jpeg, webp or gif in base64", *place
        )

    @staticmethod
    def _count_images(messages: list[dict[str, Any]]) -> None:
        count = 0
        for index, message in enumerate(messages):
            if isinstance(message["content"], list):
                count += sum(part["type"] == "image" for part in message["content"])
            if count > MAX_IMAGES:
                raise bad(f"a request may hold at most {MAX_IMAGES} images", index, "content")

    def _calls(self, item: dict[str, Any], index: int) -> list[dict[str, Any]]:
        calls, place = item.get("tool_calls"), (index, "tool_calls")
        if calls is None and item.get("function_call") is not None:
            return [self._call({"function": item["function_call"]}, (index, "function_call"))]
        if calls in (None, "", False, 0, {}):
            return []
        if not isinstance(calls, list) or len(calls) > MAX_TOOLS:
            raise bad("must be a list of tool calls", *place)
        return [self._call(call, (*place, n, "function")) for n, call in enumerate(calls)]

    @staticmethod
    def _call(call: Any, place: tuple[Any, ...]) -> dict[str, Any]:
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        arguments = function.get("arguments", "{}") if isinstance(function, dict) else None
        if not isinstance(name, str) or not isinstance(arguments, str | dict):
            raise bad("must name a function", *place)
        if isinstance(arguments, str):
            try:
                arguments = decode_json((arguments or "{}").encode())
            except InvalidJSON as error:
                raise bad(error.message, *place, "arguments") from None
        if not fits_64_bits(arguments):
            raise bad("must not hold integers beyond 64 bits", *place, "arguments")
        made: dict[str, Any] = {"type": "function"}
        if isinstance(call.get("id"), str):
            made["id"] = call["id"]
        made["function"] = {"name": name, "arguments": arguments}
        return made
