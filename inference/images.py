"""The images of a request: their addresses become bytes before the engine sees it.

Loading blocks, so it runs in threads of the Runner's process, never on its event loop. What must
be fetched from elsewhere is fetched before the request takes a place in the engine: a slow address
holds up nobody but who named it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from casola_site.core import outputs
from casola_site.core.clock import now
from casola_site.core.errors import InvalidRequest, NotFound, PermissionDenied
from casola_site.core.fetch import MAX_BYTES, MAX_SECONDS, fetch
from inference.runners.base import Busy, Failed, InvalidInput
from inference.work import Work

logger = logging.getLogger(__name__)

MAX_IMAGES = 16  # beside a mask
THREADS = 16


class ImageDesk:
    """Fetches the images of requests; its methods are for the event loop's thread."""

    what = "images"

    def __init__(
        self,
        *,
        takes_images: bool,
        contract_of: Callable[[Work], dict[str, Any]],
        on_loaded: Callable[[Work, Failed | None], None],
    ) -> None:
        """`on_loaded` is told of every request that was fetched for, with what went wrong.

        Without `takes_images` nothing is ever fetched: the Runner refuses such requests unseen.
        """
        self.threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix=self.what)
        self.loading = 0
        self._takes_images = takes_images
        self._contract_of = contract_of
        self._on_loaded = on_loaded

    def holds(self, work: Work) -> bool:
        """Whether there are images to be loaded for this request."""
        return self._takes_images and bool(_addresses(work.request) or _own_parts(work.request))

    def must_fetch(self, work: Work) -> bool:
        """Whether any of them is elsewhere and not here yet."""
        if work.loaded is not None or not self.holds(work):
            return False
        return not all(address[:5].lower() == "data:" for address in _addresses(work.request))

    def fetch(self, work: Work) -> None:
        """Load all images of a request in a thread."""
        self.loading += 1
        loop = asyncio.get_running_loop()
        task = loop.run_in_executor(self.threads, self._load, work)
        task.add_done_callback(lambda done: self._loaded(work, done))

    def contract(self, work: Work) -> dict[str, Any]:
        """The engine's input with all images in it. Blocking. Raises InvalidInput."""
        if work.loaded is not None:
            return work.loaded
        contract = self._contract_of(work)
        return load_images(contract) if self._takes_images and has_images(contract) else contract

    def close(self) -> None:
        """Drop what has not begun."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _load(self, work: Work) -> Failed | None:
        if work.is_ended:
            return None
        try:
            work.loaded = self.contract(work)
        except InvalidInput as error:
            return Failed(work.job_id, error.code, str(error), param=error.param)
        except Busy as error:
            again = error.retry_after
            return Failed(work.job_id, error.code, str(error), retryable=True, retry_after=again)
        except Exception:  # one request's images must not end the others
            logger.exception("%s could not be loaded", self.what)
            return Failed(work.job_id, "worker_error", f"The {self.what} could not be loaded")
        return None

    def _loaded(self, work: Work, done: asyncio.Future[Failed | None]) -> None:
        self.loading -= 1
        if not done.cancelled():
            self._on_loaded(work, done.result())


def has_images(contract: dict[str, Any]) -> bool:
    """Whether any message, or the request itself, holds an image."""
    return bool(_image_parts(contract))


def load_images(contract: dict[str, Any]) -> dict[str, Any]:
    """The same contract with `data` (bytes) in place of each image's `url`.

    All images of a request share MAX_SECONDS and MAX_BYTES. Raises InvalidInput, its `param` the
    part that is wrong.
    """
    parts = _image_parts(contract)
    if sum(place != "mask" for place, _ in parts) > MAX_IMAGES:
        message = f"A request may hold at most {MAX_IMAGES} images"
        raise InvalidInput(message, param=parts[0][0].partition("[")[0])
    until = time.monotonic() + MAX_SECONDS
    left = MAX_BYTES
    loaded: dict[int, dict[str, Any]] = {}
    for place, part in parts:
        try:
            content = _content(str(part.get("url", "")), left, until)
        except InvalidRequest as error:
            raise InvalidInput(error.message, code=error.code, param=place) from error
        left -= len(content)
        loaded[id(part)] = {"type": "image", "data": content}
    found = dict(contract)
    if "messages" in contract:
        found["messages"] = [
            {**message, "content": [loaded.get(id(part), part) for part in message["content"]]}
            if isinstance(message.get("content"), list)
            else message
            for message in contract["messages"]
        ]
    if isinstance(contract.get("image"), list):
        found["image"] = [loaded.get(id(part), part) for part in contract["image"]]
    if "mask" in contract:
        found["mask"] = loaded.get(id(contract["mask"]), contract["mask"])
    return found


def _content(url: str, most: int, until: float) -> bytes:
    """Of an answer's file of ours from storage, anything else from where it lies. Raises as `fetch`."""
    with contextlib.suppress(ValueError, OSError, NotFound, PermissionDenied):
        name = None if url[:5].lower() == "data:" else outputs.own_name(url, now=now())
        if name is not None:
            with outputs.read(name) as file:
                content = file.read(most + 1)
            if len(content) <= most:
                return content
    return fetch(url, max_bytes=most, deadline=until).content


def _addresses(request: dict[str, Any]) -> list[str]:
    """The addresses of all parts that are not text, in the contract or in the surface's form."""
    found = []
    for message in request.get("messages") or ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict) and part.get("type") != "text":
                address = part.get("url") or part.get("image_url")
                found.append(str(address.get("url") if isinstance(address, dict) else address))
    own = [part for part in _own_parts(request) if not _is_here(part)]
    return found + [str(part.get("url") if isinstance(part, dict) else part) for part in own]


def _is_here(part: Any) -> bool:
    """Whether its bytes came with the request."""
    return isinstance(part, dict) and "data" in part


def _own_parts(request: dict[str, Any]) -> list[Any]:
    """The images to be edited and their mask: parts, or addresses in the surface's form."""
    images, mask = request.get("image"), request.get("mask")
    return [*(images if isinstance(images, list | tuple) else ()), *([mask] if mask else ())]


def _image_parts(contract: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each image part with its place, as `messages[0].content[1]`."""
    found = []
    images, mask = contract.get("image"), contract.get("mask")
    for index, part in enumerate(images if isinstance(images, list) else ()):
        if isinstance(part, dict) and not _is_here(part):
            found.append(("image" if len(images) == 1 else f"image[{index}]", part))
    if isinstance(mask, dict) and not _is_here(mask):
        found.append(("mask", mask))
    for index, message in enumerate(contract.get("messages") or ()):
        content = message.get("content")
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and part.get("type") == "image":
                found.append((f"messages[{index}].content[{number}]", part))
    return found
