"""Followers of Jobs: everything once and in order, by signal or without, in few reads."""

from __future__ import annotations

import asyncio
import time

import pytest
from django.db import OperationalError, connections
from django.utils import timezone

from casola_site.core import redis
from casola_site.core.errors import Unavailable
from casola_site.core.guard.rules import Draining
from jobs import following
from jobs.following import Desk, Follower
from jobs.selectors import events_after
from jobs.services import add_events, cancel_job
from tests.factories.jobs import make_job

pytestmark = pytest.mark.django_db(transaction=True)


async def in_thread(function, *arguments):
    """On a thread that leaves no connection behind."""

    def call():
        try:
            return function(*arguments)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


def tell(job, count=1):
    for _ in range(count):
        add_events([(job.pk, "progress", {})], at=timezone.now())


def end(job):
    cancel_job(job=job, prices={}, now=timezone.now())


@pytest.fixture
def reads(monkeypatch):
    """How many Jobs each reading was for."""
    found = []

    async def counted(positions):
        found.append(len(positions))
        return await in_thread(events_after, positions)

    monkeypatch.setattr(following, "events_after_async", counted)
    return found


async def collect(follower, *, is_over=False):
    found = []
    async for some in follower.follow(is_over=is_over, quiet_seconds=30):
        found += some
    return [told.seq for told in found]


async def listening(desk):
    while not desk.is_listening:
        await asyncio.sleep(0.01)


def run(main):
    """On a Desk of its own, whose signals are heard before anything happens."""

    async def whole():
        desk = Desk()
        try:
            return await asyncio.wait_for(main(desk), 30)
        finally:
            for task in desk._tasks:
                task.cancel()
            await asyncio.gather(*desk._tasks, return_exceptions=True)
            await redis.async_client().aclose()

    return asyncio.run(whole())


@pytest.mark.usefixtures("reads")
def test_what_happens_while_it_is_followed_comes_by_signal(monkeypatch):
    monkeypatch.setattr(following, "LOOK_SECONDS", 60)
    job = make_job()
    tell(job, 2)

    async def main(desk):
        reader = asyncio.create_task(collect(Follower(desk, job.pk, 1)))
        await listening(desk)
        began = time.monotonic()
        for _ in range(5):
            await in_thread(tell, job)
        await in_thread(end, job)
        return await reader, time.monotonic() - began

    found, seconds = run(main)
    assert found == [2, 3, 4, 5, 6, 7, 8]
    assert seconds < 10


@pytest.mark.usefixtures("reads")
def test_what_no_signal_told_of_is_found_by_looking(monkeypatch):
    monkeypatch.setattr(following, "LOOK_SECONDS", 0)
    monkeypatch.setattr(following, "TICK_SECONDS", 0.05)
    monkeypatch.setattr("jobs.events._tell", lambda job_ids: None)
    job = make_job()

    async def main(desk):
        reader = asyncio.create_task(collect(Follower(desk, job.pk, 0)))
        await in_thread(tell, job, 3)
        await in_thread(end, job)
        return await reader

    assert run(main) == [1, 2, 3, 4]


def test_many_followers_share_a_reading(reads):
    job = make_job()
    tell(job)

    async def main(desk):
        readers = [asyncio.create_task(collect(Follower(desk, job.pk, 0))) for _ in range(100)]
        await listening(desk)
        await in_thread(end, job)
        return await asyncio.gather(*readers)

    assert run(main) == [[1, 2]] * 100
    assert set(reads) == {1}
    assert len(reads) < 20


@pytest.mark.usefixtures("reads")
def test_more_than_one_reading_holds_comes_all_the_same(monkeypatch):
    monkeypatch.setattr("jobs.selectors.MOST_EVENTS", 3)
    monkeypatch.setattr(following, "MOST_EVENTS", 3)
    jobs = [make_job() for _ in range(3)]
    for job in jobs:
        tell(job, 7)
        end(job)

    async def main(desk):
        readers = [collect(Follower(desk, job.pk, 0), is_over=True) for job in jobs]
        return await asyncio.gather(*readers)

    assert run(main) == [list(range(1, 9))] * 3


def test_who_has_seen_the_end_is_not_kept(reads):
    job = make_job()
    end(job)
    assert run(lambda desk: collect(Follower(desk, job.pk, 1), is_over=True)) == []
    assert reads == [1]


@pytest.mark.usefixtures("reads")
def test_a_follower_that_is_ended_raises_why_and_leaves_nothing():
    job = make_job()

    async def main(desk):
        follower = Follower(desk, job.pk, 0)
        reader = asyncio.create_task(collect(follower))
        await listening(desk)
        follower.end(Unavailable())
        with pytest.raises(Unavailable):
            await reader
        return desk.followers

    assert run(main) == {}


@pytest.mark.usefixtures("reads")
def test_quiet_is_told_and_a_process_that_goes_away_lets_its_followers_go(monkeypatch):
    monkeypatch.setattr(following, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(following, "LOOK_SECONDS", 0)
    job = make_job()

    async def main(desk):
        told = 0
        async for some in Follower(desk, job.pk, 0).follow(is_over=False, quiet_seconds=0.3):
            assert some == []
            told += 1
            Draining.value = told == 3
        return told

    try:
        assert run(main) >= 3
    finally:
        Draining.value = False


def test_a_database_that_is_away_for_a_moment_loses_nothing(monkeypatch):
    monkeypatch.setattr(following, "LOOK_SECONDS", 0)
    monkeypatch.setattr(following, "TICK_SECONDS", 0.05)
    job = make_job()
    tell(job)
    end(job)
    left = [3]

    async def away(positions):
        if left[0]:
            left[0] -= 1
            raise OperationalError
        return await in_thread(events_after, positions)

    monkeypatch.setattr(following, "events_after_async", away)
    assert run(lambda desk: collect(Follower(desk, job.pk, 0), is_over=True)) == [1, 2]
