"""Pure: a caller's JSON schema, checked and made ready for the grammar compiler.

Checked here is what can be told from the schema alone, with its place named; the rest is the
compiler's to refuse. Left out is what only describes (formats that JSON Schema does not define)
or says nothing (`uniqueItems: false`), so that schemas as clients generate them pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from inference.runners.base import InvalidInput

MAX_BYTES = 64 * 1024
MAX_PATTERN = 8 * 1024
MAX_DEPTH = 100
MAX_MULTIPLE = 10_000
LARGEST_INTEGER = 2**62

ENFORCED_FORMATS = frozenset(
    {
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uuid",
        "uri",
    }
)
OTHER_STANDARD_FORMATS = frozenset(
    {
        "idn-email",
        "idn-hostname",
        "uri-reference",
        "iri",
        "iri-reference",
        "uri-template",
        "json-pointer",
        "relative-json-pointer",
        "regex",
    }
)
UNSUPPORTED = (
    "not",
    "if",
    "then",
    "else",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
)
NAMED = ("properties", "patternProperties", "$defs", "definitions")
SINGLE = ("additionalProperties", "items", "additionalItems")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
KNOWN_DIALECTS = ("http://json-schema.org/", "https://json-schema.org/")


def ready_schema(schema: Any, param: str) -> dict[str, Any]:
    """A schema that may be compiled. Raises InvalidInput that names what is wrong, and where."""
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise InvalidInput("The schema must be a JSON object", param=param)
    check_depth(schema, param)
    try:
        size = len(json.dumps(schema, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"The schema is not valid JSON: {error}"[:200], param=param) from error
    if size > MAX_BYTES:
        raise InvalidInput(f"The schema is larger than {MAX_BYTES // 1024} KB", param=param)
    clean = _clean(schema, "#", param)
    clean.pop("x-guidance", None)
    dialect = clean.get("$schema")
    if dialect is not None and not str(dialect).startswith(KNOWN_DIALECTS):
        del clean["$schema"]
    return clean


def check_depth(value: Any, param: str, most: int = MAX_DEPTH) -> None:
    """Raise InvalidInput for what nests deeper than `most` levels; needs no stack itself."""
    level = [value]
    for _ in range(most):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise InvalidInput(f"The schema nests deeper than {most} levels", param=param)


def _children(value: Any) -> Iterator[Any]:
    members = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        yield from (item for item in members if isinstance(item, dict | list))


def _clean(schema: Any, place: str, param: str) -> Any:
    """A copy of a schema and of those in it, without what says nothing."""
    if not isinstance(schema, dict):
        return schema
    clean = dict(schema)
    _drop_idle(clean)
    _check_keywords(clean, place, param)
    for key in NAMED:
        if isinstance(members := clean.get(key), dict):
            clean[key] = {
                name: _clean(value, f"{place}/{key}/{name}", param)
                for name, value in members.items()
            }
    for key in SINGLE:
        if isinstance(clean.get(key), dict):
            clean[key] = _clean(clean[key], f"{place}/{key}", param)
    for key in LISTS:
        if isinstance(members := clean.get(key), list):
            clean[key] = [
                _clean(value, f"{place}/{key}/{index}", param)
                for index, value in enumerate(members)
            ]
    return clean


def _drop_idle(schema: dict[str, Any]) -> None:
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    name = schema.get("format")
    if isinstance(name, str) and name not in ENFORCED_FORMATS | OTHER_STANDARD_FORMATS:
        del schema["format"]


def _check_keywords(schema: dict[str, Any], place: str, param: str) -> None:
    for key in UNSUPPORTED:
        if key in schema:
            raise _refusal(f"The keyword '{key}' is not supported", place, param)
    reference = schema.get("$ref")
    if reference is not None and not str(reference).startswith("#"):
        raise _refusal("'$ref' may only point into the schema itself", place, param)
    if schema.get("format") in OTHER_STANDARD_FORMATS:
        raise _refusal(f"The format '{schema['format']}' is not supported", place, param)
    for pattern in (schema.get("pattern"), *_names(schema.get("patternProperties"))):
        if isinstance(pattern, str) and len(pattern.encode()) > MAX_PATTERN:
            raise _refusal(f"A pattern is larger than {MAX_PATTERN // 1024} KB", place, param)
    for text in (schema.get("const"), *_items(schema.get("enum"))):
        if isinstance(text, str) and len(text.encode()) > MAX_PATTERN:
            raise _refusal(f"A value is larger than {MAX_PATTERN // 1024} KB", place, param)
    _check_numbers(schema, place, param)


def _check_numbers(schema: dict[str, Any], place: str, param: str) -> None:
    for key in BOUNDS:
        bound = schema.get(key)
        if isinstance(bound, int) and abs(bound) > LARGEST_INTEGER:
            raise _refusal(f"'{key}' is out of range", place, param)
    step = schema.get("multipleOf")
    is_number = isinstance(step, int | float) and not isinstance(step, bool)
    if is_number and not 0 < _digits(step) <= MAX_MULTIPLE:
        raise _refusal(
            f"'multipleOf' must be positive and have at most {MAX_MULTIPLE} as its digits",
            place,
            param,
        )


def _digits(number: float) -> int:
    """The digits of a number without its point and its trailing zeros: 1250 for 1.25, 4 for 400.

    The automaton that checks multiples has about as many states, which is why they are bounded.
    """
    sign, digits, exponent = Decimal(str(number)).as_tuple()
    value = int("".join(map(str, digits)))
    if isinstance(exponent, int) and exponent > 0:
        value *= 10 ** min(exponent, 20)
    return -value if sign else value


def _names(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else []


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _refusal(message: str, place: str, param: str) -> InvalidInput:
    where = place if len(place) <= 200 else f"{place[:200]}…"
    return InvalidInput(f"{message} (at {where})", param=param)
