"""Every error that leaves the process: what it means, and the one body it is rendered as.

Services raise subclasses of ApiError; edges render them with `body_for`. Surfaces differ only in
what stands beside the seed's envelope: `param` on /openai, `detail` and `message` on /fal.
"""

from __future__ import annotations

import json
from typing import Any, Literal

Surface = Literal["native", "openai", "fal"]

INVALID = "invalid_request_error"
TYPES = {
    400: INVALID,
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: INVALID,
    409: "conflict_error",
    413: INVALID,
    415: INVALID,
    416: INVALID,
    422: INVALID,
    429: "rate_limit_error",
    431: INVALID,
}
CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    402: "budget_exceeded",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    429: "rate_limit",
    431: "invalid_request",
    502: "worker_error",
    503: "service_unavailable",
    504: "timeout",
}
MESSAGES = {
    400: "The request is malformed",
    401: "Missing or invalid API key",
    403: "You may not do this",
    404: "Not found",
    405: "Method not allowed",
    413: "The request body is too large",
    415: "Unsupported media type",
    429: "Rate limit exceeded",
    503: "The service is temporarily unavailable",
}


class ApiError(Exception):
    """An answer with an error status. `headers` go out with it, `extra` stands beside `error`."""

    status = 500
    code = "internal_error"
    message = "Internal server error"

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.message = message or self.message
        self.code = code or self.code
        self.param = param
        self.headers = {**self.default_headers(), **(headers or {})}
        self.extra = extra or {}
        super().__init__(self.message)

    @property
    def type(self) -> str:
        """The seed's error type for this status."""
        return TYPES.get(self.status, "api_error")

    def default_headers(self) -> dict[str, str]:
        """Headers every error of this class carries."""
        return {}


class InvalidRequest(ApiError):
    """400: something in the request is wrong; `param` names it."""

    status = 400
    code = "invalid_request"
    message = MESSAGES[400]


class InvalidJSON(InvalidRequest):
    """400: the body is not the JSON we accept."""

    code = "invalid_json"
    message = "The body is not valid JSON"


class AuthenticationFailed(ApiError):
    """401: no token, or one that is unknown, revoked or expired."""

    status = 401
    code = "invalid_api_key"
    message = MESSAGES[401]

    def default_headers(self) -> dict[str, str]:
        """RFC 9110 wants the challenge."""
        return {"WWW-Authenticate": "Bearer"}


class BudgetExceeded(ApiError):
    """402: what the request may cost does not fit into a budget; `extra` holds its state."""

    status = 402
    code = "budget_exceeded"
    message = "The budget is used up"


class PermissionDenied(ApiError):
    """403."""

    status = 403
    code = "forbidden"
    message = MESSAGES[403]


class InsufficientScope(PermissionDenied):
    """403: the token lacks a scope, which the message names."""

    code = "insufficient_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This token lacks the scope {scope}")


class NotFound(ApiError):
    """404, the same for what belongs to somebody else."""

    status = 404
    code = "not_found"
    message = MESSAGES[404]


class ModelNotFound(NotFound):
    """404: no such model; the message names it."""

    code = "model_not_found"

    def __init__(self, model: str, *, task: str | None = None) -> None:
        shown = model if len(model) <= 100 else f"{model[:100]}…"
        text = f"The model '{shown}' does not exist"
        super().__init__(f"{text} or does not serve {task}" if task else text, param="model")


class MethodNotAllowed(ApiError):
    """405."""

    status = 405
    code = "method_not_allowed"
    message = MESSAGES[405]


class Conflict(ApiError):
    """409; clients must not retry it."""

    status = 409
    code = "conflict"
    message = "The request conflicts with the current state"

    def default_headers(self) -> dict[str, str]:
        """The OpenAI clients retry 409 unless told not to."""
        return {"x-should-retry": "false"}


class PayloadTooLarge(ApiError):
    """413."""

    status = 413
    code = "payload_too_large"
    message = MESSAGES[413]


class UnsupportedMediaType(ApiError):
    """415."""

    status = 415
    code = "unsupported_media_type"
    message = "The Content-Type must be application/json"


class RangeNotSatisfiable(ApiError):
    """416: the file has no such range."""

    status = 416
    code = "range_not_satisfiable"
    message = "The file has no such range"


class RateLimited(ApiError):
    """429; `retry_after` is whole seconds, 1 to 59."""

    status = 429
    code = "rate_limit"
    message = MESSAGES[429]

    def __init__(self, *, retry_after: int, headers: dict[str, str] | None = None) -> None:
        wait = str(min(59, max(1, retry_after)))
        super().__init__(headers={"retry-after": wait, **(headers or {})})


class QueueFull(ApiError):
    """429: the organization has as much waiting as its Plan allows; `what` is waiting."""

    status = 429
    code = "queue_full"

    def __init__(self, cap: int, *, plan: str, what: str = "jobs", retry_after: int = 30) -> None:
        super().__init__(
            f"Too many {what} are waiting: the plan {plan} allows {cap}",
            headers={"retry-after": str(retry_after)},
        )


class WorkerError(ApiError):
    """502: the runner failed on this request."""

    status = 502
    code = "worker_error"
    message = "The model runner failed on this request"


class Unavailable(ApiError):
    """503 with Retry-After: a part we need is away for the moment."""

    status = 503
    code = "service_unavailable"
    message = MESSAGES[503]

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        retry_after: int = 5,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            message,
            code=code,
            headers={"retry-after": str(min(59, max(1, retry_after)))},
            extra=extra,
        )


class Timeout(ApiError):
    """504: waiting ended; `extra` holds the request_id."""

    status = 504
    code = "timeout"
    message = "The request did not finish in time"


# What a runner reports about a request, as the answer to its caller.
RUNNER_STATUS = {
    "worker_error": WorkerError,
    "worker_crashed": WorkerError,
    "model_unavailable": Unavailable,
    "service_unavailable": Unavailable,
    "timeout": Timeout,
}


def from_runner(
    code: str, message: str, param: str | None = None, retry_after: int | None = None
) -> ApiError:
    """The ApiError for a runner's error code; an unknown code is the caller's mistake (400)."""
    if retry_after is not None and RUNNER_STATUS.get(code) is Unavailable:
        return Unavailable(message, code=code, retry_after=retry_after)
    if code in RUNNER_STATUS:
        return RUNNER_STATUS[code](message, code=code)
    return InvalidRequest(message, code=code, param=param)


def surface_of(path: str) -> Surface:
    """The error format for a path; only for rendering, never for deciding."""
    match first_part(path):
        case "openai":
            return "openai"
        case "fal":
            return "fal"
    return "native"


def first_part(path: str) -> str:
    """The first word of a path, however it was misspelt (`//OpenAI/v1`)."""
    return path.lstrip("/").partition("/")[0].lower()


def body_for(error: ApiError, surface: Surface) -> dict[str, Any]:
    """The seed's envelope plus what the surface's own clients read."""
    inner: dict[str, Any] = {"code": error.code, "message": error.message, "type": error.type}
    if surface == "openai" or (error.param and surface == "native"):
        inner["param"] = error.param
    body: dict[str, Any] = {"error": inner, **error.extra}
    if surface == "fal":
        if error.param:
            inner["param"] = error.param
        body["detail"] = body["message"] = error.message
    return body


def for_status(status: int, message: str | None = None) -> ApiError:
    """An ApiError for a bare HTTP status."""
    code = CODES.get(status, "invalid_request" if status < 500 else "internal_error")
    fallback = MESSAGES.get(status) or (MESSAGES[400] if status < 500 else ApiError.message)
    error = ApiError(message or fallback, code=code)
    error.status = status
    if status == 503:
        error.headers["retry-after"] = "5"
    return error


def render_raw(path: str, status: int, code: str, message: str, type_: str) -> bytes:
    """JSON bytes of an error made outside the framework (the server guard)."""
    error = ApiError(message, code=code)
    error.status = status
    body = body_for(error, surface_of(path))
    body["error"]["type"] = type_
    return json.dumps(body).encode()
