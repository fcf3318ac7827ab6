"""POST /openai/v1/rerank and its alias /openai/v2/rerank, where Cohere's clients look for it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.response import Response

from casola_site.core.fields import (
    StrictBooleanField,
    StrictCharField,
    StrictIntegerField,
)
from inference.api.later import InferenceRequest
from inference.api.openai.chat import OTHERWISE, job_check
from inference.api.openai.checks import bad
from inference.api.openai.reading import (
    ReadingViewSet,
    ReadUsageSerializer,
    checked_list,
    checked_text,
)
from inference.contracts import rerank

MAX_DOCUMENTS = 1_000
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


@extend_schema_field(
    {
        "type": "array",
        "items": {"oneOf": [{"type": "string"}, TEXT]},
        "minItems": 1,
        "maxItems": MAX_DOCUMENTS,
    }
)
class DocumentsField(serializers.Field):
    """Texts, or objects with a `text`."""

    default_error_messages = {"required": "is required", "null": "is required"}

    def to_internal_value(self, data: Any) -> list[str]:
        """The texts."""
        found = checked_list(data, MAX_DOCUMENTS, "documents")
        return [
            checked_text(one.get("text"), index, "text")
            if isinstance(one, dict)
            else checked_text(one, index)
            for index, one in enumerate(found)
        ]

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


class RerankRequest(InferenceRequest):
    """The request of Cohere's, Jina's and Voyage's clients. Unknown fields are ignored."""

    model = StrictCharField(max_length=200)
    query = StrictCharField()
    documents = DocumentsField()
    top_n = StrictIntegerField(
        required=False, min_value=0, max_value=2**31 - 1, help_text="0, or none: all"
    )
    top_k = StrictIntegerField(
        required=False, min_value=0, max_value=2**31 - 1, help_text="Voyage's name of top_n"
    )
    return_documents = StrictBooleanField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One name for what has two."""
        top_k = attrs.pop("top_k", None)
        if top_k is not None and attrs.get("top_n", top_k) != top_k:
            raise bad("must be equal to top_n, which means the same", "top_k")
        if top_k is not None:
            attrs["top_n"] = top_k
        return attrs


class RankedSerializer(serializers.Serializer):
    """A document's place; `index` is its number in the request."""

    index = serializers.IntegerField()
    relevance_score = serializers.FloatField(help_text="Between 0 and 1")
    document = serializers.CharField(required=False)


class TextSerializer(serializers.Serializer):
    """A document."""

    text = serializers.CharField()


class RankedObjectSerializer(RankedSerializer):
    """The same with the document as an object."""

    document = TextSerializer(required=False)  # type: ignore[assignment]


class RerankSerializer(serializers.Serializer):
    """The best documents first, in two forms: `data` and `results` hold the same."""

    object = serializers.CharField()
    id = serializers.CharField()
    model = serializers.CharField()
    data = RankedSerializer(many=True)
    results = RankedObjectSerializer(many=True)
    usage = ReadUsageSerializer()
    meta = serializers.DictField(help_text="What Cohere's clients read")


class RerankViewSet(ReadingViewSet):
    """Documents in the order of their relevance."""

    task = rerank.TASK
    request_serializer_class = RerankRequest

    @extend_schema(
        operation_id="create_rerank",
        summary="Document reranking",
        tags=["OpenAI"],
        request=RerankRequest,
        responses={200: RerankSerializer, **OTHERWISE},
    )
    def create(self, request: Any) -> Response:
        """Put documents in the order in which they answer a query."""
        return self.respond(request)


class RerankV2ViewSet(RerankViewSet):
    """The same at the path of Cohere's second version."""

    @extend_schema(
        operation_id="create_rerank_v2",
        summary="Document reranking (Cohere's path)",
        tags=["OpenAI"],
        request=RerankRequest,
        responses={200: RerankSerializer, **OTHERWISE},
    )
    def create(self, request: Any) -> Response:
        """Put documents in the order in which they answer a query."""
        return self.respond(request)


def check_body(body: dict[str, Any]) -> dict[str, Any]:
    """A rerank request as a Job's input; see `job_check`."""
    return job_check(RerankViewSet, body)
