"""The one error body of the platform."""

import json
from typing import Any


def render_raw(path: str, status: int, code: str, message: str, type_: str) -> bytes:
    """Return the error envelope for ``path`` as JSON bytes."""
    error: dict[str, Any] = {"code": code, "message": message, "type": type_}
    body: dict[str, Any] = {"error": error}
    if path.startswith("/openai"):
        error["param"] = None
    elif path.startswith("/fal"):
        body["detail"] = message
        body["message"] = message
    return json.dumps(body).encode()
