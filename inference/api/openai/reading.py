"""What the endpoints share that only read texts and answer in one piece."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.response import Response

from casola_site.core.errors import Surface
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from inference.api.interactive import Call, Interactive
from inference.api.openai.checks import bad
from inference.contracts.surfaces import WHOLE_TASKS
from inference.hub import Finished
from usage.limits import RateClass


class ReadingViewSet(Interactive, ApiViewSet):
    """Scope, limits and the way from a body to its answer."""

    error_format: ClassVar[Surface] = "openai"
    required_scopes = {"POST": Scope.USER_WRITE}
    rate_classes = {"POST": RateClass.JOB_SUBMISSION}
    body_cap = 4 * 1024 * 1024

    def respond(self, request: Any) -> Response:
        """The whole answer, for servers without an event loop."""
        call, finished = self.wait(request.auth, request.data)
        return Response(self.answer(call, finished), headers=call.headers())

    @classmethod
    def contract(cls, body: dict[str, Any]) -> dict[str, Any]:
        """What the engine is given."""
        return WHOLE_TASKS[cls.task].from_body(body).as_dict()

    @classmethod
    def answer(cls, call: Call, finished: Finished) -> dict[str, Any]:
        """The surface's own body."""
        assert finished.result is not None  # noqa: S101 - these Tasks have one
        return WHOLE_TASKS[cls.task].answer_body(
            job_id=call.job_id,
            created=int(call.created),
            model=call.requested_model,
            body=call.body,
            result=finished.result,
            units=finished.units,
        )


class ReadUsageSerializer(serializers.Serializer):
    """Tokens that were read, the model's own marks included."""

    prompt_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


def texts_field(most: int) -> Any:
    """The schema of a text or a list of texts."""
    texts = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": most}
    return extend_schema_field({"oneOf": [{"type": "string"}, texts]})


def checked_list(data: Any, most: int, what: str) -> list[Any]:
    """A list that is neither empty nor too long; before any of its members is looked at."""
    if not isinstance(data, list) or not data:
        raise bad("must be a list that is not empty")
    if len(data) > most:
        raise bad(f"must hold at most {most:,} {what}")
    return data


def checked_text(text: Any, *path: Any) -> str:
    """A text that is not empty."""
    if not isinstance(text, str):
        raise bad("must be a string", *path)
    if not text:
        raise bad("must not be empty", *path)
    return text
