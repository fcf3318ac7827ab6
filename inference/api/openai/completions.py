"""POST /openai/v1/completions."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.response import Response

from inference.api.interactive import Call, Stream
from inference.api.openai.answers import CompletionSerializer
from inference.api.openai.chat import OTHERWISE, TextViewSet, job_check
from inference.api.openai.serializers import CompletionRequest
from inference.api.openai.streams import CompletionStream
from inference.contracts import completion


class CompletionViewSet(TextViewSet):
    """Completions of plain text, whole or as a stream of server-sent events."""

    task = completion.TASK
    request_serializer_class = CompletionRequest
    body_cap = 4 * 1024 * 1024

    @extend_schema(
        operation_id="create_completion",
        summary="Text completion",
        tags=["OpenAI"],
        request=CompletionRequest,
        responses={
            200: OpenApiResponse(CompletionSerializer, "With stream: server-sent events"),
            **OTHERWISE,
        },
    )
    def create(self, request: Any) -> Response:
        """Go on from a text, without a chat template. Any chat model does it."""
        return self.respond(request)

    @classmethod
    def stream(cls, call: Call) -> Stream:
        """OpenAI's text_completion events."""
        return CompletionStream(call)


def check_body(body: dict[str, Any]) -> dict[str, Any]:
    """A completion request as a Job's input; see `job_check`."""
    return job_check(CompletionViewSet, body)
