"""One envelope for every error, literally, on each surface."""

from __future__ import annotations

import json

import pytest
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404
from django.test import RequestFactory
from redis.exceptions import RedisError
from rest_framework import exceptions as drf
from rest_framework import serializers

from casola_site.core import errors
from casola_site.core.exception_handler import as_api_error, handle
from casola_site.core.fields import StrictCharField, StrictIntegerField, StrictSerializer

BODIES = {
    "native": {"error": {"code": "c", "message": "m", "type": "invalid_request_error"}},
    "openai": {
        "error": {"code": "c", "message": "m", "type": "invalid_request_error", "param": None}
    },
    "fal": {
        "error": {"code": "c", "message": "m", "type": "invalid_request_error"},
        "detail": "m",
        "message": "m",
    },
}


@pytest.mark.parametrize(("surface", "body"), BODIES.items())
def test_the_body_on_each_surface(surface, body):
    assert errors.body_for(errors.InvalidRequest("m", code="c"), surface) == body


@pytest.mark.parametrize("surface", BODIES)
def test_a_named_field_stands_in_every_body(surface):
    body = errors.body_for(errors.InvalidRequest("m", param="input.n"), surface)
    assert body["error"]["param"] == "input.n"


@pytest.mark.parametrize("surface", BODIES)
def test_what_stands_beside_the_envelope(surface):
    body = errors.body_for(errors.Timeout(extra={"request_id": "r"}), surface)
    assert body["request_id"] == "r"
    assert body["error"]["code"] == "timeout"


@pytest.mark.parametrize(
    ("path", "surface"),
    [
        ("/openai/v1/models", "openai"),
        ("/openai", "openai"),
        ("/openaix", "native"),
        ("/fal/a", "fal"),
        ("/fal", "fal"),
        ("/fallback", "native"),
        ("/api/openai/", "native"),
        ("/", "native"),
        ("", "native"),
    ],
)
def test_the_surface_of_a_path(path, surface):
    assert errors.surface_of(path) == surface


TABLE = [
    (errors.InvalidRequest(), 400, "invalid_request", "invalid_request_error"),
    (errors.InvalidJSON(), 400, "invalid_json", "invalid_request_error"),
    (errors.AuthenticationFailed(), 401, "invalid_api_key", "authentication_error"),
    (errors.PermissionDenied(), 403, "forbidden", "permission_error"),
    (errors.InsufficientScope("user:write"), 403, "insufficient_scope", "permission_error"),
    (errors.NotFound(), 404, "not_found", "not_found_error"),
    (errors.ModelNotFound("m"), 404, "model_not_found", "not_found_error"),
    (errors.MethodNotAllowed(), 405, "method_not_allowed", "invalid_request_error"),
    (errors.Conflict(), 409, "conflict", "conflict_error"),
    (errors.PayloadTooLarge(), 413, "payload_too_large", "invalid_request_error"),
    (errors.UnsupportedMediaType(), 415, "unsupported_media_type", "invalid_request_error"),
    (errors.RateLimited(retry_after=3), 429, "rate_limit", "rate_limit_error"),
    (errors.QueueFull(9, plan="Free"), 429, "queue_full", "rate_limit_error"),
    (errors.ApiError(), 500, "internal_error", "api_error"),
    (errors.WorkerError(), 502, "worker_error", "api_error"),
    (errors.Unavailable(), 503, "service_unavailable", "api_error"),
    (errors.Timeout(), 504, "timeout", "api_error"),
]


@pytest.mark.parametrize(("error", "status", "code", "type_"), TABLE, ids=[r[2] for r in TABLE])
def test_the_table_of_errors(error, status, code, type_):
    assert (error.status, error.code, error.type) == (status, code, type_)
    bare = errors.for_status(status)
    assert bare.type == type_
    assert bare.status == status


def test_the_messages_name_what_matters():
    assert errors.InsufficientScope("user:write").message == "This token lacks the scope user:write"
    assert errors.ModelNotFound("gpt").message == "The model 'gpt' does not exist"
    assert len(errors.ModelNotFound("x" * 5000).message) < 200


@pytest.mark.parametrize(("seconds", "header"), [(-5, "1"), (0, "1"), (7, "7"), (60, "59")])
def test_retry_after_is_1_to_59(seconds, header):
    assert errors.RateLimited(retry_after=seconds).headers["retry-after"] == header
    assert errors.Unavailable(retry_after=seconds).headers["retry-after"] == header


def test_errors_made_outside_the_framework():
    raw = errors.render_raw("/openai/v1/x", 413, "payload_too_large", "Too big", "t")
    assert json.loads(raw) == {
        "error": {"code": "payload_too_large", "message": "Too big", "type": "t", "param": None}
    }


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (drf.NotAuthenticated(), 401, "invalid_api_key"),
        (drf.AuthenticationFailed("secret detail"), 401, "invalid_api_key"),
        (drf.PermissionDenied(), 403, "forbidden"),
        (drf.NotFound("secret detail"), 404, "not_found"),
        (drf.MethodNotAllowed("GET"), 405, "method_not_allowed"),
        (drf.ParseError(), 400, "invalid_json"),
        (drf.UnsupportedMediaType("x"), 415, "unsupported_media_type"),
        (drf.Throttled(wait=5), 429, "rate_limit"),
        (drf.APIException("secret detail"), 500, "internal_error"),
        (Http404("secret detail"), 404, "not_found"),
        (PermissionDenied("secret detail"), 403, "forbidden"),
        (RequestDataTooBig("secret detail"), 413, "payload_too_large"),
        (SuspiciousOperation("secret detail"), 400, "invalid_request"),
        (OperationalError("secret detail"), 503, "service_unavailable"),
        (InterfaceError("secret detail"), 503, "service_unavailable"),
        (RedisError("secret detail"), 503, "service_unavailable"),
        (ConnectionResetError("secret detail"), 503, "service_unavailable"),
        (ValueError("secret detail"), 500, "internal_error"),
        (RecursionError("secret detail"), 500, "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_exceptions_of_the_frameworks_say_nothing_of_the_inside(error, status, code):
    meant = as_api_error(error)
    assert (meant.status, meant.code) == (status, code)
    assert "secret" not in json.dumps(errors.body_for(meant, "native"))


class Line(StrictSerializer):
    text = StrictCharField(max_length=5)


class Body(StrictSerializer):
    n = StrictIntegerField(min_value=1)
    lines = Line(many=True, required=False)
    words = serializers.ListField(child=StrictCharField(), required=False)


@pytest.mark.parametrize(
    ("data", "code", "param", "message"),
    [
        ({}, "missing_required_parameter", "n", "Missing required parameter: 'n'"),
        ({"n": None}, "missing_required_parameter", "n", "Missing required parameter: 'n'"),
        ({"n": "7"}, "invalid_value", "n", "Invalid value for 'n': must be an integer"),
        ({"n": True}, "invalid_value", "n", "Invalid value for 'n': must be an integer"),
        ({"n": 1.0}, "invalid_value", "n", "Invalid value for 'n': must be an integer"),
        (
            {"n": 1, "lines": [{"text": "a"}, {"text": 5}]},
            "invalid_value",
            "lines[1].text",
            "Invalid value for 'lines[1].text': must be a string",
        ),
        (
            {"n": 1, "lines": [{"text": "a"}, {}]},
            "missing_required_parameter",
            "lines[1].text",
            "Missing required parameter: 'lines[1].text'",
        ),
        (
            {"n": 1, "words": ["a", 1]},
            "invalid_value",
            "words[1]",
            "Invalid value for 'words[1]': must be a string",
        ),
        (
            {"n": 1, "lines": [{"text": ""}]},
            "invalid_value",
            "lines[0].text",
            "'lines[0].text' must not be empty",
        ),
    ],
)
def test_a_validation_error_names_the_first_field_at_fault(data, code, param, message):
    body = Body(data=data)
    with pytest.raises(drf.ValidationError) as refused:
        body.is_valid(raise_exception=True)

    error = as_api_error(refused.value)

    assert (error.status, error.code, error.param, error.message) == (400, code, param, message)


def test_null_means_absent():
    body = Body(data={"n": 1, "lines": None, "unknown": 5})
    assert body.is_valid()
    assert dict(body.validated_data) == {"n": 1}


def test_headers_go_out_with_the_error():
    request = RequestFactory().get("/openai/v1/models")

    response = handle(errors.AuthenticationFailed(), {"request": request, "view": None})

    assert (response.status_code, response["WWW-Authenticate"]) == (401, "Bearer")
    assert response.data["error"] == {
        "code": "invalid_api_key",
        "message": "Missing or invalid API key",
        "type": "authentication_error",
        "param": None,
    }
