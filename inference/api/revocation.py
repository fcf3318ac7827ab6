"""Ends answers whose token is no longer good: an open stream outlives it by seconds only."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from casola_site.core import redis
from casola_site.core.database import in_thread
from casola_site.core.errors import ApiError, AuthenticationFailed, InsufficientScope, ModelNotFound
from casola_site.core.scopes import Scope
from inference.hub import hub
from tokens import identity as identities
from usage.slots import slots

if TYPE_CHECKING:
    from inference.api.interactive import Call

logger = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
load_identity = in_thread(identities.load)

_open: dict[str, tuple[Call, Scope]] = {}
_watchers: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}


def watch(call: Call, scope: Scope) -> None:
    """Look after an open call until `unwatch`."""
    _open[call.job_id] = (call, scope)
    loop = asyncio.get_running_loop()
    watcher = _watchers.get(loop)
    if watcher is None or watcher.done():
        for stale in [other for other in _watchers if other.is_closed()]:
            del _watchers[stale]
        _watchers[loop] = loop.create_task(_watch())


def unwatch(call: Call) -> None:
    """It has ended."""
    _open.pop(call.job_id, None)


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
    """Compare every open call's stamp, and read its identity again where it has changed."""
    calls = list(_open.values())
    organizations = sorted({call.identity.organization_id for call, _ in calls})
    keys = [identities.stamp_key(organization) for organization in organizations]
    try:
        found = await redis.async_client().mget(keys)
    except RedisError:
        return  # revocations while Redis is away show when it is back: the stamp is another then
    stamps = {
        organization: (stamp or b"").decode()
        for organization, stamp in zip(organizations, found, strict=True)
    }
    for call, scope in calls:
        identity = call.identity
        is_over = identity.expires_at is not None and identity.expires_at <= time.time()
        if is_over or stamps[identity.organization_id] != identity.stamp:
            await _check(call, scope)


async def _check(call: Call, scope: Scope) -> None:
    try:
        identity = await load_identity(call.identity.digest)
        if scope not in identity.scopes:
            raise InsufficientScope(scope)  # noqa: TRY301 - the same end as a refused token
        if not identity.may_use(call.model.model_id):
            raise ModelNotFound(call.requested_model)  # noqa: TRY301
    except (AuthenticationFailed, InsufficientScope, ModelNotFound) as error:
        _end(call, error)
        return
    call.identity = identity


def _end(call: Call, error: ApiError) -> None:
    unwatch(call)
    slots().end(call.job_id, error)
    hub().end(call.job_id, error)
