"""Signals between processes about Jobs: lossy on purpose, the rows are the truth."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import msgpack
from redis.exceptions import RedisError

from casola_site.core import redis

logger = logging.getLogger(__name__)


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
