"""From the text of one tool call to its name and arguments. Pure; cost linear in the text.

Each format has a reader: it takes what stood between the marks of a call and gives back the calls
in it, or raises Malformed. Nothing else comes out, whatever a model writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_REFERENCES = 16
QUOTE_OR_ESCAPE = re.compile(r'["\\]')
QUOTE_OR_BRACKET = re.compile(r'["{}\[\]]')
CONTROL = re.compile(r"[\x00-\x1f]")


class Malformed(Exception):
    """The text is not a call."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function's name and its arguments: the text of a JSON object."""

    name: str
    arguments: str


Schemas = Mapping[str, Mapping[str, Any]]
Reader = Callable[[str, Schemas], Sequence[Call]]


def schemas_of(tools: Sequence[Mapping[str, Any]]) -> Schemas:
    """The parameters' JSON schema of each function, by its name."""
    functions = [tool.get("function", tool) for tool in tools]
    return {one["name"]: one.get("parameters") or {} for one in functions if one.get("name")}


class JsonScan:
    """How deep in a JSON value the text so far ends; fed in pieces, each looked at once."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self.in_string = False
        self.broken = False
        self._escaped = False
        self._depth = 0

    def feed(self, text: str) -> int:
        """Read on; returns where the outermost object or array ended in `text`, or -1.

        After `broken` (a line break inside of a string) no answer means anything.
        """
        at = 0
        while at < len(text):
            at = self._string(text, at) if self.in_string else self._structure(text, at)
            if at < 0:
                return -at
        return -1

    def _string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        found = QUOTE_OR_ESCAPE.search(text, at)
        end = found.start() if found else len(text)
        if CONTROL.search(text, at, end):
            self.broken = True
        if found is None:
            return end
        self._escaped = found[0] == "\\"
        self.in_string = self._escaped
        return found.end()

    def _structure(self, text: str, at: int) -> int:
        """Minus the end of the outermost value where it has come, else where to go on."""
        found = QUOTE_OR_BRACKET.search(text, at)
        if found is None:
            return len(text)
        if found[0] == '"':
            self.in_string = True
        else:
            self._depth += 1 if found[0] in "{[" else -1
            if self._depth <= 0:
                return -found.end()
        return found.end()


def read_json(text: str, schemas: Schemas) -> Sequence[Call]:
    """One call as a JSON object, or several in an array."""
    del schemas  # JSON says the types itself
    value = _loads(text)
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise Malformed("no call")
    return [_json_call(call) for call in calls]


def _json_call(value: Any) -> Call:
    if not isinstance(value, dict):
        raise Malformed("a call is an object")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):  # some models write the object as text
        arguments = _loads(arguments) if arguments.strip() else {}
    return Call(_name(value.get("name")), _dumps({} if arguments is None else arguments))


def read_markup(text: str, schemas: Schemas) -> Sequence[Call]:
    """`<function=name><parameter=key>value</parameter>…</function>`, cast by the tool's schema.

    One line break on either side of a value belongs to the markup, other blanks to the value.
    """
    name, rest = _after_tag(text.strip(), "<function=")
    if not rest.endswith("</function>"):
        raise Malformed("the function does not end")
    rest = rest.removesuffix("</function>").strip()
    schema = schemas.get(name) or {}
    arguments: dict[str, Any] = {}
    at = 0
    while at < len(rest):
        key, begin = _tag(rest, at, "<parameter=")
        end = rest.find("</parameter>", begin)
        if end < 0:
            raise Malformed("a parameter does not end")
        value = rest[begin:end].removeprefix("\n").removesuffix("\n")
        arguments[key] = cast(value, _property(schema, key), schema)
        at = _skip_blanks(rest, end + len("</parameter>"))
    return [Call(_name(name), _dumps(arguments))]


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _tag(text: str, at: int, opening: str) -> tuple[str, int]:
    """The name in `<opening=name>` at `at`, and where the tag ends."""
    end = text.find(">", at)
    if not text.startswith(opening, at) or end < 0:
        raise Malformed(f"{opening} is missing")
    return text[at + len(opening) : end].strip(), end + 1


def _after_tag(text: str, opening: str) -> tuple[str, str]:
    name, end = _tag(text, 0, opening)
    return name, text[end:]


def _property(schema: Mapping[str, Any], key: str) -> Any:
    properties = schema.get("properties")
    return properties.get(key) if isinstance(properties, Mapping) else None


def cast(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """The value that `text` stands for by its schema; the text itself where nothing else fits."""
    for kind in _kinds(schema, root, MOST_REFERENCES):
        try:
            return CASTS[kind](text.strip())
        except (KeyError, ValueError, RecursionError):
            continue
    return text


def _kinds(schema: Any, root: Mapping[str, Any], hops: int) -> list[str]:
    """The JSON types a schema allows, in its order."""
    if not isinstance(schema, Mapping) or hops == 0:
        return []
    if isinstance(reference := schema.get("$ref"), str):
        return _kinds(_resolve(reference, root), root, hops - 1)
    declared = schema.get("type")
    kinds = [declared] if isinstance(declared, str) else list(declared or ())
    for name in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(name)
        for branch in branches if isinstance(branches, list) else ():
            kinds += _kinds(branch, root, hops - 1)
    if not kinds:
        values = schema.get("enum") if isinstance(schema.get("enum"), list) else []
        values = [*values, *([schema["const"]] if "const" in schema else [])]
        kinds = [NAMES[type(value)] for value in values if type(value) in NAMES]
    if schema.get("nullable"):
        kinds.append("null")
    return [kind for kind in kinds if isinstance(kind, str)]


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    value: Any = root
    if not reference.startswith("#"):
        return None
    for step in filter(None, reference[1:].split("/")):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def _number(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")) or number != number:
        raise ValueError(text)
    return int(number) if number.is_integer() and "." not in text else number


def _boolean(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _null(text: str) -> None:
    if text not in {"null", "None"}:
        raise ValueError(text)


def _collection(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = json.loads(text)
        if not isinstance(value, kind):
            raise ValueError(text)  # noqa: TRY004 - a cast that does not fit
        return value

    return read


CASTS: dict[str, Callable[[str], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "null": _null,
    "object": _collection(dict),
    "array": _collection(list),
}
NAMES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    dict: "object",
    list: "array",
    type(None): "null",
}


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not _encodable(value):
        raise Malformed("a call needs the function's name")
    return value.strip()


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error


def _dumps(arguments: Any) -> str:
    """Strict JSON that can be sent as UTF-8: half surrogates stay escapes."""
    if not isinstance(arguments, dict):
        raise Malformed("arguments are an object")
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        return text if _encodable(text) else json.dumps(arguments, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise Malformed("arguments that JSON cannot say") from error


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
