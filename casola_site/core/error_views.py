"""Errors outside of DRF: JSON on API paths, a page elsewhere that says what to do now."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.cache import add_never_cache_headers

from casola_site.core import errors
from casola_site.core.exception_handler import AWAY, as_api_error
from casola_site.core.middleware import is_api

# Heading, and what to do; the message of an error of ours stands in between.
PAGES = {
    400: ("This could not be understood", "Go back, check what you entered and send it again."),
    401: ("Please log in", "Log in and try again."),
    403: (
        "You may not do this",
        "Ask an Owner or Admin of the organization, or switch to another organization.",
    ),
    404: (
        "There is nothing here",
        "Check the address. What belongs to another organization shows after switching to it.",
    ),
    405: ("This cannot be done here", "Go back and use the buttons of the page."),
    409: ("This does not fit any more", "Reload the page before: something has changed meanwhile."),
    413: ("This is too large", "Send less at a time."),
    429: ("Too many requests", "Wait a minute, then try again."),
    500: (
        "Something broke on our side",
        "Nothing was charged for it. Try again; if it stays, tell support the request id below.",
    ),
    503: ("We are away for a moment", "Try again in a few seconds; nothing was lost."),
}


def error_page(request: HttpRequest, error: errors.ApiError) -> HttpResponse:
    """The page about an error; it reads nothing from the database, which may be what is away."""
    heading, advice = PAGES.get(error.status) or PAGES[500 if error.status >= 500 else 400]
    is_plain = error.message in (*errors.MESSAGES.values(), errors.ApiError.message)
    context = {
        "status": error.status,
        "heading": heading,
        "detail": "" if is_plain else error.message,
        "advice": advice,
        "request_id": getattr(request, "request_id", ""),
    }
    response = render(request, "error.html", context, status=error.status)
    add_never_cache_headers(response)
    return response


class PageErrorMiddleware:
    """What a page's view raises as an ApiError, or because a server is away, becomes its page."""

    def __init__(self, get_response: object) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass on."""
        return self.get_response(request)  # type: ignore[operator]

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """The answer, or None for what Django has handlers for."""
        if is_api(request.path) or not isinstance(exception, (errors.ApiError, *AWAY)):
            return None
        error = as_api_error(exception)
        response = error_page(request, error)
        for name, value in error.headers.items():
            response[name] = value
        return response


def _answer(request: HttpRequest, status: int, message: str | None = None) -> HttpResponse:
    error = errors.for_status(status, message)
    if is_api(request.path):
        body = errors.body_for(error, errors.surface_of(request.path))
        return JsonResponse(body, status=status, headers=error.headers)
    return error_page(request, error)


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
