"""Middleware that works in both of Django's worlds, sync and async."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse, JsonResponse

from casola_site.core import errors

Handler = Callable[[HttpRequest], Any]
API_PARTS = frozenset({"openai", "fal", "api", "ws", "outputs"})


def is_api(path: str) -> bool:
    """Whether errors on this path are JSON."""
    return errors.first_part(path) in API_PARTS


class _Both:
    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        self.before(request)
        if self.is_async:
            return self._call_async(request)
        return self.after(request, self.get_response(request))

    async def _call_async(self, request: HttpRequest) -> HttpResponse:
        return self.after(request, await self.get_response(request))

    def before(self, request: HttpRequest) -> None:
        """Runs first."""

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Runs last; returns what goes out."""
        return response


class RequestIdMiddleware(_Both):
    """`request.request_id`, and `x-request-id` on every answer (the server guard's, when there)."""

    def before(self, request: HttpRequest) -> None:
        """Take the guard's id or make one."""
        scope = getattr(request, "scope", None) or {}
        request.request_id = scope.get("request_id") or uuid.uuid4().hex

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Name the request on its answer."""
        response["x-request-id"] = request.request_id
        return response


class ErrorEnvelopeMiddleware(_Both):
    """What Django itself refuses on an API path (404, 405, 400, 413, 500) as the envelope."""

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Replace a body that is not JSON on an API path."""
        if response.status_code < 400 or not is_api(request.path):
            return response
        if response.get("Content-Type", "").startswith("application/json"):
            return response
        error = errors.for_status(response.status_code)
        replaced = JsonResponse(
            errors.body_for(error, errors.surface_of(request.path)),
            status=error.status,
            headers=error.headers,
        )
        if "Allow" in response:
            replaced["Allow"] = response["Allow"]
        return replaced
