"""The tools of a chat request, and which of them the model may or must call."""

from __future__ import annotations

import re
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from inference.api.openai.checks import bad, checked_schema, missing, optional

MAX_TOOLS = 128
NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
CHOICES = ("none", "auto", "required")

FUNCTION = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
        "description": {"type": "string"},
        "parameters": {"type": "object", "description": "JSON Schema of the arguments"},
        "strict": {"type": "boolean"},
    },
}
NAMED = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": {"type": "string", "enum": ["function"]},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string"}},
        },
    },
}
ALLOWED = {
    "type": "object",
    "required": ["type", "allowed_tools"],
    "properties": {
        "type": {"type": "string", "enum": ["allowed_tools"]},
        "allowed_tools": {
            "type": "object",
            "properties": {
                "mode": {"type": "string", "enum": ["auto", "required"]},
                "tools": {"type": "array", "items": NAMED},
            },
        },
    },
}


def _function(found: Any, *path: Any) -> dict[str, Any]:
    """One function's declaration with what we know of it."""
    if not isinstance(found, dict):
        raise bad("must be an object", *path)
    name = found.get("name")
    if name is None:
        raise missing(*path, "name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise bad("must be 1 to 64 letters, digits, dots, dashes or underscores", *path, "name")
    parameters = found.get("parameters")
    return {
        "name": name,
        **optional(found, "description", str, "a string", *path),
        **(
            {}
            if parameters is None
            else {"parameters": checked_schema(parameters, *path, "parameters")}
        ),
        **optional(found, "strict", bool, "true or false", *path),
    }


def _unique(tools: list[dict[str, Any]], path: str) -> list[dict[str, Any]]:
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        name = tool["function"]["name"]
        if name in seen:
            raise bad(f"{name!r} is there twice", index, *([path] if path else []), "name")
        seen.add(name)
    return tools


def _listed(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise bad("must be a list")
    if len(data) > MAX_TOOLS:
        raise bad(f"must hold at most {MAX_TOOLS}")
    return data


@extend_schema_field(
    {
        "type": "array",
        "maxItems": MAX_TOOLS,
        "items": {
            "type": "object",
            "required": ["type", "function"],
            "properties": {"type": {"type": "string", "enum": ["function"]}, "function": FUNCTION},
        },
    }
)
class ToolsField(serializers.Field):
    """Function tools, each with what we know of it."""

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        """OpenAI's tools, normalised."""
        tools = []
        for index, item in enumerate(_listed(data)):
            if not isinstance(item, dict):
                raise bad("must be an object", index)
            if item.get("type", "function") != "function":
                raise bad("must be 'function'", index, "type")
            if item.get("function") is None:
                raise missing(index, "function")
            function = _function(item["function"], index, "function")
            tools.append({"type": "function", "function": function})
        return _unique(tools, "function")

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


@extend_schema_field({"type": "array", "maxItems": MAX_TOOLS, "items": FUNCTION})
class FunctionsField(serializers.Field):
    """The old spelling of tools."""

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        """As tools."""
        tools = [
            {"type": "function", "function": _function(item, index)}
            for index, item in enumerate(_listed(data))
        ]
        return _unique(tools, "")

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


def _named(data: dict[str, Any], *path: Any) -> str:
    function = data.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise bad("must name a function", *path, "function")
    return name


@extend_schema_field({"oneOf": [{"type": "string", "enum": list(CHOICES)}, NAMED, ALLOWED]})
class ToolChoiceField(serializers.Field):
    """none, auto, required, a function's name, or some of the tools."""

    def to_internal_value(self, data: Any) -> tuple[str, list[str] | None]:
        """(none, auto, required or `=name`; the names of the tools allowed or None for all)."""
        if isinstance(data, str):
            if data not in CHOICES:
                raise bad(f"must be one of {', '.join(CHOICES)} or name a function")
            return data, None
        if not isinstance(data, dict):
            raise bad("must be a string or an object")
        if data.get("type") == "allowed_tools":
            return self._allowed(data)
        if data.get("type", "function") != "function":
            raise bad("must be 'function' or 'allowed_tools'", "type")
        return f"={_named(data)}", None

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value

    @staticmethod
    def _allowed(data: dict[str, Any]) -> tuple[str, list[str]]:
        inner = data.get("allowed_tools")
        if not isinstance(inner, dict):
            raise bad("must be an object", "allowed_tools")
        mode = inner.get("mode", "auto")
        if mode not in ("auto", "required"):
            raise bad("must be auto or required", "allowed_tools", "mode")
        tools = inner.get("tools")
        if not isinstance(tools, list) or not 0 < len(tools) <= MAX_TOOLS:
            raise bad(f"must be a list of 1 to {MAX_TOOLS} tools", "allowed_tools", "tools")
        names = []
        for index, tool in enumerate(tools):
            place = ("allowed_tools", "tools", index)
            if not isinstance(tool, dict):
                raise bad("must be an object", *place)
            names.append(_named(tool, *place))
        return mode, names


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string", "enum": ["none", "auto"]},
            {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}},
            },
        ]
    }
)
class FunctionCallField(serializers.Field):
    """The old spelling of tool_choice."""

    def to_internal_value(self, data: Any) -> tuple[str, list[str] | None]:
        """As ToolChoiceField."""
        if data in ("none", "auto"):
            return data, None
        name = data.get("name") if isinstance(data, dict) else None
        if not isinstance(name, str):
            raise bad("must be none, auto or name a function")
        return f"={name}", None

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


def settle(attrs: dict[str, Any]) -> dict[str, Any]:
    """The body with its old spellings in new words, and `tool_choice` in the contract's.

    Raises ValidationError where the choice does not fit the tools.
    """
    functions = attrs.pop("functions", None)
    old_choice = attrs.pop("function_call", None)
    tools = attrs.get("tools") or functions or []
    param = "tool_choice" if "tool_choice" in attrs or old_choice is None else "function_call"
    choice, allowed = attrs.get("tool_choice") or old_choice or ("auto", None)
    names = {tool["function"]["name"] for tool in tools}
    if choice not in ("none", "auto") and not tools:
        raise bad("needs tools", param)
    for name in [choice[1:]] if choice.startswith("=") else allowed or []:
        if name not in names:
            raise bad(f"there is no tool named {name[:64]!r}", param)
    if allowed is not None:
        tools = [tool for tool in tools if tool["function"]["name"] in allowed]
    return {**attrs, "tools": tools, "tool_choice": choice}
