"""What the guard lets through on this site: body caps, doors without a key, known routes."""

from functools import lru_cache

from django.conf import settings
from django.urls import Resolver404, resolve

from casola_site.core.errors import AuthenticationFailed
from casola_site.core.guard.rules import GuardConfig
from tokens.keys import secret_of

MB = 1024 * 1024
API_PREFIXES = ("/openai/", "/fal/", "/api/")
JSON_CAP = 4 * MB
SITE_CAP = 10 * MB
LONGEST_REMEMBERED = 256
CAPS: tuple[tuple[str, int], ...] = (
    ("/openai/v1/chat/completions", 25 * MB),
    ("/openai/v1/audio/speech", JSON_CAP),
    ("/openai/v1/audio/", 32 * MB),
    ("/openai/v1/images/", 28 * MB),
    ("/openai/v1/files", 201 * MB),
    ("/fal/storage", 200 * MB),
    ("/outputs/", 0),
)


def is_api(path: str) -> bool:
    """Return whether ``path`` belongs to a surface that knows only tokens."""
    return path.startswith(API_PREFIXES)


def body_cap(path: str) -> int:
    """Return the bytes of body allowed on ``path``."""
    for prefix, cap in CAPS:
        if path.startswith(prefix):
            return cap
    return JSON_CAP if is_api(path) else SITE_CAP


def is_public(path: str, method: str) -> bool:
    """Return whether a body may come without an ``Authorization`` header."""
    return not is_api(path)


def is_known(path: str) -> bool:
    """Return whether a route exists; a path that only lacks its last slash counts as one."""
    # Long paths are not remembered: a caller could fill the memory with them.
    return _resolves(path) if len(path) <= LONGEST_REMEMBERED else _resolves.__wrapped__(path)


@lru_cache(maxsize=4096)
def _resolves(path: str) -> bool:
    try:
        resolve(path)
    except Resolver404:
        return settings.APPEND_SLASH and not path.endswith("/") and is_known(path + "/")
    return True


def is_plausible(authorization: bytes) -> bool:
    """Return whether the header can hold one of our secrets; junk uploads nothing."""
    try:
        secret_of(authorization.decode("latin-1"))
    except AuthenticationFailed:
        return False
    return True


def build() -> GuardConfig:
    """Return the configuration for ``manage.py web``."""
    return GuardConfig(
        body_caps=body_cap,
        public=is_public,
        is_known=is_known,
        plausible_credential=is_plausible,
    )
