"""When tokens were last used: noted in Redis on the way, written to the rows once a minute.

A request writes no row for it. Authentication notes the use when it reads an Identity (each process
does so again every 10 s while a token is in use), and the housekeeping of the nodes writes what has
gathered. Uses while Redis is away are not told.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.db.models import Q
from redis.exceptions import RedisError

from casola_site.core import redis
from tokens.models import ApiToken

NOTED = "casola:token-uses"
TURN = "casola:token-uses:turn"
EVERY_SECONDS = 60
AT_ONCE = 1000


def note(token_pk: int, moment: datetime) -> None:
    """Remember that the token was used."""
    try:
        redis.client().zadd(NOTED, {str(token_pk): moment.timestamp()}, gt=True)
    except RedisError:
        return


def write() -> int:
    """Write what was noted, at most once a minute however many call; returns how many rows."""
    try:
        client = redis.client()
        if not client.set(TURN, 1, nx=True, px=EVERY_SECONDS * 1000 - 500):
            return 0
        written = 0
        while found := client.zpopmin(NOTED, AT_ONCE):
            written += _write(found)
    except RedisError:
        return 0
    return written


def _write(found: Any) -> int:
    written = 0
    with transaction.atomic():
        for token_pk, seconds in sorted((int(key), float(score)) for key, score in found):
            moment = datetime.fromtimestamp(seconds, tz=UTC)
            earlier = Q(last_used_at=None) | Q(last_used_at__lt=moment)
            written += ApiToken.objects.filter(earlier, pk=token_pk).update(last_used_at=moment)
    return written
