"""Logs never show a secret."""

from __future__ import annotations

import logging
import re

SECRET = re.compile(r"csl_[A-Za-z0-9_]{6,}")
AUTHORIZATION = re.compile(
    r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|key|basic|token|digest)?\s*)[^\s'\",}]+"
)

_formatter = logging.Formatter()


def mask(text: str) -> str:
    """The text with token secrets and Authorization values cut out."""
    return AUTHORIZATION.sub(r"\1***", SECRET.sub("csl_***", text))


class MaskSecrets(logging.Filter):
    """Masks the finished message, arguments included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; never drop it."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            return True  # a wrong format: the handler reports it, the caller goes on
        masked = mask(message)
        if masked != message:
            record.msg, record.args = masked, ()
        if record.exc_info and not record.exc_text:
            record.exc_text = mask(_formatter.formatException(record.exc_info))
        return True
