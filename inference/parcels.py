"""Results too large for a frame, on their way from a Runner to a web process.

Pub/sub cuts a receiver off when too much waits for it, so large bytes are laid down in Redis under
a random key, the frame carries the key, and whoever waits fetches them. What nobody fetches goes by
itself. A Runner's end may be told twice, so a parcel stays until its time is over.
"""

from __future__ import annotations

import uuid
from typing import Any

from redis.exceptions import RedisError

from casola_site.core.errors import Unavailable
from casola_site.core.redis import async_client

SMALL = 128 * 1024
SECONDS = 30
PIECE = 4 * 1024 * 1024
KEY = "parcel"
LARGE = ("vectors", "transcript")
"""What of a result may be so large; of each one at most."""


def must_be_sent(result: dict[str, Any]) -> bool:
    """Whether this result is too large for a frame."""
    return any(len(result.get(part) or b"") > SMALL for part in LARGE)


async def send(result: dict[str, Any]) -> dict[str, Any]:
    """Lay it down; what the frame carries instead. Raises RedisError."""
    part = next(part for part in LARGE if part in result)
    name, data = f"casola.parcel.{uuid.uuid4().hex}", result[part]
    redis = async_client()
    count = 0
    for at in range(0, len(data), PIECE):
        await redis.set(f"{name}.{count}", data[at : at + PIECE], ex=SECONDS)
        count += 1
    rest = {key: value for key, value in result.items() if key != part}
    return {**rest, KEY: [name, count, part]}


async def received(result: dict[str, Any]) -> dict[str, Any]:
    """The whole result. Raises Unavailable where it is gone."""
    if KEY not in result:
        return result
    name, count, part = result[KEY]
    redis = async_client()
    try:
        pieces = [await redis.get(f"{name}.{number}") for number in range(count)]
    except (RedisError, OSError) as error:
        raise Unavailable from error
    if None in pieces:
        raise Unavailable
    rest = {key: value for key, value in result.items() if key != KEY}
    return {**rest, part: b"".join(pieces)}
