"""POST /openai/v1/score."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.response import Response

from casola_site.core.fields import StrictCharField
from inference.api.later import InferenceRequest
from inference.api.openai.chat import OTHERWISE, job_check
from inference.api.openai.checks import bad, missing
from inference.api.openai.reading import (
    ReadingViewSet,
    ReadUsageSerializer,
    checked_list,
    checked_text,
    texts_field,
)
from inference.contracts import score

MAX_PAIRS = 1_000
# What else vLLM's clients call the two sides.
ALIASES = {
    "text_1": ("queries", "data_1"),
    "text_2": ("documents", "items", "data_2"),
}


@texts_field(MAX_PAIRS)
class TextsField(serializers.Field):
    """A text or a list of texts."""

    def to_internal_value(self, data: Any) -> list[str]:
        """A list."""
        if isinstance(data, str):
            return [checked_text(data)]
        found = checked_list(data, MAX_PAIRS, "texts")
        return [checked_text(one, index) for index, one in enumerate(found)]

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


class ScoreRequest(InferenceRequest):
    """vLLM's score request: one text with one, one with many, or as many with as many."""

    model = StrictCharField(max_length=200)
    text_1 = TextsField(required=False, help_text="Required; also `queries`")
    text_2 = TextsField(required=False, help_text="Required; also `documents` or `items`")

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """Other names become the first; both sides are required."""
        if isinstance(data, dict):
            data = dict(data)
            for name, others in ALIASES.items():
                given = [data.pop(other, None) for other in others]
                if data.get(name) is None:
                    data[name] = next((one for one in given if one is not None), None)
            lacking = {
                name: missing().detail for name in ("model", *ALIASES) if data.get(name) is None
            }
            if lacking:
                raise serializers.ValidationError(lacking)
        return super().to_internal_value(data)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Sides that can be paired."""
        one, two = len(attrs["text_1"]), len(attrs["text_2"])
        if one not in (1, two):
            raise bad(f"must hold one text, or as many as text_2 ({two})", "text_1")
        return attrs


class PairScoreSerializer(serializers.Serializer):
    """One pair."""

    index = serializers.IntegerField()
    object = serializers.CharField()
    score = serializers.FloatField(help_text="Between 0 and 1")


class ScoreSerializer(serializers.Serializer):
    """vLLM's list of scores, in the order of the pairs."""

    id = serializers.CharField()
    object = serializers.CharField()
    created = serializers.IntegerField()
    model = serializers.CharField()
    data = PairScoreSerializer(many=True)
    usage = ReadUsageSerializer()


class ScoreViewSet(ReadingViewSet):
    """How well two texts fit together."""

    task = score.TASK
    request_serializer_class = ScoreRequest

    @extend_schema(
        operation_id="create_score",
        summary="Text pair scoring",
        tags=["OpenAI"],
        request=ScoreRequest,
        responses={200: ScoreSerializer, **OTHERWISE},
    )
    def create(self, request: Any) -> Response:
        """Score pairs of texts, with the models that rerank."""
        return self.respond(request)


def check_body(body: dict[str, Any]) -> dict[str, Any]:
    """A score request as a Job's input; see `job_check`."""
    return job_check(ScoreViewSet, body)
