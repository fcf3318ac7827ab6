"""Events are numbered without gaps for each Job."""

from __future__ import annotations

import asyncio
import time

import msgpack
import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from casola_site.core import ids, redis
from jobs import events
from jobs.models import JobEvent
from jobs.services import add_events
from tests.factories.jobs import make_job

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


def sequence(job):
    return list(job.events.values_list("seq", "type"))


def test_each_job_counts_for_itself():
    first, second, now = make_job(), make_job(), timezone.now()

    add_events([(first.pk, "a", {})], at=now)
    add_events([(first.pk, "b", {}), (second.pk, "c", {"n": 1})], at=now)
    add_events([(second.pk, "d", {})], at=now)

    assert sequence(first) == [(1, "a"), (2, "b")]
    assert sequence(second) == [(1, "c"), (2, "d")]
    assert second.events.get(seq=1).data == {"n": 1}


def test_nothing_to_add_asks_nothing(django_assert_num_queries):
    with django_assert_num_queries(0):
        add_events([], at=timezone.now())


def test_two_events_cannot_have_one_number():
    job = make_job()
    JobEvent.objects.create(job=job, seq=1, type="created")

    with pytest.raises(IntegrityError), transaction.atomic():
        JobEvent.objects.create(job=job, seq=1, type="completed")


def test_signals_reach_who_listens_to_the_queue():
    with redis.client().pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(events.queue_channel("queue-a"))
        listener.get_message(timeout=5)
        events.wake("queue-b")
        events.wake("queue-a")
        events.request_cancel("queue-a", "job")
        heard = [listener.get_message(timeout=5) for _ in range(2)]

    assert [msgpack.unpackb(message["data"]) for message in heard] == [
        {"type": "wake"},
        {"type": "cancel", "job_id": "job"},
    ]


def test_a_listener_on_the_event_loop_hears_them():
    async def listen():
        signals = events.queue_signals("queue-c")
        first = asyncio.ensure_future(anext(signals))
        while not first.done():
            await asyncio.to_thread(events.wake, "queue-c")
            await asyncio.sleep(0.05)
        await signals.aclose()
        await redis.async_client().aclose()
        return first.result()

    assert asyncio.run(asyncio.wait_for(listen(), 10)) == {"type": "wake"}


def test_news_of_jobs_is_told_after_the_commit(django_capture_on_commit_callbacks):
    jobs = [make_job(), make_job()]
    with redis.client().pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(events.NEWS)
        listener.get_message(timeout=5)
        with django_capture_on_commit_callbacks(execute=True):
            add_events([(job.pk, "progress", {}) for job in jobs], at=timezone.now())
            assert listener.get_message(timeout=0.1) is None
        message = listener.get_message(timeout=5)

    assert message["data"] == jobs[0].pk.bytes + jobs[1].pk.bytes


def test_a_listener_is_told_that_it_listens_and_then_of_each_job():
    jobs = [ids.job_id() for _ in range(3)]

    async def listen():
        news = events.news()
        first = await anext(news)
        await asyncio.to_thread(events._tell, jobs)
        second = await anext(news)
        await news.aclose()
        await redis.async_client().aclose()
        return first, second

    found = asyncio.run(asyncio.wait_for(listen(), 10))
    assert found == (set(), {job.bytes for job in jobs})


def test_news_without_redis_is_lost_in_silence_and_waits_a_moment(settings, monkeypatch):
    monkeypatch.setattr(events, "_silent_until", 0.0)
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    redis.client.cache_clear()
    try:
        before = time.monotonic()
        events._tell([ids.job_id()])
    finally:
        redis.client.cache_clear()
    assert events._silent_until > before + 0.9


def test_a_signal_without_redis_is_lost_in_silence(settings):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    redis.client.cache_clear()
    try:
        events.wake("queue-a")
    finally:
        redis.client.cache_clear()
