"""Requests of the OpenAI surface: what is taken, how it is checked, and what it comes to."""

from __future__ import annotations

import re
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from casola_site.core.fields import (
    StrictBooleanField,
    StrictCharField,
    StrictFloatField,
    StrictIntegerField,
    StrictSerializer,
)
from inference.api.later import InferenceRequest
from inference.api.openai import formats, tools
from inference.api.openai.checks import INT64, bad, is_number
from inference.api.openai.formats import ResponseFormatField, StructuredOutputsField
from inference.api.openai.messages import MessagesField
from inference.api.openai.tools import (
    FunctionCallField,
    FunctionsField,
    ToolChoiceField,
    ToolsField,
)

MAX_STOPS = 4
MAX_STOP_LENGTH = 500
MAX_N = 128
MAX_BIAS = 1_024
MAX_PROMPTS = 128
MAX_TOKEN_ID = 2**31 - 1
TOKEN_ID = re.compile(r"[0-9]{1,10}")
# What of a chat template a caller may turn; nothing that is text.
TEMPLATE_SWITCHES = ("enable_thinking", "thinking", "preserve_thinking")
EFFORTS = {
    "none": False,
    "minimal": False,
    "low": False,
    "medium": True,
    "high": True,
    "xhigh": True,
    "max": True,
}


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
            raise bad("must be a string or a list of strings")
        if len(texts) > MAX_STOPS:
            raise bad(f"must hold at most {MAX_STOPS} texts")
        if any(len(text) > MAX_STOP_LENGTH for text in texts):
            raise bad(f"must be at most {MAX_STOP_LENGTH} characters each")
        return [text for text in texts if text]

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


@extend_schema_field(
    {
        "type": "object",
        "maxProperties": MAX_BIAS,
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "description": "Token id -> what is added to its logit",
    }
)
class LogitBiasField(serializers.Field):
    """Token ids (as texts) with a bias each."""

    def to_internal_value(self, data: Any) -> dict[str, float]:
        """The same with floats."""
        if not isinstance(data, dict):
            raise bad("must be an object")
        if len(data) > MAX_BIAS:
            raise bad(f"must hold at most {MAX_BIAS} tokens")
        for token, bias in data.items():
            if not TOKEN_ID.fullmatch(token) or int(token) > MAX_TOKEN_ID:
                raise bad(f"{token[:40]!r} is no token id")
            if not is_number(bias) or not -100 <= bias <= 100:
                raise bad(f"the bias of token {token} must be between -100 and 100")
        return {str(int(token)): float(bias) for token, bias in data.items()}

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


@extend_schema_field(
    {"type": "object", "properties": {name: {"type": "boolean"} for name in TEMPLATE_SWITCHES}}
)
class TemplateSwitchesField(serializers.Field):
    """vLLM's extension: switches of the model's chat template, from a short list."""

    def to_internal_value(self, data: Any) -> dict[str, bool]:
        """The switches that are set."""
        if not isinstance(data, dict):
            raise bad("must be an object")
        switches = {}
        for key, value in data.items():
            if key not in TEMPLATE_SWITCHES:
                raise bad(f"must be one of {', '.join(TEMPLATE_SWITCHES)}", key[:64])
            if value is None:
                continue
            if not isinstance(value, bool):
                raise bad("must be true or false", key)
            switches[key] = value
        return switches

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "maxItems": MAX_PROMPTS},
            {"type": "array", "items": {"type": "integer"}},
            {
                "type": "array",
                "items": {"type": "array", "items": {"type": "integer"}},
                "maxItems": MAX_PROMPTS,
            },
        ]
    }
)
class PromptField(serializers.Field):
    """A text, token ids of the model, or a list of either."""

    default_error_messages = {"required": "is required", "null": "is required"}

    def to_internal_value(self, data: Any) -> list[str | list[int]]:
        """A list of texts and token lists."""
        if isinstance(data, str):
            return [self._checked(data)]
        if not isinstance(data, list) or not data:
            raise bad("must be a string, token ids, or a list of these that is not empty")
        if not isinstance(data[0], str | list):
            return [self._checked(data)]
        if len(data) > MAX_PROMPTS:
            raise bad(f"must hold at most {MAX_PROMPTS} prompts")
        return [self._checked(prompt, index) for index, prompt in enumerate(data)]

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value

    @staticmethod
    def _checked(prompt: Any, *path: int) -> str | list[int]:
        if not isinstance(prompt, str | list):
            raise bad("must be a string or a list of token ids", *path)
        if not prompt:
            raise bad("must not be empty", *path)
        if isinstance(prompt, list) and not all(
            type(token) is int and 0 <= token <= MAX_TOKEN_ID for token in prompt
        ):
            raise bad("must hold token ids only", *path)
        return prompt


class StreamOptionsSerializer(StrictSerializer):
    """What a stream carries besides the text."""

    include_usage = StrictBooleanField(required=False, help_text="A last chunk with the usage")


class SamplingRequest(InferenceRequest):
    """What both ways to complete text take."""

    model = StrictCharField(max_length=200)
    max_tokens = StrictIntegerField(required=False, min_value=1, max_value=10_000_000)
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
    ignore_eos = StrictBooleanField(
        required=False, help_text="Go on until max_tokens, whatever the model says"
    )
    logit_bias = LogitBiasField(required=False)

    def validate_top_p(self, value: float) -> float:
        """Zero would leave no token."""
        if value <= 0:
            raise bad("must be above 0")
        return value

    def validate_repetition_penalty(self, value: float) -> float:
        """It divides."""
        if value <= 0:
            raise bad("must be above 0")
        return value


class ChatCompletionRequest(SamplingRequest):
    """OpenAI's chat completion request. Unknown fields are ignored, null means absent."""

    messages = MessagesField()
    max_completion_tokens = StrictIntegerField(required=False, min_value=1, max_value=10_000_000)
    logprobs = StrictBooleanField(required=False)
    top_logprobs = StrictIntegerField(required=False, min_value=0, max_value=20)
    response_format = ResponseFormatField(required=False)
    structured_outputs = StructuredOutputsField(required=False)
    tools = ToolsField(required=False)
    tool_choice = ToolChoiceField(required=False)
    parallel_tool_calls = StrictBooleanField(required=False)
    functions = FunctionsField(required=False, help_text="Old name of tools")
    function_call = FunctionCallField(required=False, help_text="Old name of tool_choice")
    chat_template_kwargs = TemplateSwitchesField(required=False)
    reasoning_effort = StrictCharField(
        required=False, help_text="none, minimal and low: no thinking; medium and above: thinking"
    )

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """A template is a program: one from outside is never run."""
        if isinstance(data, dict) and data.get("chat_template") is not None:
            raise bad("must not be sent: the model's own is used", "chat_template")
        return super().to_internal_value(data)

    def validate_reasoning_effort(self, value: str) -> str:
        """One of OpenAI's words."""
        if value not in EFFORTS:
            raise bad(f"must be one of {', '.join(EFFORTS)}")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """What several fields say together, in the contract's words."""
        if "top_logprobs" in attrs and not attrs.get("logprobs"):
            raise bad("needs logprobs to be true", "top_logprobs")
        if not NEEDS_SETTLING.isdisjoint(attrs):
            attrs = formats.settle(tools.settle(attrs))
            attrs["chat_template_kwargs"] = _switches(attrs)
        return attrs


NEEDS_SETTLING = frozenset(
    (
        "tools",
        "tool_choice",
        "functions",
        "function_call",
        "structured_outputs",
        "reasoning_effort",
        "chat_template_kwargs",
    )
)


def _switches(attrs: dict[str, Any]) -> dict[str, bool]:
    """Template switches; `thinking` and `enable_thinking` are two models' names of one thing."""
    switches = dict(attrs.get("chat_template_kwargs") or {})
    thinks = switches.get("enable_thinking", switches.get("thinking"))
    if thinks is None and (effort := attrs.get("reasoning_effort")) is not None:
        thinks = EFFORTS[effort]
    if thinks is not None:
        switches.setdefault("enable_thinking", thinks)
        switches.setdefault("thinking", thinks)
    return switches


class CompletionRequest(SamplingRequest):
    """OpenAI's older completion request. Unknown fields are ignored, null means absent."""

    prompt = PromptField()
    echo = StrictBooleanField(required=False, help_text="Put the prompt before the answer")
    suffix = StrictCharField(
        required=False, allow_blank=True, help_text="Not offered: anything but empty is refused"
    )
    best_of = StrictIntegerField(
        required=False, min_value=1, max_value=MAX_N, help_text="Must be equal to n"
    )
    logprobs = StrictIntegerField(required=False, min_value=0, max_value=5)

    def validate_suffix(self, value: str) -> str:
        """No model here fills in the middle."""
        if value:
            raise bad("is not supported", code="unsupported_parameter")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """The number of answers is bounded."""
        n = attrs.get("n", 1)
        if attrs.get("best_of", n) != n:
            raise bad("must be equal to n", "best_of", code="unsupported_parameter")
        if n * len(attrs["prompt"]) > MAX_PROMPTS:
            raise bad(f"prompts times n must be at most {MAX_PROMPTS}", "n")
        return attrs
