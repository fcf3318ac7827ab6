"""An Organization's stamp in Redis: what was read under an older one is not believed any more."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

from redis.exceptions import RedisError

from casola_site.core import redis

STAMP_SECONDS = 30 * 24 * 3600
RETRY_SECONDS = 0.5


def stamp_key(organization_id: str) -> str:
    """Where an Organization's stamp lives in Redis."""
    return f"casola:stamp:{organization_id}"


def renew(organization_id: str) -> None:
    """Make everything read under the present stamp worthless. Call after the commit.

    While Redis does not answer nothing is cached, but it may answer others, or come back with the
    old stamp: so the new one is owed until it is written.
    """
    try:
        _write(organization_id)
    except RedisError:
        _debts.add(organization_id)


def _write(organization_id: str) -> None:
    redis.client().set(stamp_key(organization_id), secrets.token_hex(8), ex=STAMP_SECONDS)


class _Debts:
    """Stamps that could not be written; a thread that lives as long as there are any tries again."""

    def __init__(self) -> None:
        self.owed: set[str] = set()
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None

    def add(self, organization_id: str) -> None:
        """Owe one more."""
        with self.lock:
            self.owed.add(organization_id)
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self._pay, name="stamps", daemon=True)
                self.thread.start()

    def _pay(self) -> None:
        while True:
            time.sleep(RETRY_SECONDS)
            with self.lock:
                due, self.owed = self.owed, set()
            try:
                for organization_id in sorted(due):
                    _write(organization_id)
                    due.discard(organization_id)
            except RedisError:
                pass
            with self.lock:
                self.owed |= due
                if not self.owed:
                    self.thread = None
                    return


_debts = _Debts()


def current(organization_id: str) -> str:
    """The stamp, made when there is none. Raises RedisError."""
    client = redis.client()
    key = stamp_key(organization_id)
    client.set(key, secrets.token_hex(8), ex=STAMP_SECONDS, nx=True)
    found: Any = client.get(key)
    return found.decode() if found else ""
