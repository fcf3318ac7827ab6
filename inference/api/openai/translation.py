"""POST /openai/v1/audio/translations."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema

from inference.api.openai.transcription import (
    ANSWERS,
    SoundViewSet,
    TranslationRequest,
    sound_job_check,
)
from inference.contracts import translation


class TranslationViewSet(SoundViewSet):
    """Speech in any language to English text."""

    task = translation.TASK
    request_serializer_class = TranslationRequest

    @extend_schema(
        operation_id="create_translation",
        summary="Speech to English text",
        tags=["OpenAI"],
        request={
            "multipart/form-data": TranslationRequest,
            "application/json": TranslationRequest,
        },
        responses=ANSWERS,
    )
    def create(self, request: Any) -> HttpResponse:
        """Write down in English what is said in a file."""
        return self.respond(request)


def check_body(body: dict[str, Any]) -> dict[str, Any]:
    """A translation request as a Job's input; see `sound_job_check`."""
    return sound_job_check(TranslationViewSet, body)
