"""JSON bodies: what is refused, in how many words and how fast."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casola_site.core.errors import InvalidJSON, PayloadTooLarge, UnsupportedMediaType
from casola_site.core.parsers import decode_json, json_object

JSON = "application/json"


def nested(depth: int, opener=b"[", closer=b"]") -> bytes:
    return opener * depth + b"1" + closer * depth


REFUSED = {
    "empty": b"",
    "blank": b" \n\t",
    "truncated": b'{"a": ',
    "truncated text": b'{"a": "b',
    "text": b"hello",
    "array": b"[]",
    "null": b"null",
    "true": b"true",
    "number": b"1",
    "string": b'"a"',
    "two values": b"{} {}",
    "trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "comment": b'{"a": 1 /* no */}',
    "hash comment": b'{"a": 1} # no',
    "array 65 deep": b'{"a":' + nested(64) + b"}",
    "array 1,000 deep": nested(1000),
    "array 100,000 deep": nested(100_000),
    "array 100,000 deep, unclosed": b"[" * 100_000,
    "object 20,000 deep": nested(20_000, b'{"a":', b"}"),
    "deep after a long text": b'{"a":"' + b"x" * 20_000 + b'","b":' + nested(100_000) + b"}",
    "deep after many values": b'{"a":[' + b"1," * 10_000 + nested(3000) + b"]}",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b'{"a": -Infinity}',
    "1e99999": b'{"a": 1e99999}',
    "-1e99999": b'{"a": -1e99999}',
    "5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "4,000,000 digits": b'{"a": ' + b"9" * 4_000_000 + b"}",
    "invalid UTF-8": b'{"a": "\xff"}',
    "overlong UTF-8": b'{"a": "\xc0\x80"}',
    "surrogates in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without BOM": '{"a": 1}'.encode("utf-16-le"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "raw NUL": b'{"a": "\x00"}',
    "escaped NUL": b'{"a": "\\u0000"}',
    "NUL in a key": b'{"\\u0000": 1}',
    "NUL deep inside": b'{"a": [[{"b": ["\\u0000"]}]]}',
    "high surrogate": b'{"a": "\\ud800"}',
    "low surrogate": b'{"a": "\\udfff"}',
    "surrogates the wrong way round": b'{"a": "\\udc00\\ud800"}',
    "surrogate in a key": b'{"\\ud800": 1}',
    "control character": b'{"a": "\x01"}',
    "50,000 keys": json.dumps({str(n): n for n in range(50_000)}).encode(),
    "300,000 values": json.dumps({"a": [1] * 300_000}).encode(),
    "25 MB of empty objects": b'{"a":[' + b"{}," * 8_600_000 + b"{}]}",
    "25 MB of empty arrays": b'{"a":[' + b"[]," * 8_600_000 + b"[]]}",
    "25 MB of numbers": b'{"a":[' + b"1," * 12_900_000 + b"1]}",
    "25 MB of texts": b'{"a":["' + b'a","' * 6_000_000 + b'"]}',
    "a fraction of 4,000,000 digits": b'{"a": 0.' + b"9" * 4_000_000 + b"}",
    "text of 2 MB": json.dumps({"a": "x" * 2_000_000}).encode(),
    "quotes without end": b'{"a":[' + b"[]," * 100 + b'"' + b'\\"' * 1_000_000,
    "quotes without end, odd": b'{"a":[' + b"[]," * 100 + b'"' + b'\\\\"' * 500_000,
    "backslashes": b'{"a":[' + b"[]," * 100 + b'"' + b"\\" * 1_000_001,
    "openers in texts": b'{"a":"' + b"[" * 3_000_000,
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_body_is_refused_at_once_with_a_sentence(raw):
    started = time.perf_counter()

    with pytest.raises(InvalidJSON) as refused:
        json_object(raw, JSON)

    assert time.perf_counter() - started < 10
    error = refused.value
    assert (error.status, error.code, error.type) == (400, "invalid_json", "invalid_request_error")
    assert error.message.startswith(("The ", "A ", "An ", "Text ", "NaN ", "Infinity ", "-Inf"))
    assert len(error.message) < 200


TAKEN = {
    "nothing": ({}, b"{}"),
    "blanks": ({"a": 1}, b' \n{ "a" : 1 }\r\n'),
    "text of 300 KB": ({"a": "é" * 150_000}, json.dumps({"a": "é" * 150_000}).encode()),
    "escapes": ({"a": '"\\/\n'}, b'{"a": "\\"\\\\\\/\\n"}'),
    "a pair of surrogates": ({"a": "😀"}, b'{"a": "\\ud83d\\ude00"}'),
    "numbers": ({"a": 10**30, "b": -0.5, "c": 1e300}, b'{"a": 1' + b"0" * 30 + b', "b": -0.5, "c": 1e300}'),
    "nulls": ({"a": None}, b'{"a": null}'),
    "2,000 keys": ({str(n): n for n in range(2000)}, json.dumps({str(n): n for n in range(2000)}).encode()),
    "brackets in texts": ({"a": "[" * 500}, b'{"a": "' + b"[" * 500 + b'"}'),
    "commas and quotes in texts": ({"a": ',"' * 400_000}, json.dumps({"a": ',"' * 400_000}).encode()),
    "many small arrays": ({"a": [[]] * 500}, json.dumps({"a": [[]] * 500}).encode()),
    "a double key": ({"a": 2}, b'{"a": 1, "a": 2}'),
    "a data URL": ({"a": "data:" + "A" * 2_000_000}, b'{"a": "data:' + b"A" * 2_000_000 + b'"}'),
}  # fmt: skip


@pytest.mark.parametrize(("value", "raw"), TAKEN.values(), ids=TAKEN.keys())
def test_a_good_body_is_taken(value, raw):
    started = time.perf_counter()
    assert json_object(raw, JSON) == value
    assert time.perf_counter() - started < 10


def test_the_deepest_body():
    value = json_object(b'{"a":' + nested(63) + b"}", JSON)
    for _ in range(63):
        (value,) = value.values() if isinstance(value, dict) else value
    assert value == [1]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('ab[{"\\'), inner),
        max_leaves=20,
    )
)
def test_what_json_writes_is_read_back(value):
    assert decode_json(json.dumps(value).encode()) == value
    assert decode_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(raw):
    with contextlib.suppress(InvalidJSON):
        assert isinstance(json_object(raw, JSON), dict)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json ; charset = utf8",
        "application/problem+json",
    ],
)
def test_json_in_utf8_is_taken(content_type):
    assert json_object(b"{}", content_type) == {}


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "text/json",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/json; charset=utf-16",
        "application/json; charset=bogus",
        "application/json; charset=iso-8859-1",
        "json",
    ],
)
def test_other_types_are_refused(content_type):
    with pytest.raises(UnsupportedMediaType) as refused:
        json_object(b"{}", content_type)
    assert refused.value.status == 415


def test_a_body_over_its_cap_is_refused_before_it_is_read():
    with pytest.raises(PayloadTooLarge):
        json_object(b"\xff" * 11, JSON, cap=10)
