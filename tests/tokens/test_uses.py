"""When a token was last used: told within a minute or so, without a write per request."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.idempotency import KEEP, sweep_keys
from accounts.models import IdempotencyKey
from casola_site.core import redis
from jobs import housekeeping
from tests.factories.accounts import make_organization
from tests.factories.tokens import make_token
from tokens import identity, keys, uses

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


@pytest.fixture
def turn(own_redis):
    """Lets the next minute begin."""

    def next_minute() -> int:
        redis.client().delete(uses.TURN)
        return uses.write()

    return next_minute


def test_a_request_writes_no_row(turn):
    from django.db import connection

    token, secret = make_token()
    with CaptureQueriesContext(connection) as asked:
        identity.load(keys.digest(secret))
    assert asked.captured_queries
    assert all(query["sql"].startswith("SELECT") for query in asked.captured_queries)
    token.refresh_from_db()
    assert token.last_used_at is None

    assert turn() == 1

    token.refresh_from_db()
    assert abs(token.last_used_at - timezone.now()) < timedelta(minutes=1)


def test_at_most_one_write_a_minute_holds_the_latest_use(turn):
    token, _ = make_token()
    start, seen = timezone.now().replace(microsecond=0), []
    for minute in range(3):
        for second in (0, 1, 59, 30):
            uses.note(token.pk, start + timedelta(minutes=minute, seconds=second))
        seen.append(turn())
        # another node in the same minute
        uses.note(token.pk, start + timedelta(minutes=minute, seconds=59))
        seen.append(uses.write())
        token.refresh_from_db()
        assert token.last_used_at == start + timedelta(minutes=minute, seconds=59)
    assert seen == [1, 0] * 3
    assert 55_000 < redis.client().pttl(uses.TURN) <= 60_000


def test_an_unused_minute_writes_nothing(turn, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert turn() == 0


def test_an_older_use_never_overwrites_a_newer_one(turn):
    now = timezone.now()
    token, _ = make_token(last_used_at=now)
    uses.note(token.pk, now - timedelta(seconds=5))
    assert turn() == 0
    token.refresh_from_db()
    assert token.last_used_at == now


def test_many_tokens_and_a_deleted_one(turn, monkeypatch):
    monkeypatch.setattr(uses, "AT_ONCE", 2)
    tokens = [make_token()[0] for _ in range(5)]
    moment = timezone.now()
    for token in tokens:
        uses.note(token.pk, moment)
    tokens[0].delete()
    assert turn() == 4


def test_without_redis_nothing_fails(own_redis):
    token, secret = make_token()
    own_redis.stop()
    assert identity.load(keys.digest(secret)).token_pk == token.pk
    uses.note(token.pk, timezone.now())
    assert uses.write() == 0


def test_housekeeping_forgets_old_idempotency_keys_and_writes_uses(own_redis, monkeypatch):
    monkeypatch.setattr("accounts.idempotency.SWEPT_AT_ONCE", 2)
    now, organization = timezone.now(), make_organization()
    for number in range(7):
        age = KEEP + timedelta(minutes=1) if number < 5 else KEEP - timedelta(minutes=1)
        IdempotencyKey.objects.create(
            organization=organization,
            route="jobs",
            key=str(number),
            body_hash="x",
            created_at=now - age,
        )
    token, _ = make_token()
    uses.note(token.pk, now)

    housekeeping.keep()

    assert set(IdempotencyKey.objects.values_list("key", flat=True)) == {"5", "6"}
    token.refresh_from_db()
    assert token.last_used_at is not None
    assert sweep_keys(now) == 0
