"""The yardstick: an ASGI app that does nothing, behind the same guarded server."""

from __future__ import annotations

import json
from typing import Any

BODY = json.dumps({"object": "chat.completion", "text": "w" * 400}).encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Read the body, answer."""
    del scope
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
