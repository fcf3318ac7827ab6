"""Logs never show a secret."""

from __future__ import annotations

import logging
import re

SECRET = re.compile(r"csl_[A-Za-z0-9_]{6,}")
AUTHORIZATION = re.compile(
    r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|key|basic)?\s*)[^\s'\",}]+"
)


def mask(text: str) -> str:
    """The text with token secrets and Authorization values cut out."""
    return AUTHORIZATION.sub(r"\1***", SECRET.sub("csl_***", text))


class MaskSecrets(logging.Filter):
    """Masks the finished message, arguments included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; never drop it."""
        message = record.getMessage()
        masked = mask(message)
        if masked != message:
            record.msg, record.args = masked, ()
        return True
