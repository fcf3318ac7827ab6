"""Pure: what a request wants its answer to look like, as the text of a grammar."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from inference.runners.base import InvalidInput
from inference.runners.schema import MAX_BYTES, MAX_PATTERN, ready_schema

# One blank at most after a comma or colon: left free, weak models emit blanks without end.
SPACING = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
MAX_CHOICES = 1024

SCHEMA_PARAM = "response_format.json_schema.schema"
REGEX_PARAM = "structured_outputs.regex"
CHOICE_PARAM = "structured_outputs.choice"
GRAMMAR_PARAM = "structured_outputs.grammar"


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A grammar as llguidance reads it, and the field of the request it came from."""

    text: str
    param: str

    @property
    def key(self) -> bytes:
        """A name for the content: equal texts make equal grammars."""
        return hashlib.sha256(self.text.encode()).digest()


def source_of(response_format: dict[str, Any]) -> GrammarSource:
    """The grammar of a ChatInput's `response_format`. Raises InvalidInput."""
    match response_format.get("type"):
        case "json_object":
            return json_source({"type": "object"}, "response_format")
        case "json_schema":
            return json_source(response_format.get("schema", {}), SCHEMA_PARAM)
        case "regex":
            return _regex_source(response_format.get("pattern"))
        case "choice":
            return _choice_source(response_format.get("choices"))
        case "grammar":
            return _lark_source(response_format.get("grammar"))
        case other:
            message = f"Responses of the type {other!r} are not supported"[:200]
            raise InvalidInput(message, param="response_format.type")


def json_source(schema: Any, param: str) -> GrammarSource:
    """JSON text that follows `schema`. Raises InvalidInput."""
    ready = ready_schema(schema, param)
    return GrammarSource(LLMatcher.grammar_from_json_schema(ready, overrides=SPACING), param)


def lark_json(schema: Any, param: str) -> str:
    """The same as a part of a Lark grammar. Raises InvalidInput."""
    return "%json " + json.dumps({**ready_schema(schema, param), "x-guidance": SPACING})


def _regex_source(pattern: Any) -> GrammarSource:
    text = _text(pattern, MAX_PATTERN, "The pattern", REGEX_PARAM)
    return GrammarSource(LLMatcher.grammar_from_regex(text), REGEX_PARAM)


def _choice_source(choices: Any) -> GrammarSource:
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise InvalidInput("The choices must be a list of texts", param=CHOICE_PARAM)
    if len(choices) > MAX_CHOICES:
        raise InvalidInput(f"There are more than {MAX_CHOICES} choices", param=CHOICE_PARAM)
    texts = [_text(choice, MAX_PATTERN, "A choice", CHOICE_PARAM) for choice in choices]
    if sum(len(text.encode()) for text in texts) > MAX_BYTES:
        raise InvalidInput("The choices are too long", param=CHOICE_PARAM)
    lark = "start: " + " | ".join(map(lark_text, texts))
    return GrammarSource(LLMatcher.grammar_from_lark(lark), CHOICE_PARAM)


def _lark_source(grammar: Any) -> GrammarSource:
    text = _text(grammar, MAX_BYTES, "The grammar", GRAMMAR_PARAM)
    return GrammarSource(LLMatcher.grammar_from_lark(text), GRAMMAR_PARAM)


def lark_text(text: str) -> str:
    """A text as a literal of a Lark grammar."""
    return json.dumps(text, ensure_ascii=False)


def _text(value: Any, most: int, what: str, param: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{what} must be a text that is not empty", param=param)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"{what} is not valid Unicode", param=param) from None
    if size > most:
        raise InvalidInput(f"{what} is larger than {most // 1024} KB", param=param)
    return value
