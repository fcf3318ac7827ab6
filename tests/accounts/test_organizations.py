"""Naming, choosing, opening and suspending Organizations, and what that does to their tokens."""

from __future__ import annotations

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from accounts.actors import SYSTEM, Actor, ActorKind, user_actor
from accounts.models import AuditEvent, Membership, Organization, Plan, Role
from accounts.selectors import current_membership, memberships_of
from accounts.services import (
    NotAPerson,
    RoleTooLow,
    SlugTaken,
    TooMany,
    change_organization,
    change_plan,
    open_organization,
    personal_organization,
    suspend_organization,
    switch_organization,
    unsuspend_organization,
)
from accounts.services.organizations import MAX_OWNED, SLUG, check_slug, free_slug
from casola_site.core.errors import AuthenticationFailed, InvalidRequest
from casola_site.core.tenancy import OrganizationNotFound
from tests.factories.accounts import make_member, make_organization, make_plan, make_user
from tests.factories.tokens import make_token
from tests.threads import at_once
from tokens import identity, keys

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = timezone.now()


@pytest.fixture(autouse=True)
def first_plan(db):
    """Tests that commit empty the tables afterwards, the migration's rows too."""
    Plan.objects.get_or_create(code="free", defaults={"name": "Free"})


def change(organization, by=SYSTEM, **columns):
    return change_organization(organization=organization, by=by, now=NOW, **columns)


def open_one(user, name="Second"):
    return open_organization(name=name, by=user_actor(user), now=NOW)


# -- names ------------------------------------------------------------------------------------


@given(st.text(max_size=200))
def test_every_name_gives_a_slug_of_the_right_form(name):
    slug = free_slug(name)
    assert check_slug(slug) == slug
    assert SLUG.fullmatch(slug)


@pytest.mark.parametrize("role", Role.values)
def test_owners_and_admins_rename(role):
    organization = make_organization(name="Old", slug="old")
    by = user_actor(make_member(organization=organization, role=role))
    if role in ("owner", "admin"):
        change(organization, by, name=" New ", slug="new-1")
        expected = ("New", "new-1")
        assert AuditEvent.objects.get().data == {
            "old": {"name": "Old", "slug": "old"},
            "new": {"name": "New", "slug": "new-1"},
        }
    else:
        with pytest.raises(RoleTooLow):
            change(organization, by, name="New")
        expected = ("Old", "old")
    organization.refresh_from_db()
    assert (organization.name, organization.slug) == expected


def test_the_slug_does_not_follow_the_name_and_nothing_is_told_of_nothing():
    organization = make_organization(name="Old", slug="old")
    change(organization, name="New")
    change(organization, name="New", slug="old")
    change(organization)
    organization.refresh_from_db()
    assert (organization.slug, AuditEvent.objects.count()) == ("old", 1)


@pytest.mark.parametrize("slug", ["", "A", "a_b", "-a", "a-", "a--b", "é", "a b", "a" * 61, "a\n"])
def test_a_slug_is_safe_in_an_address(slug):
    with pytest.raises(InvalidRequest) as refused:
        change(make_organization(), slug=slug)
    assert refused.value.param == "slug"


@pytest.mark.parametrize("name", ["", "  ", "x" * 121, "a\nb", "a\x00"])
def test_a_name_is_short_and_printable(name):
    with pytest.raises(InvalidRequest) as refused:
        change(make_organization(), name=name)
    assert refused.value.param == "name"


def test_a_taken_slug_is_a_conflict():
    make_organization(slug="taken")
    organization = make_organization(name="Old", slug="mine")
    with pytest.raises(SlugTaken):
        change(organization, slug="taken", name="New")
    organization.refresh_from_db()
    assert (organization.name, organization.slug) == ("Old", "mine")


@pytest.mark.django_db(transaction=True)
def test_one_of_many_gets_the_slug():
    organizations = [make_organization() for _ in range(6)]
    results = at_once([lambda one=one: change(one, slug="wanted") for one in organizations])
    assert sum(isinstance(result, SlugTaken) for result in results) == 5
    assert Organization.objects.filter(slug="wanted").count() == 1


# -- one's own --------------------------------------------------------------------------------


def test_a_personal_organization_is_made_once():
    user = make_user(email="ada@example.com", name="Ada\t Lovelace")

    made = personal_organization(user=user, now=NOW)
    assert personal_organization(user=user, now=NOW) == made

    assert (made.name, made.is_personal, made.plan.code) == ("Ada Lovelace", True, "free")
    assert Membership.objects.get().role == "owner"
    user.refresh_from_db()
    assert user.current_organization == made
    event = AuditEvent.objects.get()
    assert (event.action, event.actor_id) == ("organization.created", user.public_id)


def test_without_a_name_it_is_called_after_the_address():
    assert personal_organization(user=make_user(email="ada@x.org"), now=NOW).name == "ada"


@pytest.mark.django_db(transaction=True)
def test_two_sign_ups_at_once_make_one():
    user = make_user()
    made = at_once([lambda: personal_organization(user=user, now=NOW)] * 8)
    assert len({result.pk for result in made}) == 1


def test_a_user_opens_another():
    user = make_user()
    made = open_one(user)
    assert (made.plan.code, made.is_personal) == ("free", False)
    assert made.memberships.get().user == user


def test_only_people_own_organizations():
    for by in (Actor(kind=ActorKind.TOKEN, id="tok_x"), SYSTEM):
        with pytest.raises(NotAPerson):
            open_organization(name="x", by=by, now=NOW)
    assert not Organization.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_nobody_collects_free_allowances():
    user = make_user()
    for _ in range(MAX_OWNED - 2):
        open_one(user)
    results = at_once([lambda: open_one(user)] * 6)
    assert sum(isinstance(result, TooMany) for result in results) == 4
    assert user.memberships.filter(role="owner").count() == MAX_OWNED


def test_switching():
    user = make_user()
    assert current_membership(user) is None
    first, second = open_one(user), open_one(user)
    personal = personal_organization(user=user, now=NOW)
    assert [place.organization for place in memberships_of(user)] == [personal, first, second]
    user.refresh_from_db()
    assert current_membership(user).organization == personal

    switch_organization(user=user, organization=second)
    assert current_membership(type(user).objects.get(pk=user.pk)).organization == second

    Membership.objects.filter(organization=second).update(role=Role.DISABLED)
    assert current_membership(user).organization == personal
    for stranger in (make_organization(), second):
        with pytest.raises(OrganizationNotFound):
            switch_organization(user=user, organization=stranger)


# -- what support staff do --------------------------------------------------------------------


def opens(secret) -> bool:
    try:
        identity.load(keys.digest(secret))
    except AuthenticationFailed:
        return False
    return True


def test_a_suspension_closes_every_token_and_its_end_opens_them(
    django_capture_on_commit_callbacks,
):
    organization = make_organization()
    owner = make_member(organization=organization)
    secrets = [
        make_token(organization=organization)[1],
        make_token(organization=organization, created_by=owner)[1],
    ]
    _, other = make_token()
    stamp = identity.load(keys.digest(secrets[0])).stamp

    with django_capture_on_commit_callbacks(execute=True):
        for reason in ("abuse", "again"):
            suspended = suspend_organization(
                organization=organization, reason=reason, by=SYSTEM, now=NOW
            )
    assert [opens(secret) for secret in (*secrets, other)] == [False, False, True]
    assert (suspended.suspended_at, suspended.suspended_reason) == (NOW, "abuse")

    with django_capture_on_commit_callbacks(execute=True):
        back = unsuspend_organization(
            organization=organization, reason="settled", by=SYSTEM, now=NOW
        )
    assert [opens(secret) for secret in secrets] == [True, True]
    assert (back.suspended_at, back.suspended_reason) == (None, "")
    assert identity.load(keys.digest(secrets[0])).stamp != stamp
    assert list(AuditEvent.objects.order_by("pk").values_list("action", "reason")) == [
        ("organization.suspended", "abuse"),
        ("organization.unsuspended", "settled"),
    ]


def test_another_plan_counts_from_the_next_request_on(django_capture_on_commit_callbacks):
    organization = make_organization(plan=make_plan(code="old", api_requests_per_minute=1))
    make_plan(code="new", api_requests_per_minute=2)
    _, secret = make_token(organization=organization)
    assert identity.load(keys.digest(secret)).api_requests_per_minute == 1

    with django_capture_on_commit_callbacks(execute=True):
        for _ in range(2):
            change_plan(
                organization=organization, plan_code="new", reason="paid", by=SYSTEM, now=NOW
            )

    assert identity.load(keys.digest(secret)).api_requests_per_minute == 2
    event = AuditEvent.objects.get()
    assert (event.reason, event.data) == ("paid", {"old": "old", "new": "new"})


@pytest.mark.parametrize("service", [suspend_organization, unsuspend_organization, change_plan])
def test_only_staff_and_only_with_a_reason(service):
    organization = make_organization()
    more = {"plan_code": "free"} if service is change_plan else {}
    owner = user_actor(make_member(organization=organization))
    with pytest.raises(RoleTooLow):
        service(organization=organization, reason="x", by=owner, now=NOW, **more)
    with pytest.raises(InvalidRequest) as refused:
        service(organization=organization, reason=" ", by=SYSTEM, now=NOW, **more)
    assert refused.value.param == "reason"
