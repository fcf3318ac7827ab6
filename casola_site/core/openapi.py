"""The OpenAPI document: the shared error answers and the scope of every operation."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import is_list_serializer
from drf_spectacular.utils import Direction, OpenApiResponse
from rest_framework import serializers


class ErrorDetail(serializers.Serializer):
    """What went wrong."""

    code = serializers.CharField()
    message = serializers.CharField()
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True, required=False)


class ErrorEnvelope(serializers.Serializer):
    """Every error answer."""

    error = ErrorDetail()


COMMON_ERRORS = {
    400: "The request is malformed or a value is wrong",
    401: "Missing or invalid API key",
    403: "The token lacks the scope",
    404: "No such thing in this organization",
    413: "The body is too large",
    429: "Rate limit exceeded",
    503: "Temporarily unavailable",
}
BODY_ERRORS = {
    409: "The current state does not allow it, or the Idempotency-Key was used before",
    415: "The body is not JSON",
}
METHOD_ERRORS = {
    "POST": BODY_ERRORS,
    "PUT": BODY_ERRORS,
    "PATCH": BODY_ERRORS,
    "DELETE": {409: "The current state does not allow it"},
}


class Schema(AutoSchema):
    """Adds the error envelope and the scope to each operation."""

    def get_description(self) -> str:
        """The view's text and the scope it needs."""
        text = super().get_description() or ""
        scope = self._scope()
        return f"{text}\n\nScope: `{scope}`".strip() if scope else text

    def _scope(self) -> str | None:
        scopes = getattr(self.view, "required_scopes", None) or {}
        return scopes.get(self.method)

    def _is_list_view(self, serializer: Any = None) -> bool:
        """No answer of ours is a bare list, whatever the action is called."""
        return is_list_serializer(serializer)

    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        """The declared answers plus the common errors.

        Here, not in `get_response_serializers`, which `extend_schema` replaces.
        """
        bodies = super()._get_response_bodies(direction)
        for status, text in (COMMON_ERRORS | METHOD_ERRORS.get(self.method, {})).items():
            answer = OpenApiResponse(ErrorEnvelope, text)
            code = str(status)
            bodies.setdefault(code, self._get_response_for_code(answer, code, direction=direction))
        return dict(sorted(bodies.items()))


class TokenScheme(OpenApiAuthenticationExtension):
    """Tells the schema that every operation takes a bearer token."""

    target_class = "tokens.authentication.TokenAuthentication"
    name = "ApiToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """OpenAPI's bearer scheme."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "csl_sk_…"}
