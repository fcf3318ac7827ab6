"""Scopes, what each includes, and how far each role reaches."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Scope(StrEnum):
    """A grant that a token can hold."""

    USER_READ = "user:read"
    USER_WRITE = "user:write"
    ADMIN_READ = "admin:read"
    ADMIN_WRITE = "admin:write"
    WORKER_READ = "worker:read"
    WORKER_WRITE = "worker:write"
    SYSTEM_READ = "system:read"
    SYSTEM_WRITE = "system:write"


S = Scope
INCLUDES: dict[Scope, frozenset[Scope]] = {
    S.USER_READ: frozenset(),
    S.USER_WRITE: frozenset({S.USER_READ}),
    S.ADMIN_READ: frozenset({S.USER_READ}),
    S.ADMIN_WRITE: frozenset({S.ADMIN_READ, S.USER_WRITE, S.USER_READ}),
    S.WORKER_READ: frozenset(),
    S.WORKER_WRITE: frozenset({S.WORKER_READ}),
    S.SYSTEM_READ: frozenset({S.ADMIN_READ, S.USER_READ}),
    S.SYSTEM_WRITE: frozenset(
        {S.SYSTEM_READ, S.ADMIN_WRITE, S.ADMIN_READ, S.USER_WRITE, S.USER_READ}
    ),
}
TENANT_SCOPES = frozenset({S.USER_READ, S.USER_WRITE, S.ADMIN_READ, S.ADMIN_WRITE})
PRESETS: dict[str, tuple[Scope, ...]] = {
    "userReadOnly": (S.USER_READ,),
    "userFull": (S.USER_READ, S.USER_WRITE),
    "adminReadOnly": (S.ADMIN_READ,),
    "adminFull": (S.ADMIN_WRITE,),
}
SYSTEM_PRESETS: dict[str, tuple[Scope, ...]] = {
    "worker": (S.WORKER_WRITE,),
    "systemReadOnly": (S.SYSTEM_READ,),
    "systemFull": (S.SYSTEM_WRITE,),
}


def presets(*, is_system: bool) -> dict[str, tuple[Scope, ...]]:
    """The presets that an Organization may use; some are the system organization's only."""
    return {**PRESETS, **SYSTEM_PRESETS} if is_system else PRESETS


def closure(scopes: Iterable[str]) -> frozenset[Scope]:
    """All scopes that the given ones grant; unknown words grant nothing."""
    granted: set[Scope] = set()
    for word in scopes:
        if word in Scope.__members__.values():
            scope = Scope(word)
            granted |= {scope} | INCLUDES[scope]
    return frozenset(granted)
