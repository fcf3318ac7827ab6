"""Event connections: how many an Organization has open at a time, over all processes.

Each is a lease in Redis, on its clock, that its web process renews; those of a killed process come
free by themselves. While Redis is away each process grants its share of the cap.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

from django.conf import settings
from redis.exceptions import RedisError

from casola_site.core import redis
from casola_site.core.errors import ApiError
from tokens.identity import Identity

LEASE_SECONDS = 15.0
RENEW_SECONDS = 5.0
RETRY_AFTER = 5

# KEYS: leases. ARGV: cap (-1: take it anyway), microseconds of a lease, ids. Answer: 1 if taken.
SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local cap = tonumber(ARGV[1])
if cap >= 0 and redis.call('ZCARD', KEYS[1]) >= cap then return 0 end
for at = 3, #ARGV do
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[at])
end
redis.call('PEXPIRE', KEYS[1], math.floor(tonumber(ARGV[2]) / 1000) + 1000)
return 1
"""


class SocketsFull(ApiError):
    """429: the Organization has as many event connections open as its Plan allows."""

    status = 429
    code = "queue_full"

    def __init__(self, cap: int, *, plan: str) -> None:
        super().__init__(
            f"Too many event connections are open: the plan {plan} allows {cap}",
            headers={"retry-after": str(RETRY_AFTER)},
        )


def sockets_key(organization_id: str) -> str:
    """Where an Organization's leases lie in Redis."""
    return f"casola:sockets:{organization_id}"


class Sockets:
    """The event connections of an event loop."""

    def __init__(self) -> None:
        self.open: dict[str, set[str]] = {}
        self.script = redis.async_client().register_script(SCRIPT)
        self.renewing: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def place(self, identity: Identity) -> AsyncIterator[None]:
        """One connection's place. Raises SocketsFull."""
        cap, organization_id = identity.max_sockets, identity.organization_id
        if cap is None:
            yield
            return
        own, mine = uuid.uuid4().hex, self.open.get(organization_id, set())
        if not await self._take(organization_id, own, cap, len(mine)):
            raise SocketsFull(cap, plan=identity.plan)
        self.open.setdefault(organization_id, set()).add(own)
        self._renew_on()
        try:
            yield
        finally:
            self.open[organization_id].discard(own)
            await asyncio.shield(self._give_back(organization_id, own))

    async def _take(self, organization_id: str, own: str, cap: int, here: int) -> bool:
        try:
            return await self._ask(organization_id, cap, own) == 1
        except RedisError:
            return here < min(cap, max(1, cap // settings.WEB_WORKERS))

    async def _ask(self, organization_id: str, cap: int, *ids: str) -> Any:
        arguments = [cap, int(LEASE_SECONDS * 1e6), *ids]
        return await self.script(keys=[sockets_key(organization_id)], args=arguments)

    async def _give_back(self, organization_id: str, own: str) -> None:
        with contextlib.suppress(RedisError):
            await redis.async_client().zrem(sockets_key(organization_id), own)

    def _renew_on(self) -> None:
        if self.renewing is None or self.renewing.done():
            self.renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while self.open:
            await asyncio.sleep(RENEW_SECONDS)
            for organization_id, ids in list(self.open.items()):
                if not ids:
                    del self.open[organization_id]
                    continue
                with contextlib.suppress(RedisError):
                    await self._ask(organization_id, -1, *ids)


_all: dict[asyncio.AbstractEventLoop, Sockets] = {}


def sockets() -> Sockets:
    """The running loop's Sockets."""
    loop = asyncio.get_running_loop()
    found = _all.get(loop)
    if found is None:
        for stale in [other for other in _all if other.is_closed()]:
            del _all[stale]
        found = _all[loop] = Sockets()
    return found
