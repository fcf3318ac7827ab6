"""POST /openai/v1/audio/transcriptions, and what translations share with it."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Any, ClassVar

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers

from casola_site.core import outputs
from casola_site.core.database import in_thread, to_the_end
from casola_site.core.errors import ApiError, InvalidRequest, Surface, body_for
from casola_site.core.fetch import Fetched, fetch
from casola_site.core.fields import (
    StrictBooleanField,
    StrictCharField,
    StrictChoiceField,
    StrictFloatField,
)
from casola_site.core.multipart import FORM_PARSERS, Upload
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from inference.api.interactive import Call, Interactive, Stream, encode
from inference.api.later import InferenceRequest
from inference.api.openai.chat import OTHERWISE, job_check
from inference.api.openai.checks import bad, missing
from inference.api.openai.streams import sse
from inference.contracts import transcription
from inference.contracts.surfaces import WHOLE_TASKS
from inference.hub import Finished, Hub, Piece, Text
from jobs.files import KeptFile, store_upload
from usage.limits import RateClass

MB = 1024 * 1024
LARGE = 64 * 1024  # bytes of a transcript
LANGUAGE = re.compile(r"[A-Za-z]{2,20}([_-][A-Za-z0-9]{1,8})*")
DATA, BARE = "data:", "pcm"
LONGEST_URL = 34 * MB  # a data: URL holds the file itself


class InvalidAudio(InvalidRequest):
    """400: the file holds nothing that could be heard."""

    code = "invalid_audio"
    message = "The file is empty"


@extend_schema_field(OpenApiTypes.BINARY)
class UploadField(serializers.Field):
    """A file of a form."""

    default_error_messages = {"required": "is required", "null": "is required"}

    def to_internal_value(self, data: Any) -> Upload:
        """What its sender says of it is not looked at here."""
        if not isinstance(data, Upload):
            raise bad("must be a file, sent as multipart/form-data")
        return data

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


@extend_schema_field({"type": "array", "items": {"type": "string", "enum": ["word", "segment"]}})
class GranularitiesField(serializers.Field):
    """`word`, `segment` or both."""

    def to_internal_value(self, data: Any) -> list[str]:
        """A list of the words, one alone as well."""
        found = [data] if isinstance(data, str) else data
        words = (transcription.WORD, transcription.SEGMENT)
        if not isinstance(found, list) or not found or any(one not in words for one in found):
            raise bad("must be a list of word and segment")
        return list(dict.fromkeys(found))

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


class TranslationRequest(InferenceRequest):
    """OpenAI's translation request. Unknown fields are ignored, null means absent."""

    model = StrictCharField(max_length=200)
    file = UploadField(required=False, help_text="Whatever ffmpeg can read, up to 25 MB")
    url = StrictCharField(
        required=False, max_length=LONGEST_URL, help_text="Where the file is, instead of `file`"
    )
    prompt = StrictCharField(
        required=False,
        allow_blank=True,
        max_length=transcription.MAX_PROMPT,
        help_text="What went before, or words as they are to be written",
    )
    response_format = StrictChoiceField(
        choices=transcription.FORMATS, required=False, help_text="json by default"
    )
    temperature = StrictFloatField(required=False, min_value=0, max_value=1)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One sound, and a stream only of what can be one."""
        if attrs.get("file") is None and attrs.get("url") is None:
            raise missing("file")
        if attrs.get("file") is not None and attrs.get("url") is not None:
            raise bad("must not be given together with file", "url")
        wished = attrs.get("response_format") or transcription.JSON
        if attrs.get("stream") and wished not in transcription.STREAMED:
            raise bad("works with the response formats json and text only", "stream")
        if attrs.get("timestamp_granularities") and wished != transcription.VERBOSE:
            raise bad("need the response format verbose_json", "timestamp_granularities")
        return attrs


class TranscriptionRequest(TranslationRequest):
    """OpenAI's transcription request. Unknown fields are ignored, null means absent."""

    language = StrictCharField(
        required=False, max_length=30, help_text="Such as `de`; without it the model finds out"
    )
    timestamp_granularities = GranularitiesField(
        required=False, help_text="With verbose_json: `word`, `segment` (default) or both"
    )
    stream = StrictBooleanField(
        required=False, help_text="Send the text as it is made, as server-sent events"
    )

    def validate_language(self, value: str) -> str:
        """A tag or a name; which ones a model knows is for the Runner to say."""
        if not LANGUAGE.fullmatch(value):
            raise bad("must be a language such as `de`")
        return value


class TranscriptStream:
    """OpenAI's transcript.text events."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def opening(self) -> bytes:
        """Nothing comes before the text."""
        return b""

    def chunks(self, piece: Piece) -> bytes:
        """The event of one piece."""
        match piece:
            case Text(text):
                self._parts.append(text)
                return sse({"type": "transcript.text.delta", "delta": text})
            case Finished():
                usage = transcription.usage_body(piece.units)
                text = "".join(self._parts)
                return sse({"type": "transcript.text.done", "text": text, "usage": usage})
        return b""


class SoundViewSet(Interactive, ApiViewSet):
    """What both endpoints that listen share: the upload, the formats."""

    error_format: ClassVar[Surface] = "openai"
    required_scopes = {"POST": Scope.USER_WRITE}
    rate_classes = {"POST": RateClass.JOB_SUBMISSION}
    parser_classes = FORM_PARSERS
    body_cap = 32 * MB
    takes_forms = True
    form_lists = frozenset({"timestamp_granularities", "include"})

    def respond(self, request: Any) -> HttpResponse:
        """The whole answer, for servers without an event loop."""
        call, finished = self.wait(request.auth, request.data)
        content = self.rendered(call, finished)
        return HttpResponse(content, content_type=self.answer_type(call), headers=call.headers())

    @classmethod
    def contract(cls, body: dict[str, Any]) -> dict[str, Any]:
        """What the engine is given."""
        return WHOLE_TASKS[cls.task].from_body(body).as_dict()

    @classmethod
    async def pieces(cls, link: Hub, call: Call) -> AsyncGenerator[Piece, None]:
        """See Interactive. The upload lies in the storage meanwhile, where a Runner can read it."""
        kept = await keep_sound(call.body, call.identity.organization_pk)
        call.body |= kept
        try:
            async with aclosing(super().pieces(link, call)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            if kept:
                await to_the_end(remove_upload(kept["upload"]))

    @classmethod
    def keep_files(
        cls, body: dict[str, Any], *, organization_id: int, now: datetime
    ) -> list[KeptFile]:
        """See Interactive."""
        said, kept = store_sound(body, organization_id=organization_id, now=now)
        body |= said
        return kept

    @classmethod
    def rendered(cls, call: Call, finished: Finished) -> bytes:
        """The whole answer in the wished format."""
        assert finished.result is not None  # noqa: S101 - these Tasks have one
        body = WHOLE_TASKS[cls.task].answer_body(
            job_id=call.job_id,
            created=int(call.created),
            model=call.requested_model,
            body=call.body,
            result=finished.result,
            units=finished.units,
        )
        is_json = cls.answer_type(call) == "application/json"
        return (encode(body) if is_json else body["text"]).encode()

    @classmethod
    async def render(cls, call: Call, finished: Finished) -> bytes:
        """See Interactive."""
        if len((finished.result or {}).get(transcription.TRANSCRIPT) or b"") > LARGE:
            return await asyncio.to_thread(cls.rendered, call, finished)
        return cls.rendered(call, finished)

    @classmethod
    def answer_type(cls, call: Call) -> str:
        """That of the wished format."""
        wished = call.body.get("response_format") or transcription.JSON
        return transcription.CONTENT_TYPES[wished]

    @classmethod
    def stream(cls, call: Call) -> Stream:
        """OpenAI's transcript.text events."""
        del call
        return TranscriptStream()

    @classmethod
    def stream_error(cls, error: ApiError) -> bytes:
        """An error after the first output."""
        return sse(body_for(error, "openai"))


def store_sound(
    body: dict[str, Any], *, organization_id: int, now: datetime
) -> tuple[dict[str, str], list[KeptFile]]:
    """Put what came with the request into the storage; what its body then says instead.

    An address is left to the Runner: nothing comes back. Raises InvalidAudio, InvalidDataUrl or
    StorageFull.
    """
    upload, url = body.pop("file", None), body.get("url") or ""
    if upload is not None:
        content, size, kind = upload.content, upload.size, upload.content_type
        named = upload.filename.rpartition(".")[2].lower()
        kind = BARE if BARE in (named, kind.rpartition("/")[2]) else named
    elif url[:5].lower() == DATA:
        found = sent_along(url)
        content, size = io.BytesIO(found.content), len(found.content)
        kind = found.content_type.rpartition("/")[2]
    else:
        return {}, []
    if not size:
        raise InvalidAudio(param="url" if upload is None else "file")
    outputs.require_room()
    content.seek(0)
    file = store_upload(content, organization_id=organization_id, now=now)
    said = {"upload": file.name, "kind": kind, **({"url": DATA} if upload is None else {})}
    return said, [file]


@in_thread
def keep_sound(body: dict[str, Any], organization_id: int) -> dict[str, str]:
    """The same for as long as the request is under way."""
    return store_sound(body, organization_id=organization_id, now=timezone.now())[0]


def sent_along(url: str) -> Fetched:
    """The content of a data: URL. Raises InvalidDataUrl."""
    try:
        return fetch(url)
    except InvalidRequest as error:
        error.param = "url"
        raise


remove_upload = in_thread(outputs.remove)


class SegmentSerializer(serializers.Serializer):
    """A stretch of speech; times in seconds."""

    id = serializers.IntegerField()
    seek = serializers.IntegerField()
    start = serializers.FloatField()
    end = serializers.FloatField()
    text = serializers.CharField()
    tokens = serializers.ListField(child=serializers.IntegerField())
    temperature = serializers.FloatField()
    avg_logprob = serializers.FloatField()
    compression_ratio = serializers.FloatField()
    no_speech_prob = serializers.FloatField()


class WordSerializer(serializers.Serializer):
    """A word; times in seconds."""

    word = serializers.CharField()
    start = serializers.FloatField()
    end = serializers.FloatField()


class DurationSerializer(serializers.Serializer):
    """What is charged: begun seconds of sound."""

    type = serializers.CharField()
    seconds = serializers.IntegerField()


class TranscriptionSerializer(serializers.Serializer):
    """`text` and `usage`; with verbose_json the rest as well."""

    text = serializers.CharField()
    task = serializers.CharField(required=False)
    language = serializers.CharField(required=False)
    duration = serializers.FloatField(required=False)
    segments = SegmentSerializer(many=True, required=False)
    words = WordSerializer(many=True, required=False)
    usage = DurationSerializer()


ANSWERS = {
    (200, "application/json"): OpenApiResponse(TranscriptionSerializer, "In the wished format"),
    (200, "text/plain"): OpenApiTypes.STR,
    (200, "text/vtt"): OpenApiTypes.STR,
    **OTHERWISE,
}


class TranscriptionViewSet(SoundViewSet):
    """Speech to text."""

    task = transcription.TASK
    request_serializer_class = TranscriptionRequest

    @extend_schema(
        operation_id="create_transcription",
        summary="Speech to text",
        tags=["OpenAI"],
        request={
            "multipart/form-data": TranscriptionRequest,
            "application/json": TranscriptionRequest,
        },
        responses={**ANSWERS, (200, "text/event-stream"): OpenApiTypes.STR},
    )
    def create(self, request: Any) -> HttpResponse:
        """Write down what is said in a file, with times if asked for."""
        return self.respond(request)


def sound_job_check(view: type[SoundViewSet], body: dict[str, Any]) -> dict[str, Any]:
    """A request as a Job's input: it has a `url`. Raises as `job_check`."""
    if body.get("file") is not None:
        message = "a job takes no file; send its address, or itself as a data: URL, as url"
        raise bad(message, "input", "file")
    return job_check(view, body)


def check_body(body: dict[str, Any]) -> dict[str, Any]:
    """A transcription request as a Job's input; see `sound_job_check`."""
    return sound_job_check(TranscriptionViewSet, body)
