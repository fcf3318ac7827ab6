"""Signals between processes about Jobs: lossy on purpose, the rows are the truth."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Collection
from functools import partial
from typing import Any

import msgpack
from django.db import transaction
from redis.exceptions import RedisError

from casola_site.core import redis

logger = logging.getLogger(__name__)

NEWS = "casola:jobs:news"
PAUSE_SECONDS = 1.0  # after Redis was found away, who follows Jobs looks by himself
_silent_until = 0.0


def queue_channel(queue_id: str) -> str:
    """The pub/sub channel that the Runners of a queue listen to."""
    return f"casola:queue:{queue_id}"


def _publish(queue_id: str, message: dict[str, Any]) -> None:
    try:
        redis.client().publish(queue_channel(queue_id), msgpack.packb(message))
    except RedisError:
        logger.warning("Redis is away; runners will find the job by polling")


def wake(queue_id: str) -> None:
    """Tell the Runners of a queue that there is something to claim."""
    _publish(queue_id, {"type": "wake"})


def request_cancel(queue_id: str, job_id: str) -> None:
    """Tell whichever Runner works on the Job that its output is no longer wanted."""
    _publish(queue_id, {"type": "cancel", "job_id": job_id})


async def queue_signals(queue_id: str) -> AsyncIterator[dict[str, Any]]:
    """Signals of one queue, for ever; ends with RedisError when the connection breaks."""
    pubsub = redis.async_client().pubsub(ignore_subscribe_messages=True)
    try:
        await pubsub.subscribe(queue_channel(queue_id))
        while True:
            message = await pubsub.get_message(timeout=30)
            if message is not None:
                yield msgpack.unpackb(message["data"])
    finally:
        await pubsub.aclose()


def tell_after_commit(job_ids: Collection[uuid.UUID]) -> None:
    """After the commit, tell all processes that these Jobs have new events."""
    transaction.on_commit(partial(_tell, list(job_ids)), robust=True)


def _tell(job_ids: list[uuid.UUID]) -> None:
    global _silent_until
    if time.monotonic() < _silent_until:
        return
    try:
        redis.client().publish(NEWS, b"".join(job_id.bytes for job_id in job_ids))
    except RedisError:
        _silent_until = time.monotonic() + PAUSE_SECONDS


async def news() -> AsyncIterator[set[bytes]]:
    """Ids, as bytes, of Jobs with new events, for ever; first an empty set once it listens.

    Ends with RedisError when the connection breaks.
    """
    pubsub = redis.async_client().pubsub(ignore_subscribe_messages=True)
    try:
        await pubsub.subscribe(NEWS)
        yield set()
        while True:
            message = await pubsub.get_message(timeout=30)
            if message is not None:
                data = message["data"]
                yield {data[start : start + 16] for start in range(0, len(data), 16)}
    finally:
        await pubsub.aclose()
