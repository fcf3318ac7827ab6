"""How many event connections an Organization may have open, over all processes."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack

import pytest

from casola_site.core import redis
from tests.factories.tokens import make_identity
from usage import sockets as module
from usage.sockets import Sockets, SocketsFull, sockets_key

pytestmark = pytest.mark.sqlite


@pytest.fixture
def caller():
    return make_identity(organization_id=f"org_{uuid.uuid4().hex}", max_sockets=2, plan="Small")


def run(main):
    async def whole():
        try:
            await asyncio.wait_for(main(), 20)
        finally:
            await redis.async_client().aclose()

    asyncio.run(whole())


async def is_refused(sockets, caller) -> bool:
    try:
        async with sockets.place(caller):
            return False
    except SocketsFull:
        return True


def test_the_refusal_names_the_plan_and_when_to_come_again():
    error = SocketsFull(2, plan="Small")
    assert (error.status, error.code, error.headers) == (429, "queue_full", {"retry-after": "5"})
    assert error.message == "Too many event connections are open: the plan Small allows 2"


def test_the_cap_holds_over_processes_and_places_come_free(caller):
    async def main():
        here, there = Sockets(), Sockets()
        async with here.place(caller):
            async with there.place(caller):
                assert await is_refused(here, caller)
                assert await is_refused(there, caller)
            assert not await is_refused(here, caller)
        assert await redis.async_client().zcard(sockets_key(caller.organization_id)) == 0

    run(main)


def test_many_at_once_get_no_more_than_the_cap(caller):
    async def main():
        both, done = (Sockets(), Sockets()), asyncio.Event()

        async def hold(number):
            try:
                async with both[number % 2].place(caller):
                    await done.wait()
                    return True
            except SocketsFull:
                return False

        tasks = [asyncio.create_task(hold(number)) for number in range(20)]
        while sum(task.done() for task in tasks) < 18:
            await asyncio.sleep(0.01)
        done.set()
        assert sum(await asyncio.gather(*tasks)) == 2

    run(main)


def test_who_has_no_cap_is_not_counted(caller):
    free = make_identity(organization_id=caller.organization_id)

    async def main():
        sockets = Sockets()
        async with AsyncExitStack() as stack:
            for _ in range(5):
                await stack.enter_async_context(sockets.place(free))
            assert not await is_refused(sockets, caller)
        assert sockets.open == {caller.organization_id: set()}

    run(main)


def test_those_of_a_killed_process_come_free_and_those_of_a_living_one_stay(caller, monkeypatch):
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.1)

    async def main():
        killed, alive = Sockets(), Sockets()
        lost = killed.place(caller)
        await lost.__aenter__()
        killed.renewing.cancel()
        async with alive.place(caller):
            assert await is_refused(alive, caller)
            await asyncio.sleep(1)
            assert not await is_refused(alive, caller)
            async with alive.place(caller):
                assert await is_refused(alive, caller)
        await lost.__aexit__(None, None, None)

    run(main)


def test_without_redis_each_process_grants_its_share(caller, own_redis, settings):
    settings.WEB_WORKERS = 2
    own_redis.stop()

    async def main():
        sockets = Sockets()
        async with sockets.place(caller):
            assert await is_refused(sockets, caller)
        assert not await is_refused(sockets, caller)

    run(main)
