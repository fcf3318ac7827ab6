"""DRF's exceptions and ours, as the one envelope."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404
from redis.exceptions import RedisError
from rest_framework import exceptions as drf
from rest_framework.response import Response

from casola_site.core import errors

logger = logging.getLogger(__name__)


def first_problem(detail: Any, path: str = "") -> tuple[str, str, str]:
    """(message, code, param) of the first problem in a DRF ValidationError's detail."""
    if isinstance(detail, dict):
        key, value = next(iter(detail.items()))
        name = "" if key == "non_field_errors" else f"[{key}]" if isinstance(key, int) else str(key)
        joined = (
            f"{path}{name}" if name.startswith("[") or not path or not name else f"{path}.{name}"
        )
        return first_problem(value, joined)
    if isinstance(detail, list):
        for index, item in enumerate(detail):
            if item:
                nested = f"{path}[{index}]" if isinstance(item, dict | list) else path
                return first_problem(item, nested)
        return ("Invalid value", "invalid", path)
    return (str(detail), getattr(detail, "code", "invalid") or "invalid", path)


def from_validation(error: drf.ValidationError) -> errors.InvalidRequest:
    """A 400 that names the first field at fault."""
    message, code, param = first_problem(error.detail)
    if code in ("required", "null", "blank") and param:
        text = (
            f"Missing required parameter: '{param}'"
            if code != "blank"
            else f"'{param}' must not be empty"
        )
        kind = "missing_required_parameter" if code != "blank" else "invalid_value"
        return errors.InvalidRequest(text, code=kind, param=param)
    known = code if code in SPECIAL_CODES else "invalid_value"
    text = f"Invalid value for '{param}': {message}" if param else message
    return errors.InvalidRequest(text, code=known, param=param or None)


SPECIAL_CODES = {
    "context_length_exceeded",
    "unsupported_parameter",
    "invalid_workflow",
    "unsafe_url",
}


# Exceptions of the frameworks and what they mean here; the first match wins.
MEANING: tuple[tuple[tuple[type[Exception], ...], Callable[[Any], errors.ApiError]], ...] = (
    ((errors.ApiError,), lambda error: error),
    ((drf.ValidationError,), from_validation),
    ((drf.NotAuthenticated, drf.AuthenticationFailed), lambda _: errors.AuthenticationFailed()),
    ((drf.Throttled,), lambda error: errors.RateLimited(retry_after=int(error.wait or 1))),
    ((drf.MethodNotAllowed,), lambda _: errors.MethodNotAllowed()),
    ((drf.ParseError,), lambda _: errors.InvalidJSON()),
    ((drf.APIException,), lambda error: errors.for_status(error.status_code)),
    ((Http404,), lambda _: errors.NotFound()),
    ((DjangoPermissionDenied,), lambda _: errors.PermissionDenied()),
    ((RequestDataTooBig,), lambda _: errors.PayloadTooLarge()),
    ((SuspiciousOperation,), lambda _: errors.InvalidRequest()),
)
AWAY = (OperationalError, InterfaceError, RedisError, ConnectionError)


def as_api_error(error: Exception) -> errors.ApiError:
    """The ApiError for any exception; an unknown one is logged and says nothing of the inside."""
    for types, meaning in MEANING:
        if isinstance(error, types):
            return meaning(error)
    if isinstance(error, AWAY):
        logger.warning("a backing service is away: %s", type(error).__name__)
        return errors.Unavailable()
    logger.error("unhandled exception", exc_info=error)
    return errors.ApiError()


def handle(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's exception handler."""
    view, request = context.get("view"), context.get("request")
    surface = getattr(view, "error_format", None) or errors.surface_of(getattr(request, "path", ""))
    api_error = as_api_error(error)
    response = Response(errors.body_for(api_error, surface), status=api_error.status)
    for name, value in api_error.headers.items():
        response[name] = value
    return response
