"""JSON bodies, hardened: UTF-8 only, bounded depth and size, nothing the database would refuse."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from rest_framework.parsers import BaseParser

from casola_site.core.errors import InvalidJSON, PayloadTooLarge, UnsupportedMediaType

MAX_DEPTH = 64
MAX_KEYS = 2_000
MAX_TEXT = 1_000_000
MAX_ITEMS = 200_000
MAX_DIGITS = 400
DEPTH_MESSAGE = f"The body is nested deeper than {MAX_DEPTH} levels"
ITEMS_MESSAGE = f"The body holds more than {MAX_ITEMS} values"

_BRACKETS = re.compile(rb"[\[\]{}]")
_UNSAFE = re.compile("[\x00\ud800-\udfff]")


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidJSON(f"{name} is not a JSON number")


def _parse_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise InvalidJSON("A number in the body has too many digits")
    return int(text)


def _parse_float(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise InvalidJSON("A number in the body has too many digits")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise InvalidJSON("A number in the body is out of range")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise InvalidJSON(f"An object in the body has more than {MAX_KEYS} keys")
    return dict(pairs)


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant,
    parse_int=_parse_int,
    parse_float=_parse_float,
    object_pairs_hook=_unique,
)


def _check(value: Any) -> None:
    """Refuse depth, NUL, lone surrogates and over-long texts, without recursion."""
    stack: list[tuple[Any, int]] = [(value, 1)]
    seen = 0
    while stack:
        item, depth = stack.pop()
        if isinstance(item, str):
            _check_text(item)
        elif isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise InvalidJSON(DEPTH_MESSAGE)
            seen += len(item)
            if seen > MAX_ITEMS:
                raise InvalidJSON(ITEMS_MESSAGE)
            if isinstance(item, dict):
                for key in item:
                    _check_text(key)
                children: Any = item.values()
            else:
                children = item
            stack.extend(
                (child, depth + 1) for child in children if isinstance(child, str | dict | list)
            )


def _check_text(text: str) -> None:
    if not text.isascii() or "\x00" in text:
        found = _UNSAFE.search(text)
        if found:
            what = "NUL characters" if found.group() == "\x00" else "lone surrogates"
            raise InvalidJSON(f"Text in the body must not hold {what}")
    if len(text) > MAX_TEXT and not text.startswith("data:"):
        raise InvalidJSON(f"A text in the body is longer than {MAX_TEXT} characters")


def decode_json(raw: bytes) -> Any:
    """The value in `raw`. Raises InvalidJSON with a sentence for everything we do not take."""
    if raw.startswith(b"\xef\xbb\xbf"):
        raise InvalidJSON("The body must not begin with a byte order mark")
    # A body that can neither be too deep nor hold too much skips the count.
    if len(raw) > MAX_ITEMS or raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_structure(raw)
    try:
        text = raw.decode("utf-8")
        value = _DECODER.decode(text)
    except UnicodeDecodeError:
        raise InvalidJSON("The body is not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidJSON(
            f"The body is not valid JSON: {error.msg} at character {error.pos}"
        ) from None
    except RecursionError:
        raise InvalidJSON(DEPTH_MESSAGE) from None
    _check(value)
    return value


def _check_structure(raw: bytes) -> None:
    """Refuse too many values or too much depth before anything is built of them.

    In linear time and little memory: the decoder would hold up everybody else for seconds.
    """
    bare = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    # Every value and key may be a text, with two quotes each.
    if bare.count(b'"') > 4 * MAX_ITEMS:
        raise InvalidJSON(ITEMS_MESSAGE)
    bare = b"".join(bare.split(b'"')[::2])
    if max(bare.count(b","), bare.count(b"[") + bare.count(b"{")) > MAX_ITEMS:
        raise InvalidJSON(ITEMS_MESSAGE)
    depth = 0
    for match in _BRACKETS.finditer(bare):
        if match.group() in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidJSON(DEPTH_MESSAGE)
        else:
            depth -= 1


_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)


def check_content_type(content_type: str) -> None:
    """Raise UnsupportedMediaType unless it is JSON in UTF-8 (or unnamed, as for empty bodies)."""
    media = content_type.split(";", 1)[0].strip().lower()
    if media != "application/json" and not (
        media.startswith("application/") and media.endswith("+json")
    ):
        raise UnsupportedMediaType
    charset = _CHARSET.search(content_type)
    if charset and charset.group(1).lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("JSON bodies are UTF-8 only")


def json_object(raw: bytes, content_type: str, *, cap: int | None = None) -> dict[str, Any]:
    """The body as an object. Raises InvalidJSON, PayloadTooLarge or UnsupportedMediaType."""
    if cap is not None and len(raw) > cap:
        raise PayloadTooLarge
    check_content_type(content_type)
    if not raw.strip():
        raise InvalidJSON("The body is empty")
    value = decode_json(raw)
    if not isinstance(value, dict):
        raise InvalidJSON("The body must be a JSON object")
    return value


class StrictJSONParser(BaseParser):
    """DRF's door to `json_object`; an empty body with a JSON type is an empty object."""

    media_type = "*/*"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Any = None
    ) -> dict[str, Any]:
        """Read and check the whole body."""
        raw = stream.read()
        content_type = media_type or ""
        if not raw.strip() and getattr(
            (parser_context or {}).get("view"), "empty_body_allowed", False
        ):
            return {}
        return json_object(raw, content_type)
