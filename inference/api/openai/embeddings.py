"""POST /openai/v1/embeddings."""

from __future__ import annotations

import asyncio
from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.response import Response

from casola_site.core.fields import StrictCharField, StrictIntegerField
from inference.api.interactive import Call, encode
from inference.api.later import InferenceRequest
from inference.api.openai.chat import OTHERWISE, job_check
from inference.api.openai.checks import bad
from inference.api.openai.reading import (
    ReadingViewSet,
    ReadUsageSerializer,
    checked_list,
    checked_text,
)
from inference.contracts import embeddings
from inference.hub import Finished

MAX_INPUTS = 2_048
MAX_TOKENS = 100_000  # of one list of token ids
MAX_TOKEN_ID = 2**31 - 1
LARGE = 64 * 1024  # bytes of vectors


@extend_schema_field(
    {
        "oneOf": [
            {"type": "string", "minLength": 1},
            {
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
                "maxItems": MAX_INPUTS,
            },
            {"type": "array", "items": {"type": "integer"}, "minItems": 1},
            {
                "type": "array",
                "items": {"type": "array", "items": {"type": "integer"}},
                "minItems": 1,
                "maxItems": MAX_INPUTS,
            },
        ]
    }
)
class InputField(serializers.Field):
    """A text, token ids of the model, or a list of either."""

    default_error_messages = {"required": "is required", "null": "is required"}

    def to_internal_value(self, data: Any) -> list[str | list[int]]:
        """A list of texts and token lists."""
        if isinstance(data, str):
            return [checked_text(data)]
        if isinstance(data, list) and data and not isinstance(data[0], str | list):
            return [_token_ids(data)]
        found = checked_list(data, MAX_INPUTS, "inputs")
        return [
            _token_ids(one, index) if isinstance(one, list) else checked_text(one, index)
            for index, one in enumerate(found)
        ]

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


def _token_ids(data: list[Any], *path: int) -> list[int]:
    if not data:
        raise bad("must not be empty", *path)
    if len(data) > MAX_TOKENS:
        raise bad(f"must hold at most {MAX_TOKENS:,} tokens", *path)
    if not all(type(token) is int and 0 <= token <= MAX_TOKEN_ID for token in data):
        raise bad("must hold texts or token ids only", *path)
    return data


class EmbeddingsRequest(InferenceRequest):
    """OpenAI's embeddings request. Unknown fields are ignored, null means absent."""

    model = StrictCharField(max_length=200)
    input = InputField()
    encoding_format = StrictCharField(
        required=False, help_text="float (default) or base64 (float32, little-endian)"
    )
    dimensions = StrictIntegerField(
        required=False,
        min_value=1,
        max_value=1_000_000,
        help_text="Only the first so many numbers, brought back to unit length",
    )
    truncate_prompt_tokens = StrictIntegerField(
        required=False,
        min_value=-1,
        max_value=1_000_000,
        help_text="Cut longer texts to so many tokens, -1: to what the model takes",
    )

    def validate_encoding_format(self, value: str) -> str:
        """One of OpenAI's words."""
        if value not in (embeddings.FLOAT, embeddings.BASE64):
            raise bad("must be float or base64")
        return value

    def validate_truncate_prompt_tokens(self, value: int) -> int:
        """Zero would leave nothing."""
        if value == 0:
            raise bad("must be -1, or 1 and more")
        return value


class EmbeddingSerializer(serializers.Serializer):
    """One vector."""

    object = serializers.CharField()
    index = serializers.IntegerField()
    embedding = serializers.SerializerMethodField()

    @extend_schema_field(
        {"oneOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]}
    )
    def get_embedding(self, value: dict[str, Any]) -> Any:
        """Numbers, or their bytes in base64."""
        return value["embedding"]


class EmbeddingsSerializer(serializers.Serializer):
    """OpenAI's list of embeddings, in the order of the inputs."""

    object = serializers.CharField()
    data = EmbeddingSerializer(many=True)
    model = serializers.CharField()
    usage = ReadUsageSerializer()


class EmbeddingsViewSet(ReadingViewSet):
    """Vectors of texts."""

    task = embeddings.TASK
    request_serializer_class = EmbeddingsRequest

    @extend_schema(
        operation_id="create_embeddings",
        summary="Text embeddings",
        tags=["OpenAI"],
        request=EmbeddingsRequest,
        responses={200: EmbeddingsSerializer, **OTHERWISE},
    )
    def create(self, request: Any) -> Response:
        """Turn texts into vectors of unit length."""
        return self.respond(request)

    @classmethod
    async def render(cls, call: Call, finished: Finished) -> bytes:
        """Vectors are put into text one by one; many of them in a thread."""
        assert finished.result is not None  # noqa: S101 - this Task has one
        if len(finished.result["vectors"]) > LARGE:
            return await asyncio.to_thread(_rendered, call, finished)
        return _rendered(call, finished)


def _rendered(call: Call, finished: Finished) -> bytes:
    encoding = call.body.get("encoding_format", embeddings.FLOAT)
    vectors = embeddings.split(finished.result or {})
    data = ",".join(
        f'{{"object":"embedding","index":{index},"embedding":{embeddings.rendered(vector, encoding)}}}'
        for index, vector in enumerate(vectors)
    )
    usage = encode(embeddings.usage_body(finished.units))
    model = encode(call.requested_model)
    return f'{{"object":"list","data":[{data}],"model":{model},"usage":{usage}}}'.encode()


def check_body(body: dict[str, Any]) -> dict[str, Any]:
    """An embeddings request as a Job's input; see `job_check`."""
    return job_check(EmbeddingsViewSet, body)
