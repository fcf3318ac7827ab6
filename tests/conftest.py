"""What tests of several apps use."""

from __future__ import annotations

import pytest

from casola_site.core import redis
from tests import servers


@pytest.fixture
def own_redis(settings):
    """A Redis for this test alone, which the process's client talks to."""
    with servers.redis() as server:
        settings.REDIS_URL = server.url
        redis.client.cache_clear()
        yield server
    redis.client.cache_clear()
