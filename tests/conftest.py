"""What tests of several apps use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.db.models.signals import post_migrate
from django.dispatch import receiver
from hypothesis import HealthCheck, settings

from casola_site.core import redis
from tests import servers

# How long an example takes says nothing on a loaded machine.
settings.register_profile("casola", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("casola")


@receiver(post_migrate)
def restore_plans(app_config: Any, **options: Any) -> None:
    """What a migration made comes back after a test that empties all tables.

    So tests that do may come before others, as they do when files are shared out.
    """
    if app_config.label == "accounts" and options["using"] == "default":
        import_module("accounts.migrations.0002_plans").add(apps, None)


@pytest.fixture
def own_redis(settings):
    """A Redis for this test alone, which the process's client talks to."""
    with servers.redis() as server:
        settings.REDIS_URL = server.url
        redis.client.cache_clear()
        yield server
    redis.client.cache_clear()
