"""The base of every API view: order of checks, headers of answers."""

from __future__ import annotations

from typing import Any, ClassVar

from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from casola_site.core.errors import MethodNotAllowed, Surface
from casola_site.core.scopes import Scope


class ApiViewSet(GenericViewSet):
    """Declares scope, rate class and error format by method; checks token, limit, then scope.

    The limit comes before the scope because a submission counts whatever its outcome.
    """

    error_format: ClassVar[Surface] = "native"
    required_scopes: ClassVar[dict[str, Scope]]
    rate_classes: ClassVar[dict[str, str]] = {}
    queryset = None

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """Authenticate, count, authorize."""
        self.format_kwarg = None
        request.accepted_renderer, request.accepted_media_type = self.perform_content_negotiation(
            request
        )
        self.perform_authentication(request)
        self.check_throttles(request)
        self.check_permissions(request)

    def finalize_response(
        self, request: Any, response: Response, *args: Any, **kwargs: Any
    ) -> Response:
        """Add the rate headers of the class that was charged."""
        response = super().finalize_response(request, response, *args, **kwargs)
        decision = getattr(request, "rate_decision", None)
        if decision is not None:
            for name, value in decision.headers().items():
                response[name] = value
        return response

    def http_method_not_allowed(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        """405 in the envelope."""
        raise MethodNotAllowed
