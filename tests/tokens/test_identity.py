"""Who a secret speaks for: cached in each process, yet never longer believed than it is true."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.test import RequestFactory
from django.utils import timezone

from accounts.models import Membership, Organization, OrganizationStatus, Role
from casola_site.core import redis
from casola_site.core.errors import AuthenticationFailed
from tests.factories.accounts import make_member, make_organization, make_plan
from tests.factories.tokens import make_token
from tests.threads import at_once
from tokens import identity, keys
from tokens.authentication import TokenAuthentication
from tokens.identity import Identity
from tokens.models import ApiToken
from tokens.services import revoke_token

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


class Process:
    """What one web process remembers."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.cache, self.organizations = identity._Cache(), type(identity._organization_of)()

    def ask(self, secret, address="127.0.0.1") -> Identity:
        """Authenticate a request with this process's memory."""
        self.monkeypatch.setattr(identity, "_cache", self.cache)
        self.monkeypatch.setattr(identity, "_organization_of", self.organizations)
        request = RequestFactory().get(
            "/", HTTP_AUTHORIZATION=f"Bearer {secret}", REMOTE_ADDR=address
        )
        request._request = request
        return TokenAuthentication().authenticate(request)[0]

    def refuses(self, secret, **where) -> bool:
        try:
            self.ask(secret, **where)
        except AuthenticationFailed:
            return True
        return False


@pytest.fixture
def processes(monkeypatch):
    return Process(monkeypatch), Process(monkeypatch)


def test_an_identity_says_what_the_rows_say(processes):
    plan = make_plan(api_requests_per_minute=60, job_submissions_per_minute=10, max_queued_jobs=100)
    organization = make_organization(plan=plan)
    owner = make_member(organization=organization)
    token, secret = make_token(
        organization=organization,
        created_by=owner,
        scopes=["admin:write"],
        allowed_models=["a", "b"],
    )

    found = processes[0].ask(secret)

    assert (found.token_pk, found.token_id) == (token.pk, token.public_id)
    assert (found.organization_pk, found.organization_id) == (
        organization.pk, organization.public_id
    )  # fmt: skip
    assert found.user_pk == owner.pk
    assert found.scopes == {"user:read", "user:write", "admin:read", "admin:write"}
    assert (found.api_requests_per_minute, found.job_submissions_per_minute) == (60, 10)
    assert found.max_queued_jobs == 100
    assert (found.may_use("a"), found.may_use("c")) == (True, False)


def test_a_second_request_asks_the_database_nothing(processes, django_assert_num_queries):
    _, secret = make_token()
    first = processes[0].ask(secret)

    with django_assert_num_queries(0):
        assert processes[0].ask(secret) == first


def test_an_unknown_secret_is_refused(processes):
    assert processes[0].refuses(keys.new_secret())


def test_the_cache_never_serves_another_token(processes):
    tokens = [make_token() for _ in range(20)]
    for _ in range(2):
        for token, secret in tokens:
            found = processes[0].ask(secret)
            assert (found.token_pk, found.organization_pk) == (token.pk, token.organization_id)


@pytest.mark.parametrize("change", ["revoked", "suspended", "role", "expired", "deleted"])
def test_the_end_of_a_token_counts_from_the_next_request_in_every_process(
    processes, change, django_capture_on_commit_callbacks
):
    organization = make_organization()
    owner = make_member(organization=organization)
    token, secret = make_token(organization=organization, created_by=owner)
    for process in processes:
        assert process.ask(secret).token_pk == token.pk

    with django_capture_on_commit_callbacks(execute=True):
        if change == "revoked":
            revoke_token(token=token, now=timezone.now())
        elif change == "suspended":
            Organization.objects.filter(pk=organization.pk).update(
                status=OrganizationStatus.SUSPENDED
            )
        elif change == "role":
            Membership.objects.filter(user=owner).update(role=Role.DISABLED)
        elif change == "expired":
            ApiToken.objects.filter(pk=token.pk).update(expires_at=timezone.now())
        else:
            token.delete()
    if change != "revoked":
        identity.invalidate(organization.public_id)

    assert [process.refuses(secret) for process in processes] == [True, True]
    assert [process.refuses(secret) for process in processes] == [True, True]


def test_a_smaller_role_narrows_the_tokens_at_once(processes):
    organization = make_organization()
    owner = make_member(organization=organization)
    _, secret = make_token(
        organization=organization, created_by=owner, scopes=["admin:write", "user:write"]
    )
    for process in processes:
        assert "admin:write" in process.ask(secret).scopes

    Membership.objects.filter(user=owner).update(role=Role.VIEWER)
    identity.invalidate(organization.public_id)

    for process in processes:
        assert process.ask(secret).scopes == {"user:read"}


def test_a_service_accounts_token_outlives_its_creator(processes):
    organization = make_organization()
    owner = make_member(organization=organization)
    _, secret = make_token(organization=organization, created_by=owner, is_service_account=True)
    Membership.objects.filter(user=owner).delete()

    assert processes[0].ask(secret).scopes == {"user:read", "user:write"}


def test_revoking_one_token_leaves_the_others(processes, django_capture_on_commit_callbacks):
    organization = make_organization()
    (token, secret), (kept, other) = (make_token(organization=organization) for _ in range(2))
    processes[0].ask(secret)
    processes[0].ask(other)

    with django_capture_on_commit_callbacks(execute=True):
        revoke_token(token=token, now=timezone.now())

    assert processes[0].refuses(secret)
    assert processes[0].ask(other).token_pk == kept.pk


def test_revoking_twice_keeps_the_first_moment():
    token, now = make_token()[0], timezone.now()

    revoke_token(token=token, now=now)
    again = revoke_token(token=token, now=now + timedelta(hours=1))

    assert (again.status, again.revoked_at) == ("revoked", now)


def test_a_token_expires_without_anybody_saying_so(processes, monkeypatch):
    token, secret = make_token(expires_at=timezone.now() + timedelta(seconds=5))
    processes[0].ask(secret)
    later = time.time() + 5.1
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setattr(timezone, "now", lambda: token.expires_at + timedelta(seconds=0.1))

    assert processes[0].refuses(secret)


def test_an_address_list_holds_also_for_a_cached_token(processes):
    _, secret = make_token(allowed_ips=["10.0.0.0/8", "::1"])

    assert processes[0].ask(secret, address="10.1.2.3")
    assert processes[0].ask(secret, address="::1")
    assert processes[0].refuses(secret, address="11.0.0.1")
    assert processes[0].refuses(secret, address="")


def test_an_empty_list_admits_no_address_and_no_model(processes):
    _, secret = make_token(allowed_ips=[])
    assert processes[0].refuses(secret)

    _, secret = make_token(allowed_models=[])
    assert not processes[0].ask(secret).may_use("a")


def test_a_stale_identity_is_read_again_under_the_same_checks(processes):
    token, secret = make_token(allowed_ips=["127.0.0.1"])
    processes[0].ask(secret)
    request = RequestFactory().get("/", HTTP_AUTHORIZATION=f"Bearer {secret}")
    request._request = request
    authentication = TokenAuthentication()
    assert authentication.reload(request) is request.auth is request.identity

    ApiToken.objects.filter(pk=token.pk).update(allowed_ips=["10.0.0.1"])

    with pytest.raises(AuthenticationFailed):
        authentication.reload(request)


# -- Redis forgets, goes and comes back ---------------------------------------------------------


def test_a_flush_of_redis_costs_a_look_and_revives_nothing(
    processes, own_redis, django_capture_on_commit_callbacks
):
    token, secret = make_token()
    process, late = processes
    process.ask(secret)
    late.ask(secret)
    redis.client().flushall()
    assert process.ask(secret).token_pk == token.pk

    with django_capture_on_commit_callbacks(execute=True):
        revoke_token(token=token, now=timezone.now())
    redis.client().flushall()

    assert process.refuses(secret)
    assert late.refuses(secret)


def test_without_redis_each_request_reads_the_database(processes, own_redis):
    token, secret = make_token()
    process = processes[0]
    process.ask(secret)
    own_redis.stop()
    assert process.ask(secret).token_pk == token.pk

    ApiToken.objects.filter(pk=token.pk).update(status="revoked")

    assert process.refuses(secret)
    own_redis.start()
    assert process.refuses(secret)


def test_a_revocation_while_redis_is_away_counts_when_it_is_back(
    processes, own_redis, django_capture_on_commit_callbacks
):
    token, secret = make_token()
    for process in processes:
        process.ask(secret)
    own_redis.stop()
    with django_capture_on_commit_callbacks(execute=True):
        revoke_token(token=token, now=timezone.now())
    own_redis.start()

    assert [process.refuses(secret) for process in processes] == [True, True]


@pytest.mark.django_db(transaction=True)
def test_many_first_requests_at_once_agree(processes):
    token, secret = make_token()

    found = at_once([lambda: processes[0].ask(secret)] * 12)

    assert {answer.token_pk for answer in found} == {token.pk}
    assert len({answer.stamp for answer in found}) == 1


@pytest.mark.django_db(transaction=True)
def test_a_token_whose_member_was_deleted_opens_nothing():
    organization = make_organization()
    owner = make_member(organization=organization)
    _, secret = make_token(organization=organization, created_by=owner)
    owner.delete()
    with pytest.raises(AuthenticationFailed):
        identity.load(keys.digest(secret))
