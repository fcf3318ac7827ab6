"""The doors without a token: limits per address and account, over Redis and without it."""

from __future__ import annotations

import secrets

import pytest

from casola_site.core import doors
from casola_site.core.doors import Door
from casola_site.core.network import network_of
from usage import throttling
from usage.limits import LocalWindow
from usage.throttling import Per, knock

pytestmark = pytest.mark.sqlite


def fresh_address() -> str:
    """One nobody has counted for yet."""
    return "10." + ".".join(str(secrets.randbelow(256)) for _ in range(3))


@pytest.fixture
def rates(monkeypatch):
    """Small rates with windows that do not turn over within a test."""

    def use(door: Door, **per: str) -> None:
        chosen = {Per[name.upper()]: rate for name, rate in per.items()}
        monkeypatch.setitem(throttling.DOOR_RATES, door, chosen)

    return use


@pytest.fixture
def _local(monkeypatch):
    fresh = {seconds: LocalWindow(seconds) for seconds in (1, 60, 3600, 86400)}
    monkeypatch.setattr(throttling, "_local_doors", fresh)


def admitted(count: int, door: Door, **who: str) -> list[bool]:
    return [knock(door, **who) == 0 for _ in range(count)]


def test_attempts_are_counted_by_address(rates):
    rates(Door.FAILED_AUTHENTICATION, address="3/d")
    address = fresh_address()

    assert admitted(5, Door.FAILED_AUTHENTICATION, address=address) == [True] * 3 + [False] * 2
    assert admitted(1, Door.FAILED_AUTHENTICATION, address=fresh_address()) == [True]
    assert 1 <= knock(Door.FAILED_AUTHENTICATION, address=address) <= 86400


def test_an_ipv6_network_counts_as_one(rates):
    rates(Door.SIGN_UP, address="2/d")
    network = f"2001:db8:{secrets.randbelow(65536):x}:{secrets.randbelow(65536):x}"
    both = [f"{network}::1", f"{network}:ffff::2"]

    assert [knock(Door.SIGN_UP, address=address) for address in both] == [0, 0]
    assert knock(Door.SIGN_UP, address=f"{network}:1::3") > 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("no address", "no address"),
        ("", ""),
    ],
)
def test_whom_an_address_counts_to(address, network):
    assert network_of(address) == network


def test_an_account_has_its_own_rate_from_one_address(rates):
    rates(Door.LOGIN, address="100/d", pair="2/d")
    here, there, account = fresh_address(), fresh_address(), secrets.token_hex(8)

    assert admitted(3, Door.LOGIN, address=here, account=account) == [True, True, False]
    assert admitted(1, Door.LOGIN, address=here, account="another") == [True]
    assert admitted(1, Door.LOGIN, address=there, account=account) == [True]


def test_an_accounts_rate_holds_whatever_the_address(rates):
    rates(Door.SECOND_FACTOR, account="2/d")
    account = secrets.token_hex(8)

    tried = [knock(Door.SECOND_FACTOR, address=fresh_address(), account=account) for _ in "abc"]

    assert [wait == 0 for wait in tried] == [True, True, False]


@pytest.mark.usefixtures("_local")
@pytest.mark.parametrize(("workers", "share"), [(1, 4), (2, 2), (8, 1)])
def test_without_redis_a_process_grants_its_share(own_redis, settings, rates, workers, share):
    rates(Door.SIGN_UP, address="4/h")
    settings.WEB_WORKERS = workers
    doors_cache = {**settings.CACHES["doors"], "LOCATION": own_redis.url}
    settings.CACHES = {**settings.CACHES, "doors": doors_cache}
    address = fresh_address()
    assert knock(Door.SIGN_UP, address=address) == 0
    own_redis.stop()

    answers = admitted(6, Door.SIGN_UP, address=address)

    assert answers == [True] * share + [False] * (6 - share)
    assert 3500 < knock(Door.SIGN_UP, address=address) <= 3600


@pytest.mark.usefixtures("_local")
def test_a_frozen_redis_holds_nobody_up_for_long(own_redis, settings, rates):
    rates(Door.SIGN_UP, address="1/h")
    doors_cache = {**settings.CACHES["doors"], "LOCATION": own_redis.url}
    settings.CACHES = {**settings.CACHES, "doors": doors_cache}
    own_redis.pause()
    try:
        assert admitted(2, Door.SIGN_UP, address=fresh_address()) == [True, False]
    finally:
        own_redis.resume()


def test_the_setting_leads_to_the_throttle():
    assert doors.seconds_to_wait(Door.LOGIN, address=fresh_address(), account="a") == 0
