"""/livez (this process answers) and /readyz (what it needs is there)."""

from __future__ import annotations

import time
from collections.abc import Callable

from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse

from casola_site.core import redis
from casola_site.core.guard.rules import draining

_migrated = False


def livez(request: HttpRequest) -> JsonResponse:
    """Always 200."""
    return JsonResponse({"status": "ok"})


def check_database() -> None:
    """Raise unless the database answers and is migrated."""
    global _migrated
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    if not _migrated:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise RuntimeError("migrations are waiting")
        _migrated = True


def check_redis() -> None:
    """Raise unless Redis answers."""
    redis.client().ping()


CHECKS: dict[str, Callable[[], None]] = {"database": check_database, "redis": check_redis}


def readyz(request: HttpRequest) -> JsonResponse:
    """200 when every check passes; 503 names those that do not, and while draining."""
    results, started = {}, time.monotonic()
    for name, check in CHECKS.items():
        try:
            check()
            results[name] = "ok"
        except Exception:  # noqa: BLE001 - any failure means not ready, and shows nothing more
            results[name] = "failed"
    if draining():
        results["server"] = "draining"
    ready = all(value == "ok" for value in results.values())
    body = {"status": "ok" if ready else "unavailable", "checks": results}
    body["took_ms"] = str(round((time.monotonic() - started) * 1000))
    return JsonResponse(body, status=200 if ready else 503)
