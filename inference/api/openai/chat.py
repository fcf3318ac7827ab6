"""POST /openai/v1/chat/completions."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from asgiref.sync import async_to_sync
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from casola_site.core.errors import ApiError, Surface, body_for
from casola_site.core.openapi import ErrorEnvelope
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from inference.api.interactive import Call, Interactive
from inference.api.openai.serializers import ChatCompletionRequest, ChatCompletionSerializer
from inference.contracts import chat
from inference.hub import Finished, Piece, Started, Text, hub
from usage.limits import RateClass

DONE = b"data: [DONE]\n\n"


GAP = "\0"  # no body may hold it, so nothing else in a chunk is encoded like it
encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _sse(body: Any) -> bytes:
    return b"data: " + encode(body).encode() + b"\n\n"


class ChatCompletionViewSet(Interactive, ApiViewSet):
    """Chat completions, whole or as a stream of server-sent events."""

    error_format: ClassVar[Surface] = "openai"
    required_scopes = {"POST": Scope.USER_WRITE}
    rate_classes = {"POST": RateClass.JOB_SUBMISSION}
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
            502: OpenApiResponse(ErrorEnvelope, "The model failed on this request"),
            504: OpenApiResponse(ErrorEnvelope, "The model did not begin to answer in time"),
        },
    )
    def create(self, request: Any) -> Response:
        """Answer a conversation with one of the chat models."""
        data = request.data

        async def run() -> tuple[Call, Finished]:
            call = await self.prepare(hub(), request.auth, data)
            call.body["stream"] = False  # here a thread waits; streams are the consumer's
            async for piece in self.pieces(hub(), call):
                if isinstance(piece, Finished):
                    return call, piece
            raise ApiError

        call, finished = async_to_sync(run)()
        return Response(self.answer(call, finished), headers=call.headers())

    @classmethod
    def contract(cls, body: dict[str, Any]) -> dict[str, Any]:
        """Messages and sampling for the engine."""
        return chat.from_body(body).as_dict()

    @classmethod
    def answer(cls, call: Call, finished: Finished) -> dict[str, Any]:
        """OpenAI's chat.completion."""
        return chat.completion_body(
            job_id=call.job_id,
            created=int(call.created),
            model=call.requested_model,
            text=finished.text,
            reason=finished.reason,
            units=finished.units,
        )

    @classmethod
    def chunks(cls, call: Call, piece: Piece) -> bytes:
        """OpenAI's chat.completion.chunk events."""
        match piece:
            case Started():
                return b""
            case Text(text):
                if call.around_text is None:
                    whole = cls._chunk(call, {"content": GAP})
                    before, _, after = whole.partition(encode(GAP).encode())
                    call.around_text = before, after
                before, after = call.around_text
                return before + encode(text).encode() + after
            case Finished():
                out = cls._chunk(call, {}, piece.reason)
                if cls._wants_usage(call):
                    out += _sse(
                        {**cls._frame(call), "choices": [], "usage": chat.usage_body(piece.units)}
                    )
                return out + DONE

    @classmethod
    def opening(cls, call: Call) -> bytes:
        """The first chunk: who speaks."""
        return cls._chunk(call, {"role": "assistant", "content": ""})

    @classmethod
    def stream_error(cls, error: ApiError) -> bytes:
        """An error after the first output."""
        return _sse(body_for(error, "openai")) + DONE

    @staticmethod
    def _wants_usage(call: Call) -> bool:
        return bool((call.body.get("stream_options") or {}).get("include_usage"))

    @staticmethod
    def _frame(call: Call) -> dict[str, Any]:
        return {
            "id": chat.completion_id(call.job_id),
            "object": "chat.completion.chunk",
            "created": int(call.created),
            "model": call.requested_model,
        }

    @classmethod
    def _chunk(cls, call: Call, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if cls._wants_usage(call) else {}
        return _sse({**cls._frame(call), "choices": [choice], **usage})


def check_body(body: dict[str, Any]) -> dict[str, Any]:
    """A chat request as a Job's input. Raises DRF's ValidationError with `input.` before the field."""
    try:
        return {**ChatCompletionViewSet.check(body), "stream": False}
    except ValidationError as error:
        raise ValidationError({"input": error.detail}) from None


def check_anything(body: dict[str, Any]) -> dict[str, Any]:
    """The stub engine's Task takes any object."""
    return body
