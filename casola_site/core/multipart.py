"""Bodies of multipart/form-data: bounded in parts and bytes, files kept on disk.

Django's parser does the reading; what it makes of a form is turned into plain values here, so that
a view's serializer sees the same names as in a JSON body. Blocking: call it in a thread.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import IO, Any

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.core.files.uploadhandler import FileUploadHandler
from django.http.multipartparser import MultiPartParser, MultiPartParserError
from rest_framework import serializers
from rest_framework.parsers import BaseParser

from casola_site.core.errors import InvalidRequest, PayloadTooLarge
from casola_site.core.parsers import StrictJSONParser

MAX_FIELDS = 200
MAX_FILES = 20
MAX_FIELD_BYTES = 1024 * 1024
IN_MEMORY = 256 * 1024
PIECE = 64 * 1024
LONGEST_NAME = 255
PLAIN_FIELDS = (serializers.BooleanField, serializers.IntegerField, serializers.FloatField)


class InvalidForm(InvalidRequest):
    """400: the body is no form that can be read."""

    code = "invalid_request"
    message = "The body is not valid multipart/form-data"


@dataclass(slots=True)
class Upload:
    """One file of a form, open at its start; what the sender says of it is not to be believed."""

    content: IO[bytes]
    size: int
    filename: str
    content_type: str


@dataclass(slots=True)
class Form:
    """Fields and files by name, in the order they came. Closing it removes the files."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[Upload]] = field(default_factory=dict)

    def values(
        self,
        *,
        lists: frozenset[str] = frozenset(),
        objects: frozenset[str] = frozenset(),
        fields: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What a serializer takes: the last text or file of each name, all of a name in `lists`.

        `name[]` and `name[0]` are other ways to write one of several, `name[key]` is how a key of
        one in `objects` is written. A form has texts only: with a serializer's `fields`, those of
        its numbers and booleans become such.
        """
        found: dict[str, Any] = {}
        everything: list[tuple[str, list[Any]]] = [*self.fields.items(), *self.files.items()]
        for name, values in everything:
            bare = name.partition("[")[0] if name.endswith("]") else name
            if bare in objects and bare != name:
                if not isinstance(found.get(bare), dict):
                    found[bare] = {}
                found[bare][name[len(bare) + 1 : -1]] = values[-1]
            elif bare in lists:
                found.setdefault(bare, []).extend(values)
            else:
                found[bare] = _meant(values[-1], (fields or {}).get(bare))
        return found

    def close(self) -> None:
        """Nobody needs the files any more."""
        for uploads in self.files.values():
            for upload in uploads:
                upload.content.close()


def _meant(value: Any, wanted: Any) -> Any:
    """A text as the value its field takes; one that cannot be it stays, to be refused there."""
    if isinstance(value, str) and hasattr(wanted, "from_text"):
        return wanted.from_text(value)
    if not isinstance(value, str) or not isinstance(wanted, PLAIN_FIELDS):
        return value
    text = value.strip().lower()
    if text in ("", "null"):
        return None
    if isinstance(wanted, serializers.BooleanField):
        return {"true": True, "1": True, "false": False, "0": False}.get(text, value)
    try:
        return int(text) if isinstance(wanted, serializers.IntegerField) else float(text)
    except ValueError:
        return value


def is_form(content_type: str) -> bool:
    """Whether a Content-Type says multipart/form-data."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def read_form(body: IO[bytes], *, size: int, content_type: str) -> Form:
    """The form in `body`, which stands at its start. Raises InvalidForm or PayloadTooLarge."""
    keeper = _Keeper()
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": size}
    try:
        fields, _ = MultiPartParser(meta, body, [keeper], "utf-8").parse()
        found = {name: list(values) for name, values in fields.lists()}
        _check_fields(found)
    except BaseException as error:
        keeper.form.close()
        if isinstance(error, RequestDataTooBig):
            raise PayloadTooLarge from error
        if isinstance(error, SuspiciousOperation):
            raise InvalidForm("The form has too many parts") from error
        if isinstance(error, MultiPartParserError | ValueError):
            raise InvalidForm from error
        raise
    keeper.form.fields = found
    return keeper.form


def _check_fields(fields: dict[str, list[str]]) -> None:
    texts = [text for name, values in fields.items() for text in (name, *values)]
    if sum(map(len, fields.values())) > MAX_FIELDS:
        raise InvalidForm("The form has too many parts")
    if sum(map(len, texts)) > MAX_FIELD_BYTES:
        raise PayloadTooLarge
    if any("\x00" in text for text in texts):
        raise InvalidForm("Text in the body must not hold NUL characters")


class _Keeper(FileUploadHandler):
    """Puts the files of one form into temporary files."""

    chunk_size = PIECE

    def __init__(self) -> None:
        super().__init__()
        self.form = Form()
        self._count = 0
        self._upload: Upload | None = None

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        """A file begins."""
        super().new_file(*args, **kwargs)
        self._count += 1
        if self._count > MAX_FILES:
            raise InvalidForm("The form has too many files")
        content = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - the Form closes it
        upload = Upload(content, 0, _short(self.file_name or ""), self.content_type or "")
        self.form.files.setdefault(self.field_name, []).append(upload)
        self._upload = upload

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        """The next bytes of it."""
        del start
        assert self._upload is not None  # noqa: S101 - new_file came before
        self._upload.content.write(raw_data)
        self._upload.size += len(raw_data)

    def file_complete(self, file_size: int) -> None:
        """It is whole; the parser need not know it."""
        del file_size
        assert self._upload is not None  # noqa: S101 - new_file came before
        self._upload.content.seek(0)


def _short(name: str) -> str:
    """A name that is not too long for a file system, its ending kept."""
    if len(name) <= LONGEST_NAME:
        return name
    ending = PurePath(name).suffix[:LONGEST_NAME]
    return name[: LONGEST_NAME - len(ending)] + ending


class FormParser(BaseParser):
    """DRF's door to `read_form`.

    The view's `form_lists` names what may come several times, `form_objects` what comes by keys.
    """

    media_type = "multipart/form-data"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Any = None
    ) -> dict[str, Any]:
        """Read the whole body. The files close with the request's memory."""
        context = parser_context or {}
        view = context.get("view")
        lists = getattr(view, "form_lists", frozenset())
        objects = getattr(view, "form_objects", frozenset())
        size = int(context["request"].META.get("CONTENT_LENGTH") or 0)
        form = read_form(stream, size=size, content_type=media_type or "")
        fields = getattr(view, "form_fields", None)
        return form.values(lists=lists, objects=objects, fields=fields() if fields else None)


FORM_PARSERS = (FormParser, StrictJSONParser)
