"""Pure: the grammar of an answer that calls tools, for each format of inference.runners.tool_formats.

The arguments of a call follow the tool's schema where a call is demanded (`required`, `=name`) and,
left to the model's choice, for strict tools; other tools' arguments are then any JSON object.

What the grammars do not ensure: in the qwen3_5 format strings are free text, so a string's `format`
is not enforced there, and its `pattern` only where it is anchored at both ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from inference.runners.base import InvalidInput
from inference.runners.grammar_source import GrammarSource, lark_json, lark_text
from inference.runners.schema import MAX_PATTERN, check_depth

OPEN_CALL, CLOSE_CALL = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
MARKS = (OPEN_CALL, CLOSE_CALL, PYTHON_TAG)
MAX_GRAMMAR = 256 * 1024
MAX_LENGTH = 10_000
MAX_HOPS = 16
LINE = lark_text("\n")
ANY_OBJECT = {"type": "object"}
ANYTHING = "TEXT: /(.|\\n)*/"
FREE_VALUE = r"/(.|\n)*<\/parameter>/"
ANCHORED = re.compile(r"\^((?:[^\\^$|]|\\.)*)\$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Tool:
    """One function: its name, the schema its arguments must follow, and where that was given."""

    name: str
    schema: dict[str, Any]
    param: str


def tool_grammar(
    form: str,
    tools: Sequence[Mapping[str, Any]],
    choice: str,
    *,
    parallel: bool = True,
    marks: Mapping[str, int] | None = None,
    content: Any = None,
) -> GrammarSource | None:
    """The grammar of the whole answer; None where nothing is to be constrained.

    `form` is a ToolFormat's `grammar`, `tools` are OpenAI's, `choice` is ChatInput's `tool_choice`.
    `marks` gives the token of every mark that the vocabulary has as one. `content` is the JSON
    schema of an answer without calls. Raises InvalidInput, also for an unknown tool or format.
    """
    if form not in WRITERS:
        raise InvalidInput("This model's tool calls cannot be constrained", param="tool_choice")
    chosen = _chosen(tools, choice)
    if not chosen:
        return None
    forced = choice != "auto"
    if not forced and content is None and not any(_is_strict(tool) for tool in tools):
        return None
    rules = WRITERS[form](chosen, marks or {})
    if not forced and content is None:
        start = rules.free_start(parallel=parallel)
    else:
        start = f"start: {rules.some_calls(parallel=parallel and not choice.startswith('='))}"
        if not forced:
            start += " | content\ncontent: " + lark_json(content, "response_format")
    lark = "\n".join((start, *rules.lines))
    if len(lark) > MAX_GRAMMAR:
        raise InvalidInput("The tools' schemas are too large together", param="tools")
    return GrammarSource(LLMatcher.grammar_from_lark(lark), "tools")


def _chosen(tools: Sequence[Mapping[str, Any]], choice: str) -> list[Tool]:
    """The tools that may be called."""
    if choice == "none":
        return []
    made = []
    for index, tool in enumerate(tools):
        function = tool.get("function", tool)
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidInput("A tool needs a name", param=f"tools[{index}].function.name")
        if choice.startswith("=") and name != choice[1:]:
            continue
        bound = choice != "auto" or _is_strict(tool)
        param = f"tools[{index}].function.parameters"
        schema = _object_schema(function.get("parameters"), param) if bound else ANY_OBJECT
        made.append(Tool(name, schema, param))
    if choice.startswith("=") and not made:
        raise InvalidInput(f"There is no tool {choice[1:]!r}"[:200], param="tool_choice")
    return made


def _is_strict(tool: Mapping[str, Any]) -> bool:
    return bool(tool.get("function", tool).get("strict"))


def _object_schema(parameters: Any, param: str) -> dict[str, Any]:
    """Arguments are an object, whatever else is said of them; without parameters an empty one."""
    if parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, dict):
        raise InvalidInput("The parameters must be a JSON schema", param=param)
    check_depth(parameters, param)
    return parameters if "type" in parameters else {**parameters, "type": "object"}


class HermesRules:
    """`<tool_call>`, a line with name and arguments as JSON, `</tool_call>`."""

    def __init__(self, tools: Sequence[Tool], marks: Mapping[str, int]) -> None:
        self._marks = marks
        self.lines = [
            f"call: {_mark(OPEN_CALL, marks)} rest",
            *self.rest(tools, _close(marks)),
        ]

    def rest(self, tools: Sequence[Tool], close: str) -> list[str]:
        """What follows the opening mark."""
        return [rf'rest: "\n" body "\n" {close}', *_json_bodies(tools, "arguments")]

    def some_calls(self, *, parallel: bool) -> str:
        """One call or, where `parallel`, more."""
        return r'call ("\n" call)*' if parallel else "call"

    def free_start(self, *, parallel: bool) -> str:
        """Any text, but what begins as a call goes on as one."""
        rules = [
            "start: (lead rest)* TEXT" if parallel else "start: lead rest | TEXT",
            ANYTHING,
            f"spelled[lazy]: TEXT {lark_text(OPEN_CALL)}",
        ]
        token = self._marks.get(OPEN_CALL)
        rules.append("lead: spelled" if token is None else f"lead: spelled | TEXT <[{token}]>")
        return "\n".join(rules)


class MarkupRules(HermesRules):
    """`<function=NAME>` with a `<parameter=KEY>` for each argument, in the schema's order."""

    def rest(self, tools: Sequence[Tool], close: str) -> list[str]:
        """See HermesRules."""
        lines = [rf'rest: "\n" body {close}', "body: " + _alternatives("call", len(tools))]
        for index, tool in enumerate(tools):
            lines += self._function(index, tool)
        return lines

    def _function(self, index: int, tool: Tool) -> list[str]:
        parameters, lines = [], []
        required = tool.schema.get("required")
        required = required if isinstance(required, list) else []
        properties = tool.schema.get("properties")
        properties = dict(properties) if isinstance(properties, dict) else {}
        for key in (one for one in required if isinstance(one, str)):
            properties.setdefault(key, True)
        for number, (key, schema) in enumerate(properties.items()):
            rule = f"value_{index}_{number}"
            opening = lark_text(f"<parameter={key}>\n")
            whole = f"{opening} {rule} {LINE}"
            parameters.append(whole if key in required else f"({whole})?")
            lines += _value(rule, schema, tool)
        head, tail = lark_text(f"<function={tool.name}>\n"), lark_text("</function>\n")
        return [f"call_{index}: {head} {' '.join(parameters)} {tail}", *lines]


class BareRules:
    """Nothing but the JSON object of one call, as the llama3 family writes it."""

    def __init__(self, tools: Sequence[Tool], marks: Mapping[str, int]) -> None:
        self._tag = marks.get(PYTHON_TAG)
        self.lines = ["call: body", *_json_bodies(tools, "parameters")]

    def some_calls(self, *, parallel: bool) -> str:
        """One call: these models know no more."""
        del parallel
        return "call"

    def free_start(self, *, parallel: bool) -> str:
        """Any text that does not begin as a call would."""
        del parallel
        call = "call" if self._tag is None else f"call | <[{self._tag}]> call"
        return "\n".join(
            (f"start: {call} | TEXT", r"TEXT: /([^{ \t\r\n;,](.|\n)*)?/"),
        )


WRITERS: dict[str, Any] = {"hermes": HermesRules, "qwen3_5": MarkupRules, "llama3": BareRules}


def _mark(text: str, marks: Mapping[str, int]) -> str:
    """A mark as its own token, if there is one: models were trained on that."""
    return f"<[{marks[text]}]>" if text in marks else lark_text(text)


def _close(marks: Mapping[str, int]) -> str:
    """The end of a call, which may be spelled out when its beginning was."""
    if CLOSE_CALL not in marks:
        return lark_text(CLOSE_CALL)
    return f"(<[{marks[CLOSE_CALL]}]> | {lark_text(CLOSE_CALL)})"


def _alternatives(rule: str, count: int) -> str:
    return " | ".join(f"{rule}_{index}" for index in range(count))


def _json_bodies(tools: Sequence[Tool], key: str) -> list[str]:
    """`{"name": …, key: {…}}` for each tool."""
    lines = ["body: " + _alternatives("call", len(tools))]
    for index, tool in enumerate(tools):
        head = lark_text(f'{{"name": {json.dumps(tool.name)}, "{key}": ')
        lines.append(f'call_{index}: {head} arguments_{index} "}}"')
        lines.append(f"arguments_{index}: {lark_json(tool.schema, tool.param)}")
    return lines


def _value(rule: str, schema: Any, tool: Tool) -> list[str]:
    """One argument up to its closing tag: text as it is, anything else as JSON."""
    texts = _texts(schema, tool.schema, MAX_HOPS)
    if texts:
        choices = " | ".join(map(lark_text, dict.fromkeys(texts)))
        return [rf'{rule}: ({choices}) "\n</parameter>"']
    if _may_be_text(schema, tool.schema, MAX_HOPS):
        return [f"{rule}[lazy]: {_text_regex(_resolved(schema, tool.schema, MAX_HOPS))}"]
    named = {key: tool.schema[key] for key in ("$defs", "definitions") if key in tool.schema}
    whole = {**named, **schema} if isinstance(schema, dict) else schema
    return [
        rf'{rule}: {rule}_json "\n</parameter>"',
        f"{rule}_json: {lark_json(whole, tool.param)}",
    ]


def _resolved(schema: Any, root: Mapping[str, Any], hops: int) -> Any:
    """The schema a chain of references in `$defs` or `definitions` leads to."""
    while isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str):
        parts = reference.removeprefix("#/").split("/")
        named = root.get(parts[0]) if parts[0] in {"$defs", "definitions"} else None
        if len(parts) != 2 or not isinstance(named, dict) or parts[1] not in named or not hops:
            return schema
        schema, hops = named[parts[1]], hops - 1
    return schema


def _branches(schema: dict[str, Any]) -> list[Any]:
    branches = schema.get("anyOf", schema.get("oneOf"))
    return branches if isinstance(branches, list) else []


def _texts(schema: Any, root: Mapping[str, Any], hops: int) -> list[str] | None:
    """All values of a schema of nothing but named strings (and null); None if it is not that."""
    schema = _resolved(schema, root, hops)
    if not isinstance(schema, dict) or hops == 0:
        return None
    if branches := _branches(schema):
        parts = [_texts(branch, root, hops - 1) for branch in branches]
        return None if None in parts else [text for part in parts for text in part or ()]
    if schema.get("type") == "null":
        return ["null"]
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not all(isinstance(one, str | None) for one in values):
        return None
    return ["null" if value is None else value for value in values]


def _may_be_text(schema: Any, root: Mapping[str, Any], hops: int) -> bool:
    """Whether a string is among the values of a schema."""
    schema = _resolved(schema, root, hops)
    if not isinstance(schema, dict) or hops == 0:
        return schema is True
    if branches := _branches(schema):
        return any(_may_be_text(branch, root, hops - 1) for branch in branches)
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return any(isinstance(value, str) for value in values)
    kinds = schema.get("type", "string" if not schema.keys() & {"$ref", "allOf"} else "")
    return kinds == "string" or (isinstance(kinds, list) and "string" in kinds)


def _text_regex(schema: Any) -> str:
    """A string without quotes and its closing tag, within its length or its anchored pattern."""
    if not isinstance(schema, dict) or schema.get("type") != "string":
        return FREE_VALUE
    pattern = schema.get("pattern")
    if isinstance(pattern, str) and len(pattern) <= MAX_PATTERN:
        anchored = ANCHORED.fullmatch(pattern)
        if anchored:
            inside = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", anchored[1]).replace("\n", r"\n")
            return rf"/({inside})\n<\/parameter>/"
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if not all(isinstance(one, int | None) and (one or 0) <= MAX_LENGTH for one in (least, most)):
        return FREE_VALUE
    if not least and most is None:
        return FREE_VALUE
    return rf"/[^<]{{{least},{'' if most is None else most}}}\n<\/parameter>/"
