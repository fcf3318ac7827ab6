"""POST /openai/v1/chat/completions."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from casola_site.core.errors import ApiError, Surface, body_for
from casola_site.core.openapi import ErrorEnvelope
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from inference.api.interactive import Call, Interactive, Stream
from inference.api.later import LaterSerializer
from inference.api.openai.answers import ChatCompletionSerializer
from inference.api.openai.serializers import ChatCompletionRequest
from inference.api.openai.streams import DONE, ChatStream, sse
from inference.contracts import chat
from inference.contracts.surfaces import TEXT_TASKS
from inference.hub import Finished
from usage.limits import RateClass

OTHERWISE = {
    202: OpenApiResponse(LaterSerializer, "With async: where to look for the answer"),
    502: OpenApiResponse(ErrorEnvelope, "The model failed on this request"),
    504: OpenApiResponse(ErrorEnvelope, "The model did not begin to answer in time"),
}


class TextViewSet(Interactive, ApiViewSet):
    """What the endpoints that answer with choices of text share."""

    error_format: ClassVar[Surface] = "openai"
    required_scopes = {"POST": Scope.USER_WRITE}
    rate_classes = {"POST": RateClass.JOB_SUBMISSION}

    def respond(self, request: Any) -> Response:
        """The whole answer, for servers without an event loop."""
        call, finished = self.wait(request.auth, request.data)
        return Response(self.answer(call, finished), headers=call.headers())

    @classmethod
    def contract(cls, body: dict[str, Any]) -> dict[str, Any]:
        """What the engine is given."""
        return TEXT_TASKS[cls.task].from_body(body).as_dict()

    @classmethod
    def answer(cls, call: Call, finished: Finished) -> dict[str, Any]:
        """OpenAI's whole answer."""
        return TEXT_TASKS[cls.task].completion_body(
            job_id=call.job_id,
            created=int(call.created),
            model=call.requested_model,
            choices=finished.choices,
            units=finished.units,
        )

    @classmethod
    def stream_error(cls, error: ApiError) -> bytes:
        """An error after the first output."""
        return sse(body_for(error, "openai")) + DONE


class ChatCompletionViewSet(TextViewSet):
    """Chat completions, whole or as a stream of server-sent events."""

    task = chat.TASK
    request_serializer_class = ChatCompletionRequest
    body_cap = 25 * 1024 * 1024

    @extend_schema(
        operation_id="create_chat_completion",
        summary="Chat completion",
        tags=["OpenAI"],
        request=ChatCompletionRequest,
        responses={
            200: OpenApiResponse(ChatCompletionSerializer, "With stream: server-sent events"),
            **OTHERWISE,
        },
    )
    def create(self, request: Any) -> Response:
        """Answer a conversation with one of the chat models."""
        return self.respond(request)

    @classmethod
    def stream(cls, call: Call) -> Stream:
        """OpenAI's chat.completion.chunk events."""
        return ChatStream(call)


def job_check(view: type[Interactive], body: dict[str, Any]) -> dict[str, Any]:
    """A request as a Job's input. Raises DRF's ValidationError with `input.` before the field."""
    try:
        return {**view.check(body), "stream": False}
    except ValidationError as error:
        raise ValidationError({"input": error.detail}) from None


def check_body(body: dict[str, Any]) -> dict[str, Any]:
    """A chat request as a Job's input; see `job_check`."""
    return job_check(ChatCompletionViewSet, body)


def check_anything(body: dict[str, Any]) -> dict[str, Any]:
    """The stub engine's Task takes any object."""
    return body
