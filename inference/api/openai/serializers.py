"""Bodies of the OpenAI surface."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from casola_site.core.errors import InvalidJSON
from casola_site.core.fields import (
    StrictBooleanField,
    StrictCharField,
    StrictFloatField,
    StrictIntegerField,
    StrictSerializer,
)
from casola_site.core.parsers import decode_json

MAX_MESSAGES = 2_000
MAX_STOPS = 4
MAX_STOP_LENGTH = 500
MAX_TOOLS = 128
MAX_N = 128
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
INT64 = 2**63


def _bad(message: str, *path: Any) -> serializers.ValidationError:
    """A ValidationError whose param reads like `messages[0].content`."""
    detail: Any = serializers.ErrorDetail(message, code="invalid_value")
    for key in reversed(path):
        detail = {f"[{key}]" if isinstance(key, int) else key: detail}
    return serializers.ValidationError(detail)


def fits_64_bits(value: Any) -> bool:
    """Whether every integer in it can travel to a Runner."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, int) and not -INT64 <= item < 2 * INT64:
            return False
        if isinstance(item, dict | list):
            stack.extend(item.values() if isinstance(item, dict) else item)
    return True


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
                        {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["type", "text"],
                                "properties": {
                                    "type": {"type": "string", "enum": ["text"]},
                                    "text": {"type": "string"},
                                },
                            },
                        },
                    ],
                },
                "name": {"type": "string"},
                "tool_call_id": {"type": "string"},
            },
        },
    }
)
class MessagesField(serializers.Field):
    """The conversation, normalised: known roles, content text or null."""

    default_error_messages = {"required": "is required", "null": "is required"}

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        """Messages as plain dicts; text parts are joined."""
        if not isinstance(data, list):
            raise _bad("must be a list")
        if not 0 < len(data) <= MAX_MESSAGES:
            raise _bad(f"must hold 1 to {MAX_MESSAGES} messages")
        return [self._message(item, index) for index, item in enumerate(data)]

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value

    def _message(self, item: Any, index: int) -> dict[str, Any]:
        if not isinstance(item, dict):
            raise _bad("must be an object", index)
        role = item.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise _bad(f"must be one of {', '.join(sorted(ROLES))}", index, "role")
        message: dict[str, Any] = {"role": ROLES[role], "content": self._content(item, index)}
        for key in ("name", "tool_call_id"):
            value = item.get(key)
            if value is not None:
                if not isinstance(value, str):
                    raise _bad("must be a string", index, key)
                message[key] = value
        calls = item.get("tool_calls")
        if calls:
            message["tool_calls"] = self._calls(calls, index)
        if message["content"] is None and not calls:
            if role != "assistant":
                raise _bad("must be a string or a list of text parts", index, "content")
            message["content"] = ""
        return message

    def _content(self, item: dict[str, Any], index: int) -> str | None:
        content = item.get("content")
        if content is None or isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise _bad("must be a string or a list of parts", index, "content")
        texts = []
        for number, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind not in ("text", "input_text", "refusal"):
                what = (
                    f"this model takes text only, not {kind!r}"
                    if isinstance(kind, str)
                    else "must be a text part"
                )
                raise _bad(what[:200], index, "content", number, "type")
            text = part.get("refusal" if kind == "refusal" else "text")
            if not isinstance(text, str):
                raise _bad("must be a string", index, "content", number, "text")
            texts.append(text)
        return "".join(texts)

    def _calls(self, calls: Any, index: int) -> list[dict[str, Any]]:
        if not isinstance(calls, list) or len(calls) > MAX_TOOLS:
            raise _bad("must be a list of tool calls", index, "tool_calls")
        found = []
        for number, call in enumerate(calls):
            place = (index, "tool_calls", number, "function")
            function = call.get("function") if isinstance(call, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            arguments = function.get("arguments", "{}") if isinstance(function, dict) else None
            if not isinstance(name, str) or not isinstance(arguments, str | dict):
                raise _bad("must name a function", *place)
            if isinstance(arguments, str):
                try:
                    arguments = decode_json((arguments or "{}").encode())
                except InvalidJSON as error:
                    raise _bad(error.message, *place, "arguments") from None
            if not fits_64_bits(arguments):
                raise _bad("must not hold integers beyond 64 bits", *place, "arguments")
            found.append({"type": "function", "function": {"name": name, "arguments": arguments}})
        return found


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "maxItems": MAX_STOPS},
        ]
    }
)
class StopField(serializers.Field):
    """One stop text or up to four."""

    def to_internal_value(self, data: Any) -> list[str]:
        """A list without empty texts."""
        texts = [data] if isinstance(data, str) else data
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise _bad("must be a string or a list of strings")
        if len(texts) > MAX_STOPS:
            raise _bad(f"must hold at most {MAX_STOPS} texts")
        if any(len(text) > MAX_STOP_LENGTH for text in texts):
            raise _bad(f"must be at most {MAX_STOP_LENGTH} characters each")
        return [text for text in texts if text]

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


class StreamOptionsSerializer(StrictSerializer):
    """What a stream carries besides the text."""

    include_usage = StrictBooleanField(required=False, help_text="A last chunk with the usage")


class ResponseFormatSerializer(StrictSerializer):
    """`{"type": "text"}`; structured output is not offered yet and is refused."""

    type = StrictCharField()


class ChatCompletionRequest(StrictSerializer):
    """OpenAI's chat completion request. Unknown fields are ignored, null means absent."""

    model = StrictCharField(max_length=200)
    messages = MessagesField()
    max_tokens = StrictIntegerField(required=False, min_value=1, max_value=10_000_000)
    max_completion_tokens = StrictIntegerField(required=False, min_value=1, max_value=10_000_000)
    temperature = StrictFloatField(required=False, min_value=0, max_value=2)
    top_p = StrictFloatField(required=False, max_value=1)
    top_k = StrictIntegerField(required=False, min_value=0, max_value=1_000_000)
    min_p = StrictFloatField(required=False, min_value=0, max_value=1)
    frequency_penalty = StrictFloatField(required=False, min_value=-2, max_value=2)
    presence_penalty = StrictFloatField(required=False, min_value=-2, max_value=2)
    repetition_penalty = StrictFloatField(required=False, max_value=10)
    seed = StrictIntegerField(required=False, min_value=-INT64, max_value=INT64 - 1)
    stop = StopField(required=False)
    n = StrictIntegerField(required=False, min_value=1, max_value=MAX_N)
    stream = StrictBooleanField(required=False)
    stream_options = StreamOptionsSerializer(required=False)
    ignore_eos = StrictBooleanField(required=False)
    logprobs = StrictBooleanField(required=False)
    top_logprobs = StrictIntegerField(required=False, min_value=0, max_value=20)
    logit_bias = serializers.DictField(required=False)
    response_format = ResponseFormatSerializer(required=False)
    tools = serializers.ListField(required=False, max_length=MAX_TOOLS)
    tool_choice = serializers.JSONField(required=False)

    def validate_top_p(self, value: float) -> float:
        """Zero would leave no token."""
        if value <= 0:
            raise _bad("must be above 0")
        return value

    def validate_repetition_penalty(self, value: float) -> float:
        """It divides."""
        if value <= 0:
            raise _bad("must be above 0")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse what the engine cannot do yet rather than ignore it."""
        if attrs.get("n", 1) > 1:
            raise self._unsupported("n", "more than one choice")
        if attrs.get("logprobs") or attrs.get("top_logprobs"):
            raise self._unsupported("logprobs", "log probabilities")
        if attrs.get("logit_bias"):
            raise self._unsupported("logit_bias", "logit bias")
        if attrs.get("response_format", {"type": "text"})["type"] != "text":
            raise self._unsupported("response_format", "structured output")
        if attrs.get("tools") and attrs.get("tool_choice") != "none":
            raise self._unsupported("tools", "tool calls")
        return attrs

    @staticmethod
    def _unsupported(param: str, what: str) -> serializers.ValidationError:
        message = serializers.ErrorDetail(
            f"{what} are not supported yet", code="unsupported_parameter"
        )
        return serializers.ValidationError({param: message})


class UsageSerializer(serializers.Serializer):
    """Token counts."""

    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class AssistantMessageSerializer(serializers.Serializer):
    """The answer's text."""

    role = serializers.CharField()
    content = serializers.CharField(allow_null=True)


class ChoiceSerializer(serializers.Serializer):
    """One answer."""

    index = serializers.IntegerField()
    message = AssistantMessageSerializer()
    logprobs = serializers.JSONField(allow_null=True)
    finish_reason = serializers.CharField()


class ChatCompletionSerializer(serializers.Serializer):
    """OpenAI's chat.completion."""

    id = serializers.CharField()
    object = serializers.CharField()
    created = serializers.IntegerField()
    model = serializers.CharField()
    choices = ChoiceSerializer(many=True)
    usage = UsageSerializer()


class ModelSerializer(serializers.Serializer):
    """One model."""

    id = serializers.CharField()
    object = serializers.CharField()
    created = serializers.IntegerField()
    owned_by = serializers.CharField()


class ModelListSerializer(serializers.Serializer):
    """All models."""

    object = serializers.CharField()
    data = ModelSerializer(many=True)
