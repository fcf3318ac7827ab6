"""Settings of the Organization, another one, the audit page, and the page that joins one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from accounts.actors import Actor, ActorKind, user_actor
from accounts.models import Invite, Membership, Organization, Role
from accounts.services import Action, change_organization, record
from tests.factories.accounts import make_invite, make_member, make_organization
from tests.pages import Page, visitor

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


# -- settings ---------------------------------------------------------------------------------


def test_names_are_changed():
    owner = visitor(Role.OWNER)

    response = owner.post("/settings/organization", {"name": "New Name", "slug": "new-slug"})

    assert (response.status_code, response["Location"]) == (302, "/settings/organization")
    found = Organization.objects.get(pk=owner.organization.pk)
    assert (found.name, found.slug) == ("New Name", "new-slug")


@pytest.mark.parametrize(
    ("form", "field", "words"),
    [
        ({"name": "", "slug": "fine"}, "name", "This field is required."),
        ({"name": "x" * 121, "slug": "fine"}, "name", "at most 120 characters"),
        ({"name": "Fine", "slug": "Not Fine"}, "slug", "slug must be 1 to 60 of a-z"),
        ({"name": "Fine", "slug": "taken"}, "slug", "The slug &#x27;taken&#x27; is taken"),
    ],
)
def test_names_that_cannot_be(form, field, words):
    owner = visitor(Role.OWNER)
    make_organization(slug="taken")

    response = owner.post("/settings/organization", form)

    page = Page(response.content.decode())
    assert response.status_code == 400
    assert words in page.text
    assert f"id_{field}_error" in page.ids
    assert Organization.objects.get(pk=owner.organization.pk).name == owner.organization.name


def test_a_member_sees_the_settings_without_the_form():
    member = visitor(Role.MEMBER)

    page = member.get("/settings/organization").content.decode()

    assert member.organization.public_id in page
    assert 'name="slug"' not in page


def test_the_plan_shows_its_limits():
    owner = visitor(Role.OWNER)
    plan = owner.organization.plan
    plan.api_requests_per_minute = 6000
    plan.save()

    page = owner.get("/settings/organization").content.decode()

    for words in ("6,000 per minute", "kept for 24 hours", "unlimited per minute"):
        assert words in page


def test_another_organization_is_made_and_entered():
    owner = visitor(Role.OWNER)

    response = owner.post("/organizations/new", {"name": "Second"}, follow=True)

    assert response.context["shell"].organization.name == "Second"
    made = Organization.objects.get(name="Second")
    assert Membership.objects.get(organization=made).role == Role.OWNER


def test_too_many_organizations_are_refused_in_the_form():
    owner = visitor(Role.OWNER)
    for _ in range(9):
        Membership.objects.create(
            organization=make_organization(), user=owner.user, role=Role.OWNER
        )

    response = owner.post("/organizations/new", {"name": "Eleventh"})

    assert response.status_code == 400
    assert "You own 10 organizations already" in response.content.decode()


# -- audit ------------------------------------------------------------------------------------


def note(organization, by, **details):
    return record(
        by=by,
        organization=organization,
        now=timezone.now(),
        **{"action": Action.ROLE_CHANGED, "target_name": "somebody", **details},
    )


def test_the_audit_shows_who_did_what_from_where():
    owner = visitor(Role.OWNER)
    by = user_actor(owner.user, ip="203.0.113.7")
    note(owner.organization, by, data={"old": "member", "new": "admin"})
    note(make_organization(), by, target_name="elsewhere")

    page = owner.get("/settings/audit").content.decode()

    for words in (owner.user.email, "member.role_changed", "member → admin", "203.0.113.7"):
        assert words in page
    assert "elsewhere" not in page


def test_the_audit_does_not_name_support_staff():
    owner = visitor(Role.OWNER)
    staff = Actor(kind=ActorKind.STAFF, id="user_s", name="staff@casola.example", ip="10.0.0.1")
    note(owner.organization, staff, reason="asked by phone")

    page = owner.get("/settings/audit").content.decode()

    assert "support" in page
    assert "asked by phone" in page
    assert "staff@casola.example" not in page
    assert "10.0.0.1" not in page


def test_the_audit_is_paged_and_filtered():
    owner = visitor(Role.OWNER)
    by = user_actor(owner.user)
    for number in range(60):
        note(owner.organization, by, target_name=f"target {number:02}")
    change_organization(organization=owner.organization, name="Renamed", by=by, now=timezone.now())

    first = owner.get("/settings/audit?action=member.role_changed")
    more = owner.get(
        f"/settings/audit?action=member.role_changed&after={first.context['next_after']}"
    )

    names = [event.target_name for page in (first, more) for event in page.context["events"]]
    assert names == [f"target {number:02}" for number in reversed(range(60))]
    assert more.context["next_after"] is None
    assert len(owner.get("/settings/audit?action=nonsense").context["events"]) == 50


def test_the_audit_asks_as_much_for_one_row_as_for_three(django_assert_num_queries):
    owner = visitor(Role.OWNER)
    note(owner.organization, user_actor(owner.user))
    owner.get("/settings/audit")

    for _ in range(2):
        with django_assert_num_queries(6):
            owner.get("/settings/audit")
        note(owner.organization, user_actor(owner.user))
        note(owner.organization, user_actor(owner.user))


# -- joining ----------------------------------------------------------------------------------


def test_a_stranger_is_shown_the_invite_and_two_doors():
    organization = make_organization(name="Engines")
    inviter = make_member(organization=organization)
    _, token = make_invite(organization=organization, role=Role.VIEWER, created_by=inviter)

    response = Client().get(f"/join/{token}")

    page = Page(response.content.decode())
    assert response.status_code == 200
    for words in ("Join Engines", inviter.email, "Viewer"):
        assert words in page.text
    assert f"/signup?next=%2Fjoin%2F{token}" in page.addresses
    assert f"/login?next=%2Fjoin%2F{token}" in page.addresses
    assert response["Referrer-Policy"] == "no-referrer"


def test_a_stranger_cannot_join():
    _, token = make_invite(organization=make_organization())

    response = Client().post(f"/join/{token}")

    assert response["Location"].startswith("/login?next=")
    assert Membership.objects.count() == 0


def test_one_post_joins_and_switches():
    guest = visitor(None)
    organization = make_organization(name="Engines")
    _, token = make_invite(organization=organization, role=Role.MEMBER, email=guest.user.email)

    assert "Join Engines" in guest.get(f"/join/{token}").content.decode()
    response = guest.post(f"/join/{token}")

    assert (response.status_code, response["Location"]) == (302, "/start")
    assert Membership.objects.get(user=guest.user).role == Role.MEMBER
    assert guest.get("/usage").context["shell"].organization == organization
    assert Invite.objects.get().uses == 1


def test_joining_twice_is_harmless():
    guest = visitor(Role.MEMBER)
    _, token = make_invite(organization=guest.organization, role=Role.ADMIN)

    assert "You are a member already" in guest.get(f"/join/{token}").content.decode()
    assert guest.post(f"/join/{token}")["Location"] == "/start"
    assert guest.refresh().role == Role.MEMBER
    assert Invite.objects.get().uses == 0


def test_a_wrong_address_is_explained_without_telling_the_right_one():
    guest = visitor(None)
    _, token = make_invite(organization=make_organization(), email="margaret@example.com")

    page = guest.get(f"/join/{token}").content.decode()
    response = guest.post(f"/join/{token}")

    assert "m…@example.com" in page
    assert "margaret@example.com" not in page
    assert (response.status_code, Membership.objects.count()) == (400, 0)
    assert "This invite is for another e-mail address" in response.content.decode()


def test_who_is_not_verified_confirms_first():
    guest = visitor(None, verified=False)
    _, token = make_invite(organization=make_organization())

    page = Page(guest.get(f"/join/{token}").content.decode())
    response = guest.post(f"/join/{token}")

    assert f"/verify?next=%2Fjoin%2F{token}" in page.addresses
    assert (response.status_code, Membership.objects.count()) == (400, 0)


def test_a_disabled_member_does_not_come_back():
    guest = visitor(Role.DISABLED)
    _, token = make_invite(organization=guest.organization)

    response = guest.post(f"/join/{token}")

    assert response.status_code == 400
    assert "Your membership of this organization is disabled" in response.content.decode()


def test_what_opens_nothing_looks_alike():
    organization = make_organization()
    past = timezone.now() - timedelta(minutes=1)
    tokens = [
        make_invite(organization=organization, **columns)[1]
        for columns in ({"expires_at": past}, {"revoked_at": past}, {"uses": 1})
    ]
    guest = visitor(None)

    pages = set()
    for token in [*tokens, "csl_inv_" + "x" * 36, "nonsense"]:
        for response in (guest.get(f"/join/{token}"), guest.post(f"/join/{token}")):
            assert response.status_code == 404
            pages.add(response.content.decode().partition("<main")[2].partition("</main>")[0])
    assert len(pages) == 1
