"""Previews of voices, for whoever holds a signed address."""

from __future__ import annotations

import asyncio
import time

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from casola_site.core import outputs
from casola_site.core.clock import now
from casola_site.core.errors import ApiError, Unavailable
from casola_site.core.output_views import admitted, error_response, opened
from inference.hosting import want_model
from inference.voices import PREVIEWS, spec_of_preview

WAIT_SECONDS = 20.0
MAX_WAITING = 2  # a waiting request may hold one of the few threads for pages
POLL_SECONDS = 0.2
NOT_READY = "The preview is not ready yet"
_waiting: set[object] = set()


@csrf_exempt
async def preview(request: HttpRequest, name: str) -> HttpResponseBase:
    """The file. One that is not there yet comes when the model is loaded, which this asks for."""
    name = f"{PREVIEWS}/{name}"
    try:
        until = admitted(request, name)
        await _appear(name)
        return await sync_to_async(opened, thread_sensitive=False)(request, name, until)
    except ApiError as error:
        return error_response(error)


async def _appear(name: str) -> None:
    """Wait until the file is there. Raises Unavailable."""
    if await asyncio.to_thread(outputs.exists, name):
        return
    if len(_waiting) >= MAX_WAITING:
        raise Unavailable(NOT_READY)
    waiter = object()
    _waiting.add(waiter)
    try:
        await _made(name)
    finally:
        _waiting.discard(waiter)


async def _made(name: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not await asyncio.to_thread(outputs.exists, name):
        if time.monotonic() > deadline:
            raise Unavailable(NOT_READY)
        await sync_to_async(want_model)(spec_id=spec_of_preview(name), now=now())
        await asyncio.sleep(POLL_SECONDS)
