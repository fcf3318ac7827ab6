"""The plan's limits over a real Redis: exact, sliding, shared by an Organization's tokens."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from functools import partial

import pytest
from django.test import RequestFactory

from casola_site.core import redis
from casola_site.core.errors import RateLimited, Unavailable
from tests.factories.tokens import make_identity
from tests.threads import at_once
from tokens.identity import stamp_key
from usage import throttling
from usage.limits import UNLIMITED, LocalWindow, RateClass
from usage.throttling import PlanThrottle, StaleIdentity, admit, admit_async

pytestmark = pytest.mark.sqlite
API, SUBMISSION = RateClass.API_REQUEST, RateClass.JOB_SUBMISSION


def caller(**columns):
    """A caller of an Organization nobody has counted for yet."""
    return make_identity(organization_id=f"org_{secrets.token_hex(8)}", **columns)


def member_count(identity, rate_class=API) -> int:
    return redis.client().zcard(f"casola:rate:{identity.organization_id}:{rate_class}")


@pytest.fixture
def _local(monkeypatch):
    monkeypatch.setattr(throttling, "_local", LocalWindow())


def test_the_limit_is_exact_under_64_threads():
    identity = caller(api_requests_per_minute=60)
    calls = [partial(lambda n: [admit(identity, API) for _ in range(n)], 400 // 64)] * 64
    calls[:16] = [partial(lambda n: [admit(identity, API) for _ in range(n)], 7)] * 16

    decisions = [decision for done in at_once(calls) for decision in done]

    assert len(decisions) == 400
    admitted = [decision for decision in decisions if decision.admitted]
    assert sorted(decision.remaining for decision in admitted) == list(range(60))
    assert member_count(identity) == 60


def test_a_refused_request_does_not_consume():
    identity = caller(api_requests_per_minute=2)
    for _ in range(2):
        admit(identity, API)

    refused = [admit(identity, API) for _ in range(5)]

    assert {(d.admitted, d.limit, d.remaining) for d in refused} == {(False, 2, 0)}
    assert all(0 < d.reset_seconds <= 60 for d in refused)
    assert member_count(identity) == 2


def test_tokens_of_one_organization_share_its_limit():
    first = caller(api_requests_per_minute=3)
    second = make_identity(
        organization_id=first.organization_id, token_pk=2, api_requests_per_minute=3
    )

    remaining = [admit(identity, API).remaining for identity in (first, second, first)]

    assert remaining == [2, 1, 0]
    assert not admit(second, API).admitted


def test_organizations_and_classes_are_apart():
    identity = caller(api_requests_per_minute=1, job_submissions_per_minute=1)
    admit(identity, API)

    assert admit(identity, SUBMISSION).admitted
    assert admit(caller(api_requests_per_minute=1), API).admitted
    assert not admit(identity, API).admitted


def test_an_unlimited_plan_is_not_counted():
    identity = caller()

    assert [admit(identity, API) for _ in range(3)] == [UNLIMITED] * 3
    assert member_count(identity) == 0


def test_a_limit_of_nothing_admits_nothing():
    assert not admit(caller(api_requests_per_minute=0), API).admitted


def test_the_event_loop_draws_on_the_same_limit():
    identity = caller(api_requests_per_minute=5)
    admit(identity, API)

    async def storm():
        decisions = await asyncio.gather(*(admit_async(identity, API) for _ in range(30)))
        await redis.async_client().aclose()
        return decisions

    decisions = asyncio.run(storm())

    assert sum(decision.admitted for decision in decisions) == 4
    assert not admit(identity, API).admitted


def test_no_window_anywhere_admits_more_than_the_limit():
    """The script with its minute shortened to 0.3 s: Redis's clock cannot be moved."""
    window, limit, key = 0.3, 5, f"casola:rate:{secrets.token_hex(8)}"
    text = throttling.SCRIPT.replace("60000000", str(int(window * 1e6)))
    assert text.count(str(int(window * 1e6))) == throttling.SCRIPT.count("60000000") == 3
    script = redis.client().register_script(text)
    chance, moments, refused = random.Random(1), [], 0
    for _ in range(200):
        member = secrets.token_hex(8)
        state, remaining, wait = script(keys=[key, "none"], args=[limit, "", member])
        if state == 1:
            moments.append(redis.client().zscore(key, member))
            assert 0 <= remaining < limit
        else:
            refused += 1
            assert 0 < wait <= window * 1e6
        time.sleep(chance.choice([0, 0, 0, 0.005, 0.05, 0.1]))

    assert len(moments) > 4 * limit
    assert refused > limit
    pairs = zip(moments, moments[limit:], strict=False)
    assert min(later - first for first, later in pairs) > window * 1e6


def test_the_wait_in_a_refusal_is_enough():
    window, key = 0.2, f"casola:rate:{secrets.token_hex(8)}"
    script = redis.client().register_script(
        throttling.SCRIPT.replace("60000000", str(int(window * 1e6)))
    )
    script(keys=[key, "none"], args=[1, "", "first"])
    state, _, wait = script(keys=[key, "none"], args=[1, "", "second"])
    assert state == 0

    time.sleep(wait / 1e6 + 0.002)

    assert script(keys=[key, "none"], args=[1, "", "third"])[0] == 1


def test_what_redis_keeps_vanishes_by_itself():
    identity = caller(api_requests_per_minute=2)
    admit(identity, API)

    ttl = redis.client().pttl(f"casola:rate:{identity.organization_id}:{API}")

    assert 60_000 < ttl <= 61_000


def test_a_stale_stamp_counts_nothing():
    identity = caller(api_requests_per_minute=5, stamp="old")
    redis.client().set(stamp_key(identity.organization_id), "new")

    with pytest.raises(StaleIdentity):
        admit(identity, API)

    assert member_count(identity) == 0


def test_a_stamp_that_redis_forgot_is_stale():
    with pytest.raises(StaleIdentity):
        admit(caller(stamp="old"), API)


def test_the_present_stamp_is_believed():
    identity = caller(api_requests_per_minute=5, stamp="now")
    redis.client().set(stamp_key(identity.organization_id), "now")

    assert admit(identity, API).admitted


# -- Redis away -------------------------------------------------------------------------------


@pytest.mark.usefixtures("_local")
@pytest.mark.parametrize(("limit", "workers", "share"), [(60, 4, 15), (3, 4, 1), (0, 4, 0)])
def test_without_redis_each_process_grants_its_share(own_redis, settings, limit, workers, share):
    settings.WEB_WORKERS = workers
    identity = caller(api_requests_per_minute=limit)
    own_redis.stop()

    decisions = [admit(identity, API) for _ in range(20)]

    assert sum(decision.admitted for decision in decisions) == share


@pytest.mark.usefixtures("_local")
def test_the_limit_is_exact_again_when_redis_is_back(own_redis, settings):
    settings.WEB_WORKERS = 2
    identity = caller(api_requests_per_minute=4)
    assert admit(identity, API).remaining == 3

    own_redis.stop()
    assert [admit(identity, API).admitted for _ in range(4)] == [True, True, False, False]
    assert admit(caller(), API) == UNLIMITED

    own_redis.start()
    decisions = [admit(identity, API) for _ in range(6)]
    assert [decision.limit for decision in decisions] == [4] * 6
    assert sum(decision.admitted for decision in decisions) == 4


@pytest.mark.usefixtures("_local")
def test_a_frozen_redis_is_away_too(own_redis):
    identity = caller(api_requests_per_minute=4)
    admit(identity, API)
    own_redis.pause()
    try:
        started = time.monotonic()
        assert admit(identity, API).admitted
        assert time.monotonic() - started < 5
    finally:
        own_redis.resume()


def test_the_script_survives_a_flush_of_scripts():
    identity = caller(api_requests_per_minute=2)
    admit(identity, API)
    redis.client().script_flush()

    assert admit(identity, API).remaining == 0


# -- DRF's door -------------------------------------------------------------------------------


class View:
    rate_classes = {"POST": SUBMISSION}


class Reader:
    """Stands where TokenAuthentication does: each look gives the next identity."""

    def __init__(self, *identities):
        self.identities = list(identities)

    def reload(self, request):
        request.auth = self.identities.pop(0)
        return request.auth


def knock(identity, method="GET", *later):
    request = RequestFactory().generic(method, "/api/jobs")
    request.auth, request.authenticators = identity, [Reader(*later)]
    PlanThrottle().allow_request(request, View())
    return request


def test_the_view_names_the_class():
    identity = caller(api_requests_per_minute=9, job_submissions_per_minute=5)

    assert knock(identity, "POST").rate_decision.limit == 5
    assert knock(identity, "GET").rate_decision.limit == 9
    assert knock(identity, "DELETE").rate_decision.limit == 9


def test_the_refusal_is_the_seeds():
    identity = caller(api_requests_per_minute=1)
    knock(identity)

    with pytest.raises(RateLimited) as refused:
        knock(identity)

    error = refused.value
    assert (error.status, error.code, error.message) == (429, "rate_limit", "Rate limit exceeded")
    assert 1 <= int(error.headers["retry-after"]) <= 59
    assert error.headers["x-ratelimit-limit-requests"] == "1"
    assert error.headers["x-ratelimit-remaining-requests"] == "0"


def test_a_stale_identity_is_read_again():
    stale = caller(api_requests_per_minute=1, stamp="old")
    fresh = make_identity(organization_id=stale.organization_id, api_requests_per_minute=7)

    request = knock(stale, "GET", fresh)

    assert request.rate_decision.limit == 7
    assert request.auth is fresh


def test_an_identity_that_is_always_stale_is_an_orderly_503():
    stale = caller(stamp="old")
    with pytest.raises(Unavailable):
        knock(stale, "GET", *[stale] * 20)


def test_requests_that_wait_together_share_round_trips_and_are_all_counted():
    identity = caller(api_requests_per_minute=50)

    async def run():
        trips = throttling._shared_trips(redis.async_client())
        sizes, send = [], trips._send

        async def counted(group):
            sizes.append(len(group))
            return await send(group)

        trips._send = counted
        decisions = await asyncio.gather(*(admit_async(identity, API) for _ in range(80)))
        await redis.async_client().aclose()
        return sizes, [decision.admitted for decision in decisions]

    sizes, admitted = asyncio.run(run())

    assert sum(sizes) == 80
    assert len(sizes) <= 2
    assert admitted.count(True) == 50
    assert member_count(identity) == 50


def test_a_restarted_redis_is_given_the_script_again():
    identity = caller(api_requests_per_minute=5)

    async def run():
        await admit_async(identity, API)
        redis.client().script_flush()
        decision = await admit_async(identity, API)
        await redis.async_client().aclose()
        return decision

    assert asyncio.run(run()).remaining == 3
    assert member_count(identity) == 2


def test_a_caller_who_leaves_does_not_disturb_the_others():
    identity = caller(api_requests_per_minute=50)

    async def run():
        tasks = [asyncio.create_task(admit_async(identity, API)) for _ in range(10)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await redis.async_client().aclose()
        return answers

    answers = asyncio.run(run())

    assert isinstance(answers[3], asyncio.CancelledError)
    assert [answer.admitted for answer in answers if answer is not answers[3]] == [True] * 9
