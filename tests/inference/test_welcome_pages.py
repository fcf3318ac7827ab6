"""Arriving: where signing in leads, the first key shown once, and whether the first call has come."""

from __future__ import annotations

import threading

import pytest
from django.db import connections
from django.utils import timezone

from accounts.models import AuditEvent, OrganizationStatus, Role
from casola_site.core import database
from tests.factories.accounts import make_organization, make_plan
from tests.factories.usage import make_consumption
from tests.pages import secrets_in, visitor
from tokens import keys
from tokens.models import ApiToken, TokenStatus
from usage.models import UsageRecord
from usage.services import record_usage

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


@pytest.fixture
def member():
    return visitor(Role.MEMBER)


@pytest.fixture
def with_database_threads():
    """The event loop's database threads give their connections back."""
    yield
    gate = threading.Barrier(database.THREADS)

    def close():
        gate.wait(timeout=60)
        connections.close_all()

    for done in [database._executor.submit(close) for _ in range(database.THREADS)]:
        done.result(timeout=60)


def use(client, **columns):
    record_usage([make_consumption(client.organization, **columns)])


# -- where signing in leads -------------------------------------------------------------------


def test_it_leads_to_the_first_call_until_there_was_one(member):
    assert member.get("/start")["Location"] == "/welcome"
    record_usage([make_consumption(make_organization())])
    assert member.get("/start")["Location"] == "/welcome"
    use(member)
    assert member.get("/start")["Location"] == "/usage"


def test_it_leads_a_viewer_and_a_suspended_organization_to_the_usage(member):
    assert visitor(Role.VIEWER).get("/start")["Location"] == "/usage"
    member.organization.status = OrganizationStatus.SUSPENDED
    member.organization.save()
    assert member.get("/start")["Location"] == "/usage"


# -- the key ----------------------------------------------------------------------------------


def test_the_first_visit_shows_a_key_and_later_ones_do_not(member):
    first = member.get("/welcome")
    again = member.get("/welcome")

    page = first.content.decode()
    (secret,) = secrets_in(page)
    token = ApiToken.objects.get()
    assert "no-store" in first["Cache-Control"]
    assert token.hash == keys.digest(secret)
    assert (token.created_by, token.is_onboarding) == (member.user, True)
    assert f"export CASOLA_API_KEY=<span data-secret>{secret}</span>" in page
    assert f"Authorization: Bearer <span data-secret>{secret}</span>" in page
    assert "curl http://testserver/openai/v1/chat/completions" in page
    assert secrets_in(again.content.decode()) == set()
    assert f"{token.prefix}…{token.last_four}" in again.content.decode()
    assert AuditEvent.objects.filter(action="token.issued").count() == 1


@pytest.mark.parametrize(
    "header",
    [{"sec-purpose": "prefetch;prerender"}, {"purpose": "prefetch"}, {"x-moz": "prefetch"}],
)
def test_fetching_ahead_makes_no_key(member, header):
    assert member.get("/welcome", headers=header).status_code == 200
    assert member.head("/welcome").status_code == 200
    assert ApiToken.objects.count() == 0
    assert len(secrets_in(member.get("/welcome").content.decode())) == 1


def test_a_suspended_organization_gets_no_key(member):
    member.organization.status = OrganizationStatus.SUSPENDED
    member.organization.save()

    assert member.get("/welcome").status_code == 200
    assert ApiToken.objects.count() == 0


def test_a_new_key_is_shown_in_its_own_answer_alone(member):
    (old,) = secrets_in(member.get("/welcome").content.decode())

    (new,) = secrets_in(member.post("/welcome/key").content.decode())

    assert new != old
    assert ApiToken.objects.get().hash == keys.digest(new)
    assert secrets_in(member.get("/welcome").content.decode()) == set()


# -- whether the call has come ----------------------------------------------------------------


def test_the_state_turns_with_the_first_request(member):
    record_usage([make_consumption(make_organization())])
    assert member.get("/welcome/status").json() == {"received": False, "request": None}
    assert "Waiting for your first request…" in member.get("/welcome").content.decode()

    use(member, units={"prompt_tokens": 3, "completion_tokens": 5})

    assert member.get("/welcome/status").json() == {
        "received": True,
        "request": {
            "at": int(
                UsageRecord.objects.get(organization=member.organization).created_at.timestamp()
            ),
            "model": "test/echo",
            "status": "completed",
            "prompt_tokens": 3,
            "completion_tokens": 5,
        },
    }
    page = member.get("/welcome").content.decode()
    assert "Request received: test/echo, completed" in page
    assert "Waiting for your first request" not in page


def test_the_state_is_cheap(member, django_assert_num_queries):
    for _ in range(3):
        use(member)
    member.get("/welcome/status")

    with django_assert_num_queries(4):
        member.get("/welcome/status")


# -- the test button --------------------------------------------------------------------------


def test_without_a_key_it_says_so(member):
    response = member.post("/welcome/test")

    assert response.status_code == 404
    assert "Make a key first" in response.content.decode()


def test_with_a_dead_key_it_says_so(member):
    member.get("/welcome")
    ApiToken.objects.update(status=TokenStatus.REVOKED, revoked_at=timezone.now())

    response = member.post("/welcome/test")

    assert response.status_code == 400
    assert "The key does not work any more" in response.content.decode()


def test_a_key_that_lost_its_scope_is_refused(member):
    member.get("/welcome")
    ApiToken.objects.update(scopes=["user:read"])

    response = member.post("/welcome/test")

    assert response.status_code == 403
    assert "insufficient_scope" in response.content.decode()


def test_a_model_that_is_not_there_is_named(member, with_database_threads):
    member.get("/welcome")

    response = member.post("/welcome/test")

    page = response.content.decode()
    assert response.status_code == 404
    assert "Qwen/Qwen3.5-4B" in page
    assert "model_not_found" in page
    assert response["x-request-id"] in page


def test_it_counts_against_the_plan(with_database_threads):
    plan = make_plan(job_submissions_per_minute=2)
    member = visitor(Role.MEMBER, make_organization(plan=plan))
    member.get("/welcome")

    statuses = [member.post("/welcome/test").status_code for _ in range(3)]

    assert statuses == [404, 404, 429]
