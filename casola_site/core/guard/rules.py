"""What the guard decides by, without a server: its limits, its errors, the drain flag."""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from casola_site.core.errors import render_raw

Headers = list[tuple[bytes, bytes]]
Message = MutableMapping[str, Any]

INVALID_REQUEST = "invalid_request_error"
_REFUSALS: dict[int, tuple[str, str, str]] = {
    400: ("invalid_request", "The request could not be understood", INVALID_REQUEST),
    401: ("invalid_api_key", "Missing or invalid API key", "authentication_error"),
    403: ("forbidden", "Access denied", "permission_error"),
    404: ("not_found", "Not found", "not_found_error"),
    405: ("method_not_allowed", "Method not allowed", INVALID_REQUEST),
    408: ("request_timeout", "The request was not sent completely in time", INVALID_REQUEST),
    413: ("payload_too_large", "The request body is too large", INVALID_REQUEST),
    429: ("rate_limit", "Too many connections", "rate_limit_error"),
    431: ("invalid_request", "The request line or headers are too large", INVALID_REQUEST),
    500: ("internal_error", "Internal server error", "api_error"),
    503: ("service_unavailable", "The server is not available right now", "api_error"),
    504: ("timeout", "The request took too long", "api_error"),
}
_EXTRA_HEADERS: dict[int, Headers] = {
    401: [(b"www-authenticate", b"Bearer")],
    429: [(b"retry-after", b"1")],
    503: [(b"retry-after", b"1")],
}
_STATUS_LINES = {each.value: f"{each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardConfig:
    """What the guard lets through. The three callables decide by path, before the body is read."""

    body_caps: Callable[[str], int]
    """Bytes of body allowed on a path."""
    public: Callable[[str, str], bool]
    """Whether (path, method) may carry a body without an ``Authorization`` header."""
    is_known: Callable[[str], bool]
    """Whether a route exists for the path."""
    plausible_credential: Callable[[bytes], bool] | None = None
    """Whether an ``Authorization`` value has the form of a credential; None takes any."""
    max_connections_per_ip: int = 4096
    """Per process; IPv6 counts by /64."""
    unsent_limit: int = 256 * 1024
    """Bytes that a client with a full send buffer must take ..."""
    unsent_seconds: float = 30.0
    """... in this time, or empty the buffer; else it is cut."""
    request_seconds: float = 60.0
    """For headers as a whole, for any pause within a body, for an idle kept-alive connection."""
    min_body_rate: int = 16 * 1024
    """Bytes per second below which a body, as a whole, is too slow."""
    response_seconds: float = 180.0
    """Until the app must have started its answer."""
    close_seconds: float = 10.0
    """How long an app may go on after its client left."""
    drain_seconds: float = 30.0
    """How long open requests may go on after SIGTERM."""
    drain_grace_seconds: float = 2.0
    """For cancelled streams to send their last event."""
    max_header_line: int = 16 * 1024
    max_header_bytes: int = 32 * 1024
    max_headers: int = 100
    ws_frame_bytes: int = 64 * 1024
    """Largest WebSocket frame and message; more closes with 1009."""
    spool_budget: int = 4 * 1024**3
    """Bytes of request bodies held at one time by this process, mostly on disk."""
    linger_seconds: float = 5.0
    """After a refusal: how long the rest of the body is thrown away so that the answer arrives."""
    linger_bytes: int = 128 * 1024**2


class Draining:
    """Whether this process is going away."""

    value = False


def draining() -> bool:
    """Return whether this process has been told to stop and takes no new connections."""
    return Draining.value


def decoded_path(uri: bytes) -> str:
    """Return the path that a request line asks for, without its query."""
    return unquote(uri.split(b"?", 1)[0].decode("latin-1"))


def refusal(path: str, status: int, request_id: str) -> tuple[Headers, bytes]:
    """Return headers and body of the guard's answer with ``status``."""
    code, message, type_ = _REFUSALS.get(status) or _REFUSALS[500 if status >= 500 else 400]
    body = render_raw(path, status, code, message, type_)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        *_EXTRA_HEADERS.get(status, ()),
    ]
    return headers, body


def response_head(version: bytes, status: int, headers: Headers, *, close: bool) -> bytes:
    """Return status line and headers; raises ValueError for what would not be one header."""
    parts = [version, b" ", _STATUS_LINES.get(status) or b"%d \r\n" % status]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    lines = len(headers) + 2
    if close:
        parts.append(b"connection: close\r\n")
        lines += 1
    parts.append(b"\r\n")
    head = b"".join(parts)
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        raise ValueError("A response header contains a line break")
    return head
