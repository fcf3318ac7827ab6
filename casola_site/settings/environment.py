"""Reading the environment: each reader returns a checked value or says which one is wrong."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from casola_site.core.fetch_target import Unfit, origin_of

DOTENV = Path(__file__).resolve().parents[2] / ".env"
if DOTENV.is_file():
    environ.Env.read_env(DOTENV)

TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off", ""}


def text(name: str, default: str = "") -> str:
    """The variable, stripped, or the default when unset or empty."""
    return os.environ.get(name, "").strip() or default


def flag(name: str, *, default: bool) -> bool:
    """A yes/no variable."""
    raw = os.environ.get(name)
    if raw is None:
        return default
    value = raw.strip().lower()
    if value in TRUE:
        return True
    if value in FALSE:
        return False
    raise ImproperlyConfigured(f"{name}={raw!r} is neither true nor false.")


def integer(name: str, default: int, *, low: int, high: int) -> int:
    """A whole number within [low, high]."""
    raw = text(name)
    if not raw:
        return default
    try:
        value = int(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name}={raw!r} is not a whole number.") from None
    if not low <= value <= high:
        raise ImproperlyConfigured(f"{name}={value} is outside {low} to {high}.")
    return value


def choice(name: str, default: str, *, of: tuple[str, ...]) -> str:
    """One of the words, in capitals."""
    value = text(name, default).upper()
    if value not in of:
        raise ImproperlyConfigured(f"{name}={value!r} is none of {', '.join(of)}.")
    return value


def items(name: str, default: list[str] | None = None) -> list[str]:
    """A comma-separated list."""
    raw = text(name)
    return [part.strip() for part in raw.split(",") if part.strip()] if raw else list(default or [])


def url(name: str, default: str, *, schemes: tuple[str, ...]) -> str:
    """A URL with one of the schemes."""
    raw = text(name, default)
    if not raw:
        return ""
    try:
        parts = urlsplit(raw)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        raise ImproperlyConfigured(f"{name}={_shown(raw)!r} is not a URL.") from None
    if parts.scheme not in schemes:
        raise ImproperlyConfigured(
            f"{name}={_shown(raw)!r} must begin with {' or '.join(s + '://' for s in schemes)}."
        )
    return raw


def origins(name: str) -> list[str]:
    """A comma-separated list of origins, each as `http://host:port`."""
    found = []
    for part in items(name):
        try:
            found.append(origin_of(part))
        except (Unfit, ValueError):
            raise ImproperlyConfigured(f"{name}: {_shown(part)!r} is no origin.") from None
    return found


def rate(name: str, default: str) -> str:
    """A number per second, minute, hour or day, such as `5/h`."""
    value = text(name, default)
    if not re.fullmatch(r"[1-9][0-9]{0,5}/[smhd]", value):
        raise ImproperlyConfigured(
            f"{name}={value!r} is no rate: a number per s, m, h or d, such as 5/h."
        )
    return value


def oauth_client(name: str) -> dict[str, str] | None:
    """`client_id:secret` as an app of allauth's; None when unset."""
    value = text(name)
    if not value:
        return None
    client_id, _, secret = value.partition(":")
    if not client_id or not secret or re.search(r"\s", value):
        raise ImproperlyConfigured(f"{name} must be client_id:secret.")
    return {"client_id": client_id, "secret": secret}


def openid_client(name: str, title: str) -> dict[str, Any] | None:
    """`https://client_id:secret@issuer` as an app of allauth's; None when unset."""
    address = url(name, "", schemes=("https", "http"))
    if not address:
        return None
    parts = urlsplit(address)
    if not parts.hostname or not parts.username or not parts.password:
        raise ImproperlyConfigured(
            f"{name}={_shown(address)!r} must be https://client_id:secret@issuer."
        )
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ImproperlyConfigured(f"{name}={_shown(address)!r} must begin with https://.")
    server = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return {
        "provider_id": "openid",
        "name": text(title, parts.hostname),
        "client_id": unquote(parts.username),
        "secret": unquote(parts.password),
        "settings": {"server_url": server},
    }


MAIL_SCHEMES = ("smtp", "smtps", "smtp+tls", "smtp+ssl", "consolemail", "filemail", "dummymail")


def mail(name: str) -> dict[str, Any]:
    """Django's EMAIL_ settings from a URL; the console when unset."""
    address = url(name, "consolemail://", schemes=MAIL_SCHEMES)
    if address.startswith("smtp") and not urlsplit(address).hostname:
        raise ImproperlyConfigured(f"{name}={_shown(address)!r} names no host.")
    return environ.Env.email_url_config(address)


def _shown(address: str) -> str:
    return re.sub(r"//[^/]*@", "//***@", address)


def directory(name: str, default: Path) -> Path:
    """A folder this process can write to; created when missing."""
    path = Path(text(name, str(default))).expanduser().resolve()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(f"{name}={path} cannot be created: {error.strerror}.") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ImproperlyConfigured(f"{name}={path} is not writable.")
    return path


def stored_secret(name: str, path: Path) -> str:
    """The variable, else the secret kept in `path` (made on first use, mode 0600)."""
    given = text(name)
    if given:
        if len(given) < 32:
            raise ImproperlyConfigured(f"{name} is shorter than 32 characters.")
        return given
    if not path.exists():
        _store(path, secrets.token_urlsafe(48))
    stored = path.read_text().strip()
    if len(stored) < 32:
        raise ImproperlyConfigured(f"{path} holds no usable secret; delete it or set {name}.")
    return stored


def _store(path: Path, value: str) -> None:
    """Make the file complete, or leave the one that another process made meanwhile."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(value)
    with contextlib.suppress(FileExistsError):
        os.link(part, path)
    os.unlink(part)
