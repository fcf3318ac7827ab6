"""The images of a request: their addresses become bytes before the engine sees it.

Blocking; runs in a thread of the Runner's process, never on its event loop.
"""

from __future__ import annotations

import time
from typing import Any

from casola_site.core.errors import InvalidRequest
from casola_site.core.fetch import MAX_BYTES, MAX_SECONDS, fetch
from inference.runners.base import InvalidInput

MAX_IMAGES = 16


def has_images(contract: dict[str, Any]) -> bool:
    """Whether any message holds an image."""
    return bool(_image_parts(contract))


def load_images(contract: dict[str, Any]) -> dict[str, Any]:
    """The same contract with `data` (bytes) in place of each image's `url`.

    All images of a request share MAX_SECONDS and MAX_BYTES. Raises InvalidInput, its `param` the
    part that is wrong.
    """
    parts = _image_parts(contract)
    if len(parts) > MAX_IMAGES:
        message = f"A request may hold at most {MAX_IMAGES} images"
        raise InvalidInput(message, param="messages")
    until = time.monotonic() + MAX_SECONDS
    left = MAX_BYTES
    loaded: dict[int, dict[str, Any]] = {}
    for place, part in parts:
        try:
            content = fetch(str(part.get("url", "")), max_bytes=left, deadline=until).content
        except InvalidRequest as error:
            raise InvalidInput(error.message, code=error.code, param=place) from error
        left -= len(content)
        loaded[id(part)] = {"type": "image", "data": content}
    messages = [
        {**message, "content": [loaded.get(id(part), part) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in contract["messages"]
    ]
    return {**contract, "messages": messages}


def _image_parts(contract: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each image part with its place, as `messages[0].content[1]`."""
    found = []
    for index, message in enumerate(contract.get("messages") or ()):
        content = message.get("content")
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and part.get("type") == "image":
                found.append((f"messages[{index}].content[{number}]", part))
    return found
