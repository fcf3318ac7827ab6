"""Forms: what is read of them, what is refused, and that their files go."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rest_framework import serializers

from casola_site.core.errors import PayloadTooLarge
from casola_site.core.multipart import (
    MAX_FIELDS,
    MAX_FILES,
    FormParser,
    InvalidForm,
    is_form,
    read_form,
)

TYPE = "multipart/form-data; boundary=xx"


def part(name: str, content: bytes, filename: str | None = None, more: str = "") -> bytes:
    about = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return f"--xx\r\nContent-Disposition: {about}\r\n{more}\r\n".encode() + content + b"\r\n"


def read(*parts: bytes, content_type: str = TYPE):
    body = b"".join(parts) + b"--xx--\r\n"
    return read_form(io.BytesIO(body), size=len(body), content_type=content_type)


def test_fields_and_files_are_told_apart():
    form = read(
        part("model", b"whisper"),
        part("file", b"\x00\xff" * 400_000, "a.wav", "Content-Type: audio/wav\r\n"),
    )
    assert form.fields == {"model": ["whisper"]}
    (upload,) = form.files["file"]
    assert (upload.size, upload.filename, upload.content_type) == (800_000, "a.wav", "audio/wav")
    assert upload.content.read() == b"\x00\xff" * 400_000
    form.close()
    assert upload.content.closed


def test_what_comes_several_times_is_a_list_where_the_view_says_so():
    form = read(
        part("image[]", b"1", "1.png"),
        part("image[]", b"2", "2.png"),
        part("words[]", b"a"),
        part("words[]", b"b"),
        part("n", b"1"),
        part("n", b"2"),
    )
    values = form.values(lists=frozenset({"image", "words"}))
    assert [upload.filename for upload in values["image"]] == ["1.png", "2.png"]
    assert (values["words"], values["n"]) == (["a", "b"], "2")
    assert read(part("words", b"a")).values(lists=frozenset({"words"})) == {"words": ["a"]}


class Words(serializers.Serializer):
    """What a view takes."""

    n = serializers.IntegerField()
    t = serializers.FloatField()
    stream = serializers.BooleanField()
    other = serializers.CharField()


def test_texts_become_what_their_fields_take():
    form = read(
        part("n", b"7"), part("t", b"0.5"), part("stream", b"True"), part("other", b"7"),
        part("unknown", b"1"),
    )  # fmt: skip
    assert form.values(fields=Words().fields) == {
        "n": 7,
        "t": 0.5,
        "stream": True,
        "other": "7",
        "unknown": "1",
    }
    odd = read(part("n", b"7.5"), part("t", b"warm"), part("stream", b""))
    assert odd.values(fields=Words().fields) == {"n": "7.5", "t": "warm", "stream": None}


def test_drf_reads_forms_by_the_views_rules():
    body = part("words[]", b"a") + part("n", b"3") + b"--xx--\r\n"
    view = SimpleNamespace(form_lists=frozenset({"words"}), form_fields=lambda: Words().fields)
    request = SimpleNamespace(META={"CONTENT_LENGTH": str(len(body))})
    context = {"view": view, "request": request}
    assert FormParser().parse(io.BytesIO(body), TYPE, context) == {"words": ["a"], "n": 3}


def test_names_of_files_lead_nowhere():
    form = read(part("file", b"x", "../../etc/passwd"), part("file", b"y", "C:\\\\a\\\\b.wav"))
    assert [upload.filename for upload in form.files["file"]] == ["passwd", "b.wav"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("x" * 300 + ".jsonl", "x" * 249 + ".jsonl"),
        ("x." + "y" * 300, "." + "y" * 254),
        ("." + "y" * 300, "." + "y" * 254),
        ("z" * 255, "z" * 255),
    ],
)
def test_long_names_are_shortened_before_their_ending(name, kept):
    (upload,) = read(part("file", b"x", name)).files["file"]
    assert upload.filename == kept


@pytest.mark.parametrize(
    ("parts", "content_type"),
    [
        ([part("a", b"1")], "multipart/form-data"),
        ([part("a", b"1")], "multipart/form-data; boundary="),
        ([part("a", b"1")], "multipart/form-data; boundary=\u00e4"),
        ([part("a", b"1\x00")], TYPE),
        ([part(f"a{n}", b"1") for n in range(MAX_FIELDS + 1)], TYPE),
        ([part("a", b"1", "a.txt") for _ in range(MAX_FILES + 1)], TYPE),
        ([part("a", b"1") for _ in range(20_000)], TYPE),
        ([part("a", b"", "a.txt") for _ in range(20_000)], TYPE),
    ],
    ids=[
        "no boundary",
        "empty boundary",
        "odd boundary",
        "NUL",
        "fields",
        "files",
        "20,000 fields",
        "20,000 files",
    ],
)
def test_odd_forms_are_refused(parts, content_type):
    with pytest.raises(InvalidForm):
        read(*parts, content_type=content_type)


def test_texts_are_bounded():
    with pytest.raises(PayloadTooLarge):
        read(part("prompt", b"a" * (2 << 20)))


def test_a_body_that_is_no_form_has_nothing_in_it():
    body = b"hello"
    assert read_form(io.BytesIO(body), size=5, content_type=TYPE).values() == {}


def test_only_forms_are_forms():
    types = ["Multipart/Form-Data; boundary=x", "multipart/mixed; boundary=x", "application/json"]
    assert [is_form(kind) for kind in types] == [True, False, False]


def test_keys_of_an_object_are_brought_together():
    form = read(part("a[x]", b"1"), part("a[y]", b"2"), part("a", b"3"), part("b[x]", b"4"))
    assert form.values(objects=frozenset({"a"})) == {"a": "3", "b": "4"}
    form = read(part("a", b"3"), part("a[x]", b"1"), part("a[y]", b"2"))
    assert form.values(objects=frozenset({"a"})) == {"a": {"x": "1", "y": "2"}}
