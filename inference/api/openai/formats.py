"""Structured output: OpenAI's response_format and vLLM's structured_outputs."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from casola_site.core.errors import InvalidJSON
from casola_site.core.parsers import decode_json
from inference.api.openai.checks import (
    MAX_SCHEMA_BYTES,
    bad,
    checked_schema,
    missing,
    optional,
)

MAX_NAME = 256
MAX_PATTERN = 8 * 1024
MAX_CHOICES = 1_024
TYPES = ("text", "json_object", "json_schema")


@extend_schema_field(
    {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"type": "string", "enum": list(TYPES)},
            "json_schema": {
                "type": "object",
                "required": ["name", "schema"],
                "properties": {
                    "name": {"type": "string", "maxLength": MAX_NAME},
                    "description": {"type": "string"},
                    "schema": {"type": "object"},
                    "strict": {"type": "boolean", "nullable": True},
                },
            },
        },
    }
)
class ResponseFormatField(serializers.Field):
    """text, json_object, or json_schema with a schema."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """The format with what we know of it."""
        if not isinstance(data, dict):
            raise bad("must be an object")
        kind = data.get("type")
        if kind is None:
            raise missing("type")
        if kind not in TYPES:
            raise bad(f"must be one of {', '.join(TYPES)}", "type")
        if kind != "json_schema":
            return {"type": kind}
        return {"type": kind, "json_schema": self._schema(data.get("json_schema"))}

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value

    @staticmethod
    def _schema(inner: Any) -> dict[str, Any]:
        if inner is None:
            raise missing("json_schema")
        if not isinstance(inner, dict):
            raise bad("must be an object", "json_schema")
        name = inner.get("name")
        if name is None:
            raise missing("json_schema", "name")
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            raise bad(f"must be 1 to {MAX_NAME} characters", "json_schema", "name")
        if inner.get("schema") is None:
            raise missing("json_schema", "schema")
        return {
            "name": name,
            **optional(inner, "description", str, "a string", "json_schema"),
            "schema": checked_schema(inner["schema"], "json_schema", "schema"),
            **optional(inner, "strict", bool, "true or false", "json_schema"),
        }


@extend_schema_field(
    {
        "type": "object",
        "description": "Exactly one of these",
        "properties": {
            "regex": {"type": "string", "maxLength": MAX_PATTERN},
            "choice": {"type": "array", "items": {"type": "string"}, "maxItems": MAX_CHOICES},
            "grammar": {"type": "string", "maxLength": MAX_SCHEMA_BYTES},
            "json": {"type": "object"},
            "json_object": {"type": "boolean"},
        },
    }
)
class StructuredOutputsField(serializers.Field):
    """vLLM's extension: the answer follows a regular expression, a list, a grammar or a schema."""

    def to_internal_value(self, data: Any) -> dict[str, Any] | None:
        """As a response_format, or None when it asks for nothing."""
        if not isinstance(data, dict):
            raise bad("must be an object")
        given = [key for key in KINDS if data.get(key) not in (None, False)]
        if not given:
            return None
        if len(given) > 1:
            raise bad(f"must hold only one of {', '.join(KINDS)}")
        return KINDS[given[0]](data[given[0]])

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


def _text(value: Any, key: str, most: int) -> str:
    if not isinstance(value, str) or not value:
        raise bad("must be a string that is not empty", key)
    if len(value.encode()) > most:
        raise bad(f"must not be longer than {most // 1024} KB", key)
    return value


def _regex(value: Any) -> dict[str, Any]:
    return {"type": "regex", "pattern": _text(value, "regex", MAX_PATTERN)}


def _grammar(value: Any) -> dict[str, Any]:
    return {"type": "grammar", "grammar": _text(value, "grammar", MAX_SCHEMA_BYTES)}


def _choice(value: Any) -> dict[str, Any]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_CHOICES:
        raise bad(f"must be a list of 1 to {MAX_CHOICES} texts", "choice")
    if not all(isinstance(text, str) and text for text in value):
        raise bad("must hold texts that are not empty", "choice")
    if sum(len(text.encode()) for text in value) > MAX_SCHEMA_BYTES:
        raise bad(f"must not be longer than {MAX_SCHEMA_BYTES // 1024} KB", "choice")
    return {"type": "choice", "choices": value}


def _json(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = decode_json(value.encode())
        except InvalidJSON as error:
            raise bad(error.message, "json") from None
    schema = checked_schema(value, "json")
    return {"type": "json_schema", "json_schema": {"name": "json", "schema": schema}}


def _json_object(value: Any) -> dict[str, Any]:
    if value is not True:
        raise bad("must be true or false", "json_object")
    return {"type": "json_object"}


KINDS = {
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "json": _json,
    "json_object": _json_object,
}


def settle(attrs: dict[str, Any]) -> dict[str, Any]:
    """The body with structured_outputs as its response_format. Raises ValidationError for both."""
    extension = attrs.pop("structured_outputs", None)
    if extension is None:
        return attrs
    if attrs.get("response_format", {"type": "text"})["type"] != "text":
        raise bad("cannot be had together with response_format", "structured_outputs")
    return {**attrs, "response_format": extension}
