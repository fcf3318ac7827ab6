"""Django's cache over Redis, with this process's own memory for the time that Redis is away."""

from __future__ import annotations

from typing import Any

from django.core.cache import caches
from django.core.cache.backends.redis import RedisCache
from redis.exceptions import RedisError


class SharedCache(RedisCache):
    """What libraries keep for a moment, such as a one-time code that has been used.

    They know nothing of a cache that is away, and sign-in must not depend on one.
    """

    def add(self, *args: Any, **options: Any) -> bool:
        """Set unless there; whether it was set."""
        try:
            return super().add(*args, **options)
        except (RedisError, ConnectionError):
            return caches["local"].add(*args, **options)

    def get(self, *args: Any, **options: Any) -> Any:
        """The value, else the default."""
        try:
            return super().get(*args, **options)
        except (RedisError, ConnectionError):
            return caches["local"].get(*args, **options)

    def set(self, *args: Any, **options: Any) -> None:
        """Store."""
        try:
            super().set(*args, **options)
        except (RedisError, ConnectionError):
            caches["local"].set(*args, **options)

    def delete(self, *args: Any, **options: Any) -> bool:
        """Forget; whether it was there."""
        try:
            return super().delete(*args, **options)
        except (RedisError, ConnectionError):
            return caches["local"].delete(*args, **options)
