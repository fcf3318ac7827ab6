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
