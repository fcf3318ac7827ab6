"""A stamp that could not be renewed is renewed as soon as Redis answers."""

from __future__ import annotations

import pytest

from casola_site.core import redis, stamps
from tests import servers
from tests.live import wait_until


@pytest.fixture
def broker(settings):
    with servers.redis() as server:
        settings.REDIS_URL = server.url
        redis.client.cache_clear()
        yield server
    redis.client.cache_clear()


def test_a_renewal_is_owed_while_redis_is_away(broker, monkeypatch):
    monkeypatch.setattr(stamps, "RETRY_SECONDS", 0.05)
    before = {name: stamps.current(name) for name in ("org_a", "org_b", "org_c")}
    broker.pause()
    # It keeps what it holds, as one does that only this process cannot reach.
    for name in ("org_a", "org_a", "org_b"):
        stamps.renew(name)
    broker.resume()

    wait_until(lambda: stamps.current("org_a") != before["org_a"], what="org_a renewed")
    wait_until(lambda: stamps.current("org_b") != before["org_b"], what="org_b renewed")
    assert stamps.current("org_c") == before["org_c"]
    wait_until(lambda: stamps._debts.thread is None, what="no more owed")
