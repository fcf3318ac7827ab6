"""Rate limits: the plan's two sliding windows, and the doors without a token.

One Redis script per (Organization, class) decides and counts at once, so the limit is exact over
all processes and hosts and no 60 s anywhere admit more than it. The same round trip compares the
stamp that the caller's cached Identity was read under. When Redis is away each web process grants
its share of the limit.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
from enum import StrEnum
from typing import Any

from django.conf import settings
from django_ratelimit.core import get_usage
from redis.exceptions import NoScriptError, RedisError
from rest_framework.throttling import BaseThrottle

from casola_site.core import redis
from casola_site.core.doors import Door
from casola_site.core.errors import RateLimited, Unavailable
from casola_site.core.network import network_of
from tokens.identity import Identity, stamp_key
from usage.limits import UNLIMITED, Decision, LocalWindow, RateClass, window_key

MAX_READS = 5  # of an Identity whose Organization changes all the time

# KEYS: window, stamp. ARGV: limit (-1: none), expected stamp ("": any), member.
# Answer: {state, remaining, microseconds until room}; state 1 admitted, 0 refused, -1 stale stamp.
SCRIPT = """
if ARGV[2] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[2] then return {-1, 0, 0} end
local limit = tonumber(ARGV[1])
if limit < 0 then return {1, 0, 0} end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if last[2] and tonumber(last[2]) > now then now = tonumber(last[2]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now - 60000000))
local used = redis.call('ZCARD', KEYS[1])
local state = 0
if used < limit then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[3])
  redis.call('PEXPIRE', KEYS[1], 61000)
  used = used + 1
  state = 1
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local wait = 60000000
if first[2] then wait = tonumber(first[2]) + 60000000 - now end
return {state, limit - used, wait}
"""

_local = LocalWindow()


class StaleIdentity(Exception):
    """The Organization's stamp has changed since the Identity was read: read it again."""


def limit_of(identity: Identity, rate_class: RateClass) -> int | None:
    """The plan's allowance per minute."""
    if rate_class is RateClass.JOB_SUBMISSION:
        return identity.job_submissions_per_minute
    return identity.api_requests_per_minute


def _arguments(
    identity: Identity, rate_class: RateClass, limit: int | None
) -> tuple[list[str], list[Any]]:
    keys = [
        window_key(identity.organization_id, rate_class),
        stamp_key(identity.organization_id),
    ]
    return keys, [-1 if limit is None else limit, identity.stamp, secrets.token_hex(8)]


def _decision(answer: list[int], limit: int | None) -> Decision:
    state, remaining, wait = answer
    if state < 0:
        raise StaleIdentity
    if limit is None:
        return UNLIMITED
    return Decision(state == 1, limit, max(0, remaining), wait / 1_000_000)


def local_share(identity: Identity, rate_class: RateClass, limit: int | None) -> Decision:
    """This process's share of the limit while Redis is away."""
    if limit is None:
        return UNLIMITED
    share = min(limit, max(1, limit // settings.WEB_WORKERS))
    return _local.admit(f"{identity.organization_id}:{rate_class}", share, time.monotonic())


def admit(identity: Identity, rate_class: RateClass) -> Decision:
    """Count one request of the class. Raises StaleIdentity, in which case nothing was counted."""
    limit = limit_of(identity, rate_class)
    keys, arguments = _arguments(identity, rate_class, limit)
    try:
        answer = _script(redis.client())(keys=keys, args=arguments)
    except RedisError:
        return local_share(identity, rate_class, limit)
    return _decision(answer, limit)


async def admit_async(identity: Identity, rate_class: RateClass) -> Decision:
    """`admit` on the event loop."""
    limit = limit_of(identity, rate_class)
    keys, arguments = _arguments(identity, rate_class, limit)
    try:
        answer = await _shared_trips(redis.async_client()).ask([*keys, *arguments])
    except RedisError:
        return local_share(identity, rate_class, limit)
    return _decision(answer, limit)


def _script(client: Any) -> Any:
    found = getattr(client, "_casola_admit", None)
    if found is None:
        found = client._casola_admit = client.register_script(SCRIPT)
    return found


class _SharedTrips:
    """An event loop's admissions: those that come while one round trip is under way share the next.

    Under load that is one connection, one write and one read for many requests.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.digest = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
        self.waiting: list[tuple[list[Any], asyncio.Future[list[int]]]] = []
        self.trips: asyncio.Task[None] | None = None

    async def ask(self, arguments: list[Any]) -> list[int]:
        """The script's answer. Raises RedisError."""
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self.waiting.append((arguments, answer))
        if self.trips is None:
            self.trips = asyncio.create_task(self._travel())
        return await answer

    async def _travel(self) -> None:
        group: list[tuple[list[Any], asyncio.Future[list[int]]]] = []
        try:
            while self.waiting:
                group, self.waiting = self.waiting, []
                for (_, future), answer in zip(group, await self._send(group), strict=True):
                    if future.done():  # its request has gone
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        finally:
            self.trips = None
            for _, future in [*group, *self.waiting]:
                future.cancel()
            self.waiting = []

    async def _send(self, group: list[tuple[list[Any], Any]]) -> list[Any]:
        """An answer or a RedisError for each."""
        try:
            answers = await self._pipeline(group)
            if any(isinstance(answer, NoScriptError) for answer in answers):
                # Redis was restarted; a script it does not know has counted nothing.
                await self.client.script_load(SCRIPT)
                answers = await self._pipeline(group)
        except RedisError as error:
            return [error] * len(group)
        return answers

    async def _pipeline(self, group: list[tuple[list[Any], Any]]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for arguments, _ in group:
            pipeline.evalsha(self.digest, 2, *arguments)
        return await pipeline.execute(raise_on_error=False)


def _shared_trips(client: Any) -> _SharedTrips:
    found = getattr(client, "_casola_trips", None)
    if found is None:
        found = client._casola_trips = _SharedTrips(client)
    return found


def refusal(decision: Decision) -> RateLimited:
    """The seed's 429."""
    return RateLimited(retry_after=math.ceil(decision.reset_seconds), headers=decision.headers())


def rate_class_of(view: Any, method: str) -> RateClass:
    """What the view declares for the method; everything undeclared is an API request."""
    declared = getattr(view, "rate_classes", None) or {}
    return declared.get(method, RateClass.API_REQUEST)


class PlanThrottle(BaseThrottle):
    """DRF's door to `admit`; the decision is kept on the request for the answer's headers."""

    def allow_request(self, request: Any, view: Any) -> bool:
        """True, or raises the seed's 429."""
        identity: Identity | None = request.auth
        if identity is None:
            return True
        decision = self._admit(request, identity, rate_class_of(view, request.method))
        request.rate_decision = decision
        if not decision.admitted:
            raise refusal(decision)
        return True

    @staticmethod
    def _admit(request: Any, identity: Identity, rate_class: RateClass) -> Decision:
        for _ in range(MAX_READS):
            try:
                return admit(identity, rate_class)
            except StaleIdentity:
                identity = request.authenticators[0].reload(request)
        raise Unavailable


class Per(StrEnum):
    """Whom a door's rate counts: an address, an account from one address, an account."""

    ADDRESS = "address"
    PAIR = "pair"
    ACCOUNT = "account"


# What may be tried at each door. An account's own rate, whatever the address, stands only where
# the attempts could come from many addresses and the account's holder can do without the door.
DOOR_RATES: dict[Door, dict[Per, str]] = {
    Door.FAILED_AUTHENTICATION: {Per.ADDRESS: "300/m"},
    Door.SIGN_UP: {Per.ADDRESS: settings.SIGNUP_RATE},
    Door.LOGIN: {Per.ADDRESS: "30/m", Per.PAIR: "5/m"},
    Door.MAIL: {Per.ACCOUNT: settings.MAIL_RATE},
    Door.RESET: {Per.ADDRESS: "20/h", Per.PAIR: "5/h", Per.ACCOUNT: "20/h"},
    Door.CODE: {Per.ADDRESS: "30/m"},
    Door.SECOND_FACTOR: {Per.ADDRESS: "30/m", Per.ACCOUNT: "5/m"},
    Door.INVITE: {Per.ADDRESS: "20/m"},
}
_PERIODS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_local_doors = {seconds: LocalWindow(seconds) for seconds in _PERIODS.values()}


class _Knock:
    """The attributes of a request that django_ratelimit reads."""

    method = "POST"


def knock(door: Door, *, address: str, account: str = "") -> int:
    """Count an attempt at a door; 0 when admitted, else the seconds until there is room.

    Over all processes in fixed windows; while Redis is away each process grants its share.
    """
    network = network_of(address)
    whose = {Per.ADDRESS: network, Per.PAIR: f"{network} {account}", Per.ACCOUNT: account}
    for per, rate in DOOR_RATES[door].items():
        if per is not Per.ADDRESS and not account:
            continue
        wait = _count(f"{door}-{per}", whose[per], rate)
        if wait:
            return wait
    return 0


def _count(group: str, value: str, rate: str) -> int:
    try:
        usage = get_usage(
            _Knock(),  # type: ignore[arg-type]
            group=group,
            key=lambda _group, _request: value,
            rate=rate,
            increment=True,
        )
    except (RedisError, ConnectionError):
        return _count_here(group, value, rate)
    return max(1, usage["time_left"]) if usage and usage["should_limit"] else 0


def _count_here(group: str, value: str, rate: str) -> int:
    limit, _, period = rate.partition("/")
    share = min(int(limit), max(1, int(limit) // settings.WEB_WORKERS))
    window = _local_doors[_PERIODS[period]]
    decision = window.admit(f"{group}:{value}", share, time.monotonic())
    return 0 if decision.admitted else max(1, math.ceil(decision.reset_seconds))
