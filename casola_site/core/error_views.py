"""Django's own error handlers: JSON on API paths, a plain page elsewhere."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from casola_site.core import errors
from casola_site.core.middleware import is_api


def _answer(request: HttpRequest, status: int, message: str | None = None) -> HttpResponse:
    error = errors.for_status(status, message)
    if is_api(request.path):
        body = errors.body_for(error, errors.surface_of(request.path))
        return JsonResponse(body, status=status, headers=error.headers)
    context = {
        "status": status,
        "message": error.message,
        "request_id": getattr(request, "request_id", ""),
    }
    return render(request, "error.html", context, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400."""
    return _answer(request, 400)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403."""
    return _answer(request, 403)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404."""
    return _answer(request, 404)


def server_error(request: HttpRequest) -> HttpResponse:
    """500."""
    return _answer(request, 500)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403 of the CSRF check."""
    return _answer(request, 403, "The form has expired; reload the page and try again")


def too_many_requests(request: HttpRequest, seconds: int) -> HttpResponse:
    """429 with Retry-After."""
    minutes = -(-seconds // 60)
    wait = f"{seconds} seconds" if seconds < 90 else f"{minutes} minutes"
    answer = _answer(request, 429, f"Too many attempts; try again in {wait}")
    answer["Retry-After"] = str(seconds)
    return answer
