"""The secret's format (pure), and junk that never reaches the database."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casola_site.core.errors import AuthenticationFailed
from casola_site.core.ids import ALPHABET
from tokens import keys

PUBLISHED = re.compile(r"csl_sk_[0-9A-Za-z]{42}")
GOOD = keys.new_secret()


def base62(value: int) -> str:
    text = ""
    while value:
        value, digit = divmod(value, 62)
        text = ALPHABET[digit] + text
    return text.rjust(6, "0")


def test_a_secret_has_the_published_form():
    secrets = {keys.new_secret() for _ in range(200)}

    assert len(secrets) == 200
    assert all(PUBLISHED.fullmatch(secret) for secret in secrets)
    assert all(keys.is_well_formed(secret) for secret in secrets)
    assert len(GOOD) == 49


def test_the_checksum_is_crc32_in_base62():
    assert keys.checksum("csl_sk_x") == base62(zlib.crc32(b"csl_sk_x"))
    assert base62(2**32 - 1) == keys.ALPHABET[4] + base62(2**32 - 1)[1:]
    assert GOOD[-6:] == base62(zlib.crc32(GOOD[:-6].encode()))


@given(st.integers(0, 48), st.sampled_from(ALPHABET))
def test_one_changed_character_is_noticed(place, character):
    changed = GOOD[:place] + character + GOOD[place + 1 :]
    assert keys.is_well_formed(changed) == (changed == GOOD)


@given(st.text(max_size=60))
def test_no_text_is_a_secret(text):
    assert not keys.is_well_formed(text)
    assert not keys.is_well_formed("csl_sk_" + text)


def test_only_the_digest_is_stored():
    assert keys.digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Key", "key"])
def test_both_schemes_in_any_case(scheme):
    assert keys.secret_of(f"{scheme} {GOOD}") == GOOD


JUNK = [
    None,
    "",
    "Bearer",
    "Bearer ",
    GOOD,
    f"Basic {GOOD}",
    f"Bearer{GOOD}",
    f"Bearer {GOOD} {GOOD}",
    f"Bearer {GOOD}\n{GOOD}",
    f"Bearer {GOOD[:-1]}",
    f"Bearer {GOOD}0",
    f"Bearer {GOOD.upper()}",
    "Bearer " + "x" * 100_000,
    "Bearer ' OR pg_sleep(9) --",
    "Bearer \x00",
    "Bearer csl_sk_" + "é" * 42,
    "Bearer csl_sk_" + "٣" * 42,
    "Bearer " + "csl_sk_" + "0" * 42,
]


@pytest.mark.parametrize("header", JUNK, ids=range(len(JUNK)))
@pytest.mark.django_db
def test_junk_is_refused_before_any_query(header, django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(AuthenticationFailed):
        keys.secret_of(header)
