"""Creating an Organization with its Owner."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from accounts.models import Membership, Organization, Plan, User
from accounts.services import create_organization
from casola_site.core.errors import InvalidRequest
from tests.factories.accounts import make_plan, make_user
from tests.threads import at_once
from tokens import keys
from tokens.models import ApiToken

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


@pytest.fixture
def plan():
    return make_plan(code="test")


def create(name="Ada & Co", owner_email="ada@example.com", plan_code="test"):
    return create_organization(name=name, plan_code=plan_code, owner_email=owner_email)


def test_an_organization_has_one_owner(plan):
    organization, user = create()

    assert (organization.name, organization.slug, organization.plan) == ("Ada & Co", "ada-co", plan)
    assert (organization.status, organization.is_system) == ("active", False)
    assert organization.public_id.startswith("org_")
    assert Membership.objects.values_list("organization", "user", "role").get() == (
        organization.pk, user.pk, "owner"
    )  # fmt: skip
    assert not user.has_usable_password()


@pytest.mark.usefixtures("plan")
def test_a_known_owner_is_found_without_case():
    user = make_user(email="ada@example.com")

    assert create(owner_email=" ADA@Example.com ")[1] == user
    assert User.objects.count() == 1


@pytest.mark.usefixtures("plan")
def test_equal_names_get_different_slugs():
    slugs = {create()[0].slug for _ in range(5)}
    assert len(slugs) == 5


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("name", ["日本語", "!!!", "x" * 120])
def test_any_name_gets_a_slug(name):
    assert 0 < len(create(name=name)[0].slug) <= 60


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"plan_code": "gold"}, "plan"),
        ({"owner_email": ""}, "owner_email"),
        ({"owner_email": "nobody"}, "owner_email"),
        ({"owner_email": "a@b.c\x00"}, "owner_email"),
        ({"name": ""}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"name": "a\x00b"}, "name"),
    ],
)
def test_wrong_values_create_nothing(wrong, param):
    with pytest.raises(InvalidRequest) as refused:
        create(**wrong)

    assert refused.value.param == param
    assert not Organization.objects.exists()
    assert not User.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("plan")
def test_the_same_name_at_the_same_moment():
    results = at_once([lambda n=n: create(owner_email=f"u{n}@example.com") for n in range(6)])

    assert [result for result in results if isinstance(result, Exception)] == []
    assert Organization.objects.count() == User.objects.count() == 6


@pytest.mark.usefixtures("plan")
def test_the_command_prints_one_secret(capsys):
    call_command("create_organization", name="Ada", plan="test", owner_email="ada@example.com")

    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    token = ApiToken.objects.get()
    assert keys.digest(answer["secret"]) == token.hash
    assert (token.scopes, answer["token_id"]) == (["admin:write"], token.public_id)


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("wrong", [{"plan": "gold"}, {"scopes": ["root"]}, {"owner_email": "no"}])
def test_the_command_creates_all_or_nothing(wrong):
    options = {"name": "Ada", "plan": "test", "owner_email": "ada@example.com", **wrong}
    with pytest.raises(CommandError):
        call_command("create_organization", **options)

    assert not Organization.objects.exists()
    assert not User.objects.exists()


def test_the_seeds_plans_and_their_caps():
    columns = (
        "code",
        "api_requests_per_minute",
        "job_submissions_per_minute",
        "max_running_jobs",
        "max_queued_jobs",
        "max_streams",
        "max_sockets",
        "storage_bytes",
        "retention_hours",
    )
    gb = 10**9
    assert set(Plan.objects.values_list(*columns)) == {
        ("free", 60, 10, 2, 100, 2, 5, gb, 24),
        ("pro", 600, 100, 20, 5_000, 20, 50, 50 * gb, 7 * 24),
        ("enterprise", 6_000, 1_000, 200, 50_000, 100, 500, 1_000 * gb, 30 * 24),
        ("unlimited", *[None] * 7, 30 * 24),
    }
