"""What the fields of the OpenAI surface share (pure)."""

from __future__ import annotations

import json
from typing import Any

from rest_framework import serializers

INT64 = 2**63
MAX_SCHEMA_BYTES = 64 * 1024


def bad(message: str, *path: Any, code: str = "invalid_value") -> serializers.ValidationError:
    """A ValidationError whose param reads like `messages[0].content`."""
    detail: Any = serializers.ErrorDetail(message, code=code)
    for key in reversed(path):
        detail = {f"[{key}]" if isinstance(key, int) else key: detail}
    return serializers.ValidationError(detail)


def missing(*path: Any) -> serializers.ValidationError:
    """A required member is not there."""
    return bad("is required", *path, code="required")


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


def is_number(value: Any) -> bool:
    """A JSON number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def checked_schema(value: Any, *path: Any) -> dict[str, Any]:
    """A JSON schema that is an object of bearable size; what it means is for the Runner to judge."""
    if not isinstance(value, dict):
        raise bad("must be an object", *path)
    if not fits_64_bits(value):
        raise bad("must not hold integers beyond 64 bits", *path)
    if len(json.dumps(value, ensure_ascii=False).encode()) > MAX_SCHEMA_BYTES:
        raise bad(f"must not be longer than {MAX_SCHEMA_BYTES // 1024} KB", *path)
    return value


def optional(found: dict[str, Any], key: str, kinds: type, what: str, *path: Any) -> dict[str, Any]:
    """`{key: value}`, or nothing where it is absent or null."""
    value = found.get(key)
    if value is None:
        return {}
    if not isinstance(value, kinds):
        raise bad(f"must be {what}", *path, key)
    return {key: value}
