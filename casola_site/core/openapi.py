"""The OpenAPI document: the shared error answers and the scope of every operation."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiResponse
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

    def get_response_serializers(self) -> Any:
        """The declared answers plus the common errors."""
        declared = super().get_response_serializers()
        if not isinstance(declared, dict):
            success = 201 if self.method == "POST" and self._is_create_operation() else 200
            declared = {success: declared}
        has_errors = any(isinstance(code, int) and code >= 400 for code in declared)
        if has_errors:
            return declared
        return {
            **declared,
            **{code: OpenApiResponse(ErrorEnvelope, text) for code, text in COMMON_ERRORS.items()},
        }

    def _is_create_operation(self) -> bool:
        return getattr(self.view, "action", "") == "create"


class TokenScheme(OpenApiAuthenticationExtension):
    """Tells the schema that every operation takes a bearer token."""

    target_class = "tokens.authentication.TokenAuthentication"
    name = "ApiToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """OpenAPI's bearer scheme."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "csl_sk_…"}
