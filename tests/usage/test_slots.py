"""Slots over a real Redis: never more than the Plan allows, in order, nothing leaked.

Each `Slots` here is what one web process has, with its own name and its own listening.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
from dataclasses import replace

import pytest

from casola_site.core import redis
from casola_site.core.errors import QueueFull, Timeout
from tests.factories.tokens import make_identity
from usage import slots as module
from usage.slot_script import keys_of
from usage.slots import Slots

pytestmark = pytest.mark.sqlite
_serial = itertools.count()


@pytest.fixture(autouse=True)
def _settled():
    """Redis has been there for long."""
    redis.client().set("casola:slots:began", 0)


def caller(**columns):
    """A caller of an Organization of its own; two running, one stream, ten in line."""
    return make_identity(
        **{
            "organization_id": f"org_{secrets.token_hex(8)}",
            "max_running_jobs": 2,
            "max_streams": 1,
            "max_queued_jobs": 10,
            "plan": "Free",
            **columns,
        }
    )


def run(scenario, processes=1):
    """Run it on a fresh loop with so many processes."""

    async def main():
        found = [Slots() for _ in range(processes)]
        try:
            return await asyncio.wait_for(scenario(*found), 60)
        finally:
            for one in found:
                await one.close()
            await redis.async_client().aclose()

    return asyncio.run(main())


def take(process, identity, *, stream=False, job_id=None, wait_seconds=30.0):
    """A task that takes a slot."""
    job_id = job_id or f"job-{next(_serial)}"
    return asyncio.create_task(
        process.take(identity, job_id=job_id, stream=stream, wait_seconds=wait_seconds)
    )


async def arrive(process, identity, **options):
    """`take`, when Redis knows of it."""
    task = take(process, identity, **options)
    await asyncio.sleep(0)
    desk = process.desks[identity.organization_id]
    while desk.talk is not None:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    return task


def in_redis(identity) -> tuple[int, int, int]:
    """(held, streams among them, in line)."""
    _, held, streams, line, stream_line, *_ = keys_of(identity.organization_id)
    client = redis.client()
    waiting = client.zcard(line) + client.zcard(stream_line)
    return client.scard(held), client.scard(streams), waiting


def test_a_plan_without_caps_has_nothing_to_do_with_redis(own_redis):
    own_redis.stop()

    async def scenario(process):
        free = make_identity()
        some = make_identity(max_streams=1)
        return [
            await process.take(free, job_id="a", stream=True, wait_seconds=1),
            await process.take(some, job_id="b", stream=False, wait_seconds=1),
            process.desks,
        ]

    assert run(scenario) == [None, None, {}]


def test_what_is_over_the_cap_waits_until_one_ends():
    identity = caller()

    async def scenario(process):
        first, second, third = [await arrive(process, identity) for _ in range(3)]
        before = [task.done() for task in (first, second, third)], in_redis(identity)
        await (await first).release()
        await asyncio.wait_for(third, 5)
        after = in_redis(identity)
        for task in (second, third):
            await (await task).release()
        return before, after, in_redis(identity)

    assert run(scenario) == (([True, True, False], (2, 0, 1)), (2, 0, 0), (0, 0, 0))


def test_they_come_in_the_order_they_came_over_all_processes():
    identity, order = caller(max_running_jobs=1), []

    async def work(task, number):
        slot = await task
        order.append(number)
        await slot.release()

    async def scenario(*processes):
        arrived = [await arrive(processes[number % 3], identity) for number in range(9)]
        await asyncio.gather(*(work(task, number) for number, task in enumerate(arrived)))

    run(scenario, 3)

    assert order == list(range(9))


def test_streams_have_a_cap_of_their_own_and_hold_up_nobody_else():
    identity = caller(max_running_jobs=3, max_streams=1)

    async def scenario(process):
        stream = await arrive(process, identity, stream=True)
        second = await arrive(process, identity, stream=True)
        whole = [await arrive(process, identity) for _ in range(3)]
        state = [task.done() for task in (stream, second, *whole)], in_redis(identity)
        await (await stream).release()
        await asyncio.wait_for(second, 5)
        return state, whole[2].done(), in_redis(identity)

    # The stream's slot goes to the stream, which came before the last whole one.
    assert run(scenario) == (
        ([True, False, True, True, False], (3, 1, 2)),
        False,
        (3, 1, 1),
    )


def test_a_full_line_refuses_and_names_the_plan():
    identity = caller(max_running_jobs=1, max_queued_jobs=2)

    async def scenario(process, other):
        tasks = [await arrive(process, identity) for _ in range(3)]
        refused = await arrive(other, identity)
        with pytest.raises(QueueFull) as error:
            await refused
        await (await tasks[0]).release()
        await asyncio.wait_for(tasks[1], 5)
        again = await arrive(other, identity)
        return error.value, again.done(), in_redis(identity)

    error, done, state = run(scenario, 2)
    assert error.message == "Too many requests are waiting: the plan Free allows 2"
    assert (error.status, error.code, error.headers) == (429, "queue_full", {"retry-after": "5"})
    assert (done, state) == (False, (1, 0, 2))


@pytest.mark.parametrize("cap", [0, 3, 20])
def test_a_burst_of_64_over_four_processes_fills_slots_and_line_exactly(cap):
    identity = caller(max_running_jobs=4, max_queued_jobs=cap)

    async def scenario(*processes):
        tasks = [take(processes[n % 4], identity) for n in range(64)]
        async with asyncio.timeout(20):
            while sum(task.done() for task in tasks) < 64 - cap:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        ended = [task for task in tasks if task.done()]
        refused = [task for task in ended if isinstance(task.exception(), QueueFull)]
        for task in tasks:
            task.cancel()
        return len(ended) - len(refused), len(refused), len(tasks) - len(ended)

    assert run(scenario, 4) == (4, 60 - cap, cap)


def test_waiting_has_an_end():
    identity = caller(max_running_jobs=1)

    async def scenario(process):
        held = await arrive(process, identity)
        with pytest.raises(Timeout) as error:
            await process.take(identity, job_id="late", stream=False, wait_seconds=0.2)
        state = in_redis(identity)
        await (await held).release()
        return error.value, state, in_redis(identity)

    error, state, after = run(scenario)
    assert (error.status, error.code, error.extra) == (504, "timeout", {"request_id": "late"})
    assert error.headers["x-should-retry"] == "false"
    assert (state, after) == ((1, 0, 0), (0, 0, 0))


def test_who_leaves_the_line_has_left_it():
    identity = caller(max_running_jobs=1)

    async def scenario(process):
        held, leaver, next_ = [await arrive(process, identity) for _ in range(3)]
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
        state = in_redis(identity)
        await (await held).release()
        await asyncio.wait_for(next_, 5)
        return state

    assert run(scenario) == (1, 0, 1)


def test_who_leaves_before_redis_has_answered_leaves_nothing():
    identity = caller(max_running_jobs=1)

    async def scenario(process):
        task = take(process, identity)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return in_redis(identity)

    assert run(scenario) == (0, 0, 0)


def test_a_request_in_line_can_be_ended_from_outside():
    identity = caller(max_running_jobs=1)

    async def scenario(process):
        await arrive(process, identity)
        waits = await arrive(process, identity, job_id="revoked")
        process.end("revoked", QueueFull(0, plan="none"))
        with pytest.raises(QueueFull):
            await waits
        return in_redis(identity)

    assert run(scenario) == (1, 0, 0)


def test_a_new_plan_holds_from_the_next_request_on():
    small = caller(max_running_jobs=1)
    large = replace(small, max_running_jobs=3)

    async def scenario(process, other):
        tasks = [await arrive(process, small) for _ in range(3)]
        before = [task.done() for task in tasks]
        tasks.append(await arrive(other, large))
        await asyncio.wait_for(asyncio.gather(*tasks[:3]), 5)
        after = [task.done() for task in tasks]
        tasks.append(await arrive(other, small))  # and down again: nobody is thrown out
        return before, after, in_redis(small)

    assert run(scenario, 2) == ([True, False, False], [True] * 3 + [False], (3, 0, 2))


def test_a_killed_process_holds_nothing_for_long(monkeypatch):
    monkeypatch.setattr(module, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.2)
    identity = caller(max_running_jobs=2)

    async def scenario(killed, alive):
        for _ in range(2):
            await arrive(killed, identity)
        await arrive(killed, identity)  # it is in line as well, before the others
        mine = [await arrive(alive, identity) for _ in range(2)]
        await asyncio.sleep(2.5)  # longer than a lease
        before = [task.done() for task in mine]
        await killed.close()  # no more renewals, no word of leaving
        await asyncio.wait_for(asyncio.gather(*mine), 10)
        return before, in_redis(identity)

    assert run(scenario, 2) == ([False, False], (2, 0, 0))


def test_a_message_that_is_lost_is_made_up_for():
    identity = caller(max_running_jobs=1)

    async def scenario(process, deaf):
        held = await arrive(process, identity)
        waits = await arrive(deaf, identity)
        deaf._tasks[0].cancel()  # hears nothing any more
        await asyncio.sleep(0.05)
        await (await held).release()
        await asyncio.wait_for(waits, 5)

    run(scenario, 2)


def test_nothing_stays_in_redis():
    identity = caller()

    async def scenario(process):
        slot = await (await arrive(process, identity))
        await slot.release()

    run(scenario)

    ttls = [redis.client().pttl(key) for key in keys_of(identity.organization_id)[:-1]]
    assert all(ttl == -2 or 0 < ttl <= 6000 for ttl in ttls)


# -- Redis away -------------------------------------------------------------------------------


def test_without_redis_each_process_grants_its_share(own_redis, settings):
    settings.WEB_WORKERS = 2
    identity = caller(max_running_jobs=4, max_streams=1, max_queued_jobs=6)
    own_redis.stop()

    async def scenario(process):
        tasks = [take(process, identity, stream=number < 3) for number in range(7)]
        done, waiting = await asyncio.wait(tasks, timeout=1.5)
        granted = [task for task in done if task.exception() is None]
        refused = [task for task in done if isinstance(task.exception(), QueueFull)]
        streams = [task.result().is_stream for task in granted]
        await granted[0].result().release()  # the next one's turn, also now
        await asyncio.wait(waiting, timeout=3, return_when=asyncio.FIRST_COMPLETED)
        return sorted(streams), len(refused), len(waiting), sum(t.done() for t in waiting)

    assert run(scenario) == ([False, True], 2, 3, 1)


def test_the_caps_are_exact_again_when_redis_is_back(own_redis):
    """What was granted without it counts from then on, in every process."""
    identity = caller(max_running_jobs=2)

    async def scenario(process, other):
        own_redis.stop()
        held = [take(process, identity) for _ in range(2)]
        slots = [await slot for slot in held]
        own_redis.start()
        waits = [take(other, identity) for _ in range(2)]
        await asyncio.sleep(module.SETTLE_SECONDS + 2 * module.RENEW_SECONDS)
        before = [task.done() for task in waits], in_redis(identity)
        await slots[0].release()
        await asyncio.wait_for(waits[0], 10)
        return before, waits[1].done(), in_redis(identity)

    assert run(scenario, 2) == (([False, False], (2, 0, 2)), False, (2, 0, 1))


def test_a_redis_that_forgot_everything_grants_nothing_that_is_held(own_redis):
    identity = caller(max_running_jobs=2)

    async def scenario(process, other):
        redis.client().set("casola:slots:began", 0)
        held = [await arrive(process, identity) for _ in range(2)]
        waits = await arrive(process, identity)
        redis.client().flushall()
        late = await arrive(other, identity)  # nobody has told Redis of the others yet
        state = [task.done() for task in (*held, waits, late)], in_redis(identity)
        await asyncio.sleep(module.SETTLE_SECONDS + 2 * module.RENEW_SECONDS)
        settled = [task.done() for task in (*held, waits, late)], in_redis(identity)
        await (await held[0]).release()
        await asyncio.wait_for(waits, 10)
        return state, settled, late.done()

    assert run(scenario, 2) == (
        ([True, True, False, False], (0, 0, 1)),
        ([True, True, False, False], (2, 0, 2)),
        False,
    )


def test_a_fresh_redis_refuses_nobody_who_will_have_a_slot(own_redis):
    identity = caller(max_running_jobs=2, max_queued_jobs=1)

    async def scenario(process):
        tasks = [await arrive(process, identity) for _ in range(4)]
        early = [task.done() for task in tasks]
        await asyncio.wait_for(asyncio.gather(*tasks[:2]), 10)
        return early, isinstance(tasks[3].exception(), QueueFull), tasks[2].done()

    assert run(scenario) == ([False, False, False, True], True, False)


# -- at random --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_never_more_than_the_caps_whatever_happens(seed):
    chance = random.Random(seed)
    identity = caller(max_running_jobs=3, max_streams=2, max_queued_jobs=None)
    now = {"whole": 0, "stream": 0}
    most = {"all": 0, "streams": 0, "served": 0}

    async def request(process):
        stream = chance.random() < 0.5
        kind = "stream" if stream else "whole"
        await asyncio.sleep(chance.uniform(0, 1))
        slot = await process.take(
            identity, job_id=f"r{next(_serial)}", stream=stream, wait_seconds=30
        )
        now[kind] += 1
        most["all"] = max(most["all"], sum(now.values()))
        most["streams"] = max(most["streams"], now["stream"])
        try:
            await asyncio.sleep(chance.uniform(0, 0.02))
            most["served"] += 1
        finally:
            now[kind] -= 1
            await slot.release()

    async def scenario(*processes):
        tasks = [asyncio.create_task(request(chance.choice(processes))) for _ in range(150)]
        for task in chance.sample(tasks, 20):
            await asyncio.sleep(0.03)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        left = [desk.all for process in processes for desk in process.desks.values()]
        return in_redis(identity), [slots for slots in left if slots]

    assert run(scenario, 4) == ((0, 0, 0), [])
    assert (most["all"], most["streams"]) == (3, 2)
    assert most["served"] >= 130
