"""`Idempotency-Key`: the same key and body get the same answer for 24 h."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction

from accounts.models import IdempotencyKey, Organization
from casola_site.core.errors import Conflict, InvalidRequest

KEEP = timedelta(hours=24)
MAX_KEY = 255
SWEPT_AT_ONCE = 500
Answer = tuple[int, dict[str, Any]]


def body_hash(body: Any) -> str:
    """SHA-256 of the canonical JSON text."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def answer_once(
    *,
    organization: Organization,
    route: str,
    key: str | None,
    body: Any,
    now: datetime,
    make: Callable[[], Answer],
    hide: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Answer:
    """`make()`'s (status, body), made once per (organization, route, key).

    `make` and the stored answer share one transaction, so a crash leaves neither; a parallel twin
    waits in the database for the first and gets its answer. `hide` says what of the answer may be
    stored. Raises Conflict when the key came with another body, InvalidRequest for an odd key.
    """
    if key is None:
        with transaction.atomic():
            return make()
    if not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise InvalidRequest(f"Idempotency-Key must be 1 to {MAX_KEY} printable characters")
    digest = body_hash(body)
    stored = IdempotencyKey.objects.filter(organization=organization, route=route, key=key)
    with transaction.atomic():
        stored.filter(created_at__lt=now - KEEP).delete()
        try:
            with transaction.atomic():
                row = IdempotencyKey.objects.create(
                    organization=organization,
                    route=route,
                    key=key,
                    body_hash=digest,
                    created_at=now,
                )
        except IntegrityError:
            return _replay(stored.get(), digest)
        status, answer = make()
        row.status, row.answer = status, hide(answer)
        row.save(update_fields=["status", "answer"])
        return status, answer


def sweep_keys(now: datetime) -> int:
    """Delete the answers that are no longer kept; returns how many."""
    deleted = 0
    while True:
        old = IdempotencyKey.objects.filter(created_at__lt=now - KEEP).order_by("created_at")
        found = list(old.values_list("pk", flat=True)[:SWEPT_AT_ONCE])
        deleted += IdempotencyKey.objects.filter(pk__in=found).delete()[0]
        if len(found) < SWEPT_AT_ONCE:
            return deleted


def _replay(row: IdempotencyKey, digest: str) -> Answer:
    if row.body_hash != digest:
        raise Conflict("This Idempotency-Key was used with another body")
    if row.status is None or row.answer is None:
        raise Conflict("A request with this Idempotency-Key is still in progress")
    return row.status, row.answer
