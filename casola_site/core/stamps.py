"""An Organization's stamp in Redis: what was read under an older one is not believed any more."""

from __future__ import annotations

import secrets
from typing import Any

from redis.exceptions import RedisError

from casola_site.core import redis

STAMP_SECONDS = 30 * 24 * 3600


def stamp_key(organization_id: str) -> str:
    """Where an Organization's stamp lives in Redis."""
    return f"casola:stamp:{organization_id}"


def renew(organization_id: str) -> None:
    """Make everything read under the present stamp worthless. Call after the commit."""
    try:
        redis.client().set(stamp_key(organization_id), secrets.token_hex(8), ex=STAMP_SECONDS)
    except RedisError:
        # Nothing is cached while Redis is away; entries from before live 10 s at most.
        return


def current(organization_id: str) -> str:
    """The stamp, made when there is none. Raises RedisError."""
    client = redis.client()
    key = stamp_key(organization_id)
    client.set(key, secrets.token_hex(8), ex=STAMP_SECONDS, nx=True)
    found: Any = client.get(key)
    return found.decode() if found else ""
