"""The secret's format (pure): `csl_sk_` + 36 random base62 characters + CRC-32 in 6 of them.

Scanners can find it with `csl_sk_[0-9A-Za-z]{42}` and check the checksum without asking us.
"""

from __future__ import annotations

import hashlib
import re
import zlib

from casola_site.core.errors import AuthenticationFailed
from casola_site.core.ids import ALPHABET, random_text

PREFIX = "csl_sk_"
RANDOM = 36
CHECK = 6
SECRET = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{RANDOM + CHECK}}}", re.ASCII)
SHOWN = len(PREFIX) + 4


def checksum(text: str) -> str:
    """CRC-32 of the text as 6 base62 characters, most significant first."""
    value = zlib.crc32(text.encode())
    digits = []
    for _ in range(CHECK):
        value, digit = divmod(value, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def new_secret() -> str:
    """A fresh secret with 214 random bits."""
    body = PREFIX + random_text(RANDOM)
    return body + checksum(body)


def is_well_formed(secret: str) -> bool:
    """Whether it can be one of ours; junk is refused before any database work."""
    return bool(SECRET.fullmatch(secret)) and checksum(secret[:-CHECK]) == secret[-CHECK:]


def secret_of(header: str | None) -> str:
    """The secret in an Authorization header (`Bearer` or `Key`, any case).

    Raises AuthenticationFailed for everything that is not one of our secrets, before any look-up.
    """
    scheme, _, secret = (header or "").partition(" ")
    secret = secret.strip()
    if scheme.lower() not in ("bearer", "key") or not is_well_formed(secret):
        raise AuthenticationFailed
    return secret


def digest(secret: str) -> str:
    """SHA-256 in hex: all that is ever stored."""
    return hashlib.sha256(secret.encode()).hexdigest()
