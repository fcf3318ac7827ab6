"""Bodies nobody should send (reliability.md §7)."""

from __future__ import annotations

import json
from typing import Any

JSON = "application/json"


def bodies(good: dict[str, Any]) -> dict[str, bytes]:
    """Whole bodies that are no usable request, by name."""
    text = json.dumps(good).encode()
    return {
        "empty": b"",
        "spaces": b"  \n ",
        "truncated": text[:-3],
        "text": b"hello",
        "array": b"[" + text + b"]",
        "null": b"null",
        "number": b"7",
        "string": b'"x"',
        "true": b"true",
        "two values": text + text,
        "deep array": b"[" * 100_000,
        "deep array, closed": b"[" * 100_000 + b"]" * 100_000,
        "deep object": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        "deep member": text[:-1] + b',"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        "deep after a long text": text[:-1]
        + b',"t":"'
        + b"x" * 100_000
        + b'","x":'
        + b"[" * 60_000
        + b"]" * 60_000
        + b"}",
        "NaN": text[:-1] + b',"x":NaN}',
        "Infinity": text[:-1] + b',"x":Infinity}',
        "-Infinity": text[:-1] + b',"x":-Infinity}',
        "1e99999": text[:-1] + b',"x":1e99999}',
        "5,000 digits": text[:-1] + b',"x":' + b"9" * 5_000 + b"}",
        "invalid UTF-8": text[:-1] + b',"x":"\xff\xfe"}',
        "overlong UTF-8": text[:-1] + b',"x":"\xc0\x80"}',
        "byte order mark": b"\xef\xbb\xbf" + text,
        "UTF-16": json.dumps(good).encode("utf-16"),
        "UTF-16 without mark": json.dumps(good).encode("utf-16-le"),
        "comment": b"/* x */" + text,
        "trailing comma": text[:-1] + b",}",
        "single quotes": text.replace(b'"', b"'"),
        "50,000 keys": json.dumps({**good, **{f"k{n}": 1 for n in range(50_000)}}).encode(),
        "NUL text": text[:-1] + b',"x":"a\\u0000b"}',
        "NUL key": text[:-1] + b',"a\\u0000b":1}',
        "raw NUL": text[:-1] + b',"x":"a\x00b"}',
        "lone surrogate": text[:-1] + b',"x":"\\ud800"}',
        "lone surrogate key": text[:-1] + b',"\\udfff":1}',
        "form": b"model=test%2Fecho&messages=hi",
    }


def content_types(good: dict[str, Any]) -> dict[str, tuple[str | None, bytes]]:
    """Content-Type and body that are refused although the body itself is fine (or nearly)."""
    text = json.dumps(good).encode()
    return {
        "none": (None, text),
        "empty": ("", text),
        "text/plain": ("text/plain", text),
        "form": ("application/x-www-form-urlencoded", text),
        "multipart": ("multipart/form-data; boundary=x", text),
        "multipart without boundary": ("multipart/form-data", text),
        "bogus charset": ("application/json; charset=bogus", text),
        "UTF-16": ("application/json; charset=utf-16", json.dumps(good).encode("utf-16")),
        "latin-1": ("application/json; charset=iso-8859-1", text),
        "xml": ("application/xml", b"<a/>"),
        "junk": (";;;", text),
        "long": ("application/" + "x" * 5_000, text),
    }


def values() -> dict[str, Any]:
    """Odd values for any field."""
    return {
        "null": None,
        "0": 0,
        "-1": -1,
        "1.5": 1.5,
        "true": True,
        '""': "",
        "[]": [],
        "{}": {},
        "nested": {"a": [{"b": [[{"c": None}]]}]},
        "list of list": [[["x"]]],
        "NUL": "a\x00b",
        "lone surrogate": "\ud800",
        "300 KB": "x" * 300_000,
        "10^30": 10**30,
        "-10^30": -(10**30),
        "1e308": 1e308,
        "5,000 items": ["x"] * 5_000,
        "5,000 objects": [{}] * 5_000,
        "word": "word",
        "path": "../../etc/passwd",
        "spaces": "   ",
        "emoji": "\U0001f4a5",
        "list of null": [None],
    }


def function(name: Any = "f", **fields: Any) -> dict[str, Any]:
    """A tool."""
    return {"type": "function", "function": {"name": name, **fields}}


def json_schema(**inner: Any) -> dict[str, Any]:
    """A response format."""
    return {"response_format": {"type": "json_schema", "json_schema": inner}}


NAME = "tools[0].function.name"
PARAMETERS = "tools[0].function.parameters"
SCHEMA = "response_format.json_schema.schema"
OUTPUTS = "structured_outputs"
ONE = [function()]
NO_TOKENS = ("-1", "1e3", "\u0663", str(10**30), "", " 1", "1.0", "0x1", "abc", "+1", "1_0", "1\n")
NO_NAMES = ("", " ", "a b", "x" * 65, "\u00e9", "a\n", "<f>", 5, None, ["f"], "a/b")
# Fields of a chat request and the parameter its refusal names.
WISHES: list[tuple[dict[str, Any], str]] = [
    *[({"logit_bias": {token: 1}}, "logit_bias") for token in NO_TOKENS],
    *[
        ({"logit_bias": {"1": bias}}, "logit_bias")
        for bias in (101, -100.1, "1", None, True, [1], 1e308, 10**30)
    ],
    ({"logit_bias": {str(n): 1 for n in range(1_025)}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
    *[({"tools": [function(name)]}, NAME) for name in NO_NAMES],
    *[({"tools": [function(parameters=value)]}, PARAMETERS) for value in ("x", [], 5, True)],
    ({"tools": [function(parameters={"maximum": 10**30})]}, PARAMETERS),
    ({"tools": [function(parameters={"enum": ["x" * 70_000]})]}, PARAMETERS),
    ({"tools": [function(description=5)]}, "tools[0].function.description"),
    ({"tools": [function(strict="yes")]}, "tools[0].function.strict"),
    ({"tools": [*ONE, *ONE]}, "tools[1].function.name"),
    ({"tools": [*ONE, 5]}, "tools[1]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": {}}, "tools"),
    *[({"tools": ONE, "tool_choice": value}, "tool_choice") for value in ("any", "f", "=f", 5, [])],
    ({"tools": ONE, "tool_choice": function("g")}, "tool_choice"),
    ({"tools": ONE, "tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tools": ONE, "tool_choice": {"type": "custom"}}, "tool_choice.type"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": function()}, "tool_choice"),
    ({"tools": [], "tool_choice": "required"}, "tool_choice"),
    (
        {"tools": ONE, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}},
        "tool_choice.allowed_tools.tools",
    ),
    (
        {
            "tools": ONE,
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [function("g")]}},
        },
        "tool_choice",
    ),
    ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call"),
    ({"functions": [{"name": "f"}], "function_call": "required"}, "function_call"),
    ({"functions": [{"name": "f"}, {"name": "f"}]}, "functions[1].name"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": ["text"]}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": 5}}, "response_format.json_schema"),
    (json_schema(schema={}), "response_format.json_schema.name"),
    (json_schema(name="", schema={}), "response_format.json_schema.name"),
    (json_schema(name="n"), SCHEMA),
    *[(json_schema(name="n", schema=value), SCHEMA) for value in ("x", [], 5, True)],
    (json_schema(name="n", schema={"enum": ["x" * 70_000]}), SCHEMA),
    (json_schema(name="n", schema={"minimum": -(10**30)}), SCHEMA),
    (json_schema(name="n", schema={}, strict=1), "response_format.json_schema.strict"),
    ({OUTPUTS: {"regex": "a", "choice": ["a"]}}, OUTPUTS),
    ({OUTPUTS: {"regex": ""}}, f"{OUTPUTS}.regex"),
    ({OUTPUTS: {"regex": "a" * 9_000}}, f"{OUTPUTS}.regex"),
    ({OUTPUTS: {"choice": []}}, f"{OUTPUTS}.choice"),
    ({OUTPUTS: {"choice": [""]}}, f"{OUTPUTS}.choice"),
    ({OUTPUTS: {"choice": [1]}}, f"{OUTPUTS}.choice"),
    ({OUTPUTS: {"json": "{"}}, f"{OUTPUTS}.json"),
    ({OUTPUTS: {"json": "[" * 100_000}}, f"{OUTPUTS}.json"),
    ({OUTPUTS: {"regex": "a"}, "response_format": {"type": "json_object"}}, OUTPUTS),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"reasoning_effort": 1}, "reasoning_effort"),
    ({"chat_template_kwargs": {"enable_thinking": "yes"}}, "chat_template_kwargs.enable_thinking"),
]
