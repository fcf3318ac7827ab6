"""No secret reaches a log line, a traceback included."""

from __future__ import annotations

import io
import logging

import pytest

from casola_site.core.logs import MaskSecrets, mask
from tokens import keys

BODY = keys.PREFIX + "aB3" * (keys.RANDOM // 3) + "x" * (keys.RANDOM % 3)
SECRET = BODY + keys.checksum(BODY)  # the same in every process, being in names of tests


@pytest.fixture
def log():
    """A logger with the mask, and what it wrote."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.addFilter(MaskSecrets())
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger(f"test-{id(out)}")
    logger.addHandler(handler)
    return logger, out


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"token {SECRET}!", "token csl_***!"),
        (f"{SECRET}{SECRET}", "csl_***"),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
        ("authorization=Key abc.def", "authorization=Key ***"),
        ("'authorization': 'Basic dTpw'", "'authorization': 'Basic ***'"),
        ("Authorization: Token abc", "Authorization: Token ***"),
        ("nothing to hide, csl_ neither", "nothing to hide, csl_ neither"),
    ],
)
def test_mask(text, masked):
    assert mask(text) == masked


def test_arguments_are_masked(log):
    logger, out = log
    logger.info("asked with %s by %d", SECRET, 7)
    assert out.getvalue() == "INFO asked with csl_*** by 7\n"


def test_a_line_without_secrets_is_left_alone(log):
    logger, out = log
    logger.warning("%s of %s", 1, 2)
    assert out.getvalue() == "WARNING 1 of 2\n"


def test_a_traceback_is_masked(log):
    logger, out = log
    try:
        {}[f"no such key {SECRET}"]
    except KeyError:
        logger.exception("failed")

    assert SECRET not in out.getvalue()
    assert "KeyError: 'no such key csl_***'" in out.getvalue()


def test_a_wrong_format_does_not_reach_the_caller(log, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log[0].info("%d", "seven")
