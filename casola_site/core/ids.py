"""Public ids: prefixed random text, and time-ordered UUIDs for Jobs."""

from __future__ import annotations

import re
import secrets
import uuid

import uuid6

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LENGTH = 22  # 131 random bits


def random_text(length: int) -> str:
    """`length` base62 characters from the system's generator."""
    number = secrets.randbelow(len(ALPHABET) ** length)
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)


def new_id(prefix: str) -> str:
    """A public id such as `org_…` with 131 random bits."""
    return f"{prefix}_{random_text(LENGTH)}"


def user_id() -> str:
    """Id of a User."""
    return new_id("user")


def organization_id() -> str:
    """Id of an Organization."""
    return new_id("org")


def invite_id() -> str:
    """Id of an Invite."""
    return new_id("inv")


def transfer_id() -> str:
    """Id of an OwnershipTransfer."""
    return new_id("xfer")


def audit_id() -> str:
    """Id of an AuditEvent."""
    return new_id("aud")


def token_id() -> str:
    """Id of an ApiToken."""
    return new_id("tok")


def spec_id() -> str:
    """Id of a ModelSpec."""
    return new_id("spec")


def placement_id() -> str:
    """Id of a Placement."""
    return new_id("plc")


def runner_id() -> str:
    """Id of a Runner: new for every process start, so that it serves as a fencing token."""
    return new_id("run")


def usage_id() -> str:
    """Id of a UsageRecord."""
    return new_id("use")


def file_id() -> str:
    """Id of a StoredFile that a client sent, in OpenAI's spelling."""
    return f"file-{random_text(LENGTH)}"


def job_id() -> uuid.UUID:
    """A UUIDv7: sorted by time, 74 random bits."""
    return uuid6.uuid7()


def can_be_id(text: str) -> bool:
    """Whether any public id can look like this; the database is not asked about others."""
    return len(text) <= 64 and text.isascii() and text.isprintable()


UUID_TEXT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


def parse_job_id(text: str) -> uuid.UUID | None:
    """The UUID, or None when the text is not one in its usual spelling."""
    return uuid.UUID(text) if UUID_TEXT.fullmatch(text) else None
