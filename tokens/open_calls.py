"""Ends open answers whose caller is no longer good: an open stream outlives a token by seconds only."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from redis.exceptions import RedisError

from casola_site.core import redis
from casola_site.core.database import in_thread
from casola_site.core.errors import ApiError, AuthenticationFailed, NotFound, PermissionDenied
from tokens import identity as identities
from tokens.identity import Identity

logger = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
load_identity = in_thread(identities.load)


class OpenCall(Protocol):
    """An answer under way."""

    identity: Identity

    async def reload(self) -> Identity:
        """The caller as of now. Raises AuthenticationFailed, PermissionDenied or NotFound."""

    def end(self, error: ApiError) -> None:
        """End it with this error."""


_open: dict[int, OpenCall] = {}
_watchers: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}


def watch(call: OpenCall) -> None:
    """Look after an open call until `unwatch`."""
    _open[id(call)] = call
    loop = asyncio.get_running_loop()
    watcher = _watchers.get(loop)
    if watcher is None or watcher.done():
        for stale in [other for other in _watchers if other.is_closed()]:
            del _watchers[stale]
        _watchers[loop] = loop.create_task(_watch())


def unwatch(call: OpenCall) -> None:
    """It has ended."""
    _open.pop(id(call), None)


async def _watch() -> None:
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        if not _open:
            continue
        try:
            await check_open_calls()
        except Exception:  # watching must go on
            logger.exception("open calls could not be checked")


async def check_open_calls() -> None:
    """Compare every open call's stamp, and read its caller again where it has changed."""
    calls = list(_open.values())
    organizations = sorted({call.identity.organization_id for call in calls})
    keys = [identities.stamp_key(organization) for organization in organizations]
    try:
        found = await redis.async_client().mget(keys)
    except RedisError:
        return  # revocations while Redis is away show when it is back: the stamp is another then
    stamps = {
        organization: (stamp or b"").decode()
        for organization, stamp in zip(organizations, found, strict=True)
    }
    for call in calls:
        identity = call.identity
        is_over = identity.expires_at is not None and identity.expires_at <= time.time()
        if is_over or stamps[identity.organization_id] != identity.stamp:
            await _check(call)


async def _check(call: OpenCall) -> None:
    try:
        call.identity = await call.reload()
    except (AuthenticationFailed, PermissionDenied, NotFound) as error:
        unwatch(call)
        call.end(error)
