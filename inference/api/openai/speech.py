"""POST /openai/v1/audio/speech."""

from __future__ import annotations

import base64
import re
from typing import Any, ClassVar

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers

from casola_site.core.errors import ApiError, Surface, body_for
from casola_site.core.fields import (
    StrictCharField,
    StrictChoiceField,
    StrictFloatField,
)
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from inference.api.interactive import Call, Interactive, Stream
from inference.api.later import InferenceRequest
from inference.api.openai.chat import OTHERWISE, job_check
from inference.api.openai.checks import bad, missing
from inference.api.openai.streams import sse
from inference.contracts import speech
from inference.hub import Bytes, Finished, Piece
from usage.limits import RateClass

VOICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LANGUAGE = re.compile(r"[A-Za-z]{2,8}([_-][A-Za-z0-9]{1,8})*")
EVENTS, AUDIO = "sse", "audio"


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string"},
            {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
        ]
    }
)
class VoiceField(serializers.Field):
    """The id of a voice, bare or as `{"id": …}`."""

    default_error_messages = {"required": "is required", "null": "is required"}

    def to_internal_value(self, data: Any) -> str:
        """The id."""
        if isinstance(data, dict):
            if data.get("id") is None:
                raise missing("id")
            data = data["id"]
        if not isinstance(data, str):
            raise bad("must be a string or an object with an id")
        if not VOICE_ID.fullmatch(data):
            raise bad("is no voice; GET /api/voice/models lists them")
        return data

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


class SpeechRequest(InferenceRequest):
    """OpenAI's speech request. Unknown fields are ignored, null means absent."""

    model = StrictCharField(max_length=200)
    input = StrictCharField(max_length=speech.MAX_CHARACTERS)
    voice = VoiceField(help_text="One of GET /api/voice/models; OpenAI's names always work")
    response_format = StrictChoiceField(choices=list(speech.CONTENT_TYPES), required=False)
    speed = StrictFloatField(required=False, min_value=speech.SLOWEST, max_value=speech.FASTEST)
    language = StrictCharField(
        required=False, max_length=20, help_text="Such as `de`: what a named voice is to speak"
    )
    instructions = StrictCharField(
        required=False, allow_blank=True, max_length=speech.MAX_CHARACTERS, help_text="Ignored"
    )
    stream_format = StrictChoiceField(
        choices=[AUDIO, EVENTS],
        required=False,
        help_text="Send the sound as it is made: bare, or as server-sent events",
    )

    def validate_input(self, value: str) -> str:
        """Something to say."""
        if not value.strip():
            raise bad("must not be empty")
        return value

    def validate_language(self, value: str) -> str:
        """A tag; which ones a model speaks is for the Runner to say."""
        if not LANGUAGE.fullmatch(value):
            raise bad("must be a language tag such as `de`")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Whether it is sent as it is made."""
        return {**attrs, "stream": attrs.get("stream_format") is not None}


class SpeechStream:
    """OpenAI's speech.audio events."""

    def opening(self) -> bytes:
        """Nothing comes before the sound."""
        return b""

    def chunks(self, piece: Piece) -> bytes:
        """The event of one piece."""
        match piece:
            case Bytes(data):
                audio = base64.b64encode(data).decode()
                return sse({"type": "speech.audio.delta", "audio": audio})
            case Finished():
                usage = speech.usage_body(piece.units)
                return sse({"type": "speech.audio.done", "usage": usage})
        return b""


class SpeechViewSet(Interactive, ApiViewSet):
    """Text to speech, as a file or as a stream."""

    error_format: ClassVar[Surface] = "openai"
    required_scopes = {"POST": Scope.USER_WRITE}
    rate_classes = {"POST": RateClass.JOB_SUBMISSION}
    task = speech.TASK
    request_serializer_class = SpeechRequest
    body_cap = 4 * 1024 * 1024

    @extend_schema(
        operation_id="create_speech",
        summary="Text to speech",
        tags=["OpenAI"],
        request=SpeechRequest,
        responses={
            (200, *speech.CONTENT_TYPES.values(), "text/event-stream"): OpenApiTypes.BINARY,
            **OTHERWISE,
        },
    )
    def create(self, request: Any) -> HttpResponse:
        """Have a voice read a text. The answer is the sound itself."""
        call, content = self.wait_for_bytes(request.auth, request.data)
        content_type = self.content_type(call)
        return HttpResponse(content, content_type=content_type, headers=call.headers())

    @classmethod
    def contract(cls, body: dict[str, Any]) -> dict[str, Any]:
        """What the engine is given."""
        return speech.from_body(body).as_dict()

    @classmethod
    def content_type(cls, call: Call) -> str | None:
        """That of the sound, unless it goes into events."""
        if call.body.get("stream") and call.body["stream_format"] == EVENTS:
            return None
        return speech.CONTENT_TYPES[call.body.get("response_format") or speech.DEFAULT_FORMAT]

    @classmethod
    def stream(cls, call: Call) -> Stream:
        """OpenAI's speech.audio events."""
        del call
        return SpeechStream()

    @classmethod
    def stream_error(cls, error: ApiError) -> bytes:
        """An error after the first output."""
        return sse(body_for(error, "openai"))


def check_body(body: dict[str, Any]) -> dict[str, Any]:
    """A speech request as a Job's input. Raises as `job_check`."""
    return job_check(SpeechViewSet, body)
