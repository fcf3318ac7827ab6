"""The members page: roles, removing, invites, ownership; what is refused shows at its field."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.core import mail
from django.utils import timezone

from accounts.models import (
    Invite,
    InviteStatus,
    Membership,
    OwnershipTransfer,
    Role,
    TransferStatus,
)
from tests.factories.accounts import (
    make_invite,
    make_member,
    make_organization,
    make_transfer,
    make_user,
)
from tests.factories.tokens import make_token
from tests.pages import Page, visitor

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


@pytest.fixture
def owner():
    return visitor(Role.OWNER)


def role_of(user, organization):
    found = Membership.objects.filter(user=user, organization=organization).first()
    return found.role if found else None


def once(client) -> str:
    return Page(client.get("/settings/members").content.decode()).fields["once"]


def links_in(text: str) -> set[str]:
    return set(re.findall(r"csl_inv_[0-9A-Za-z]{36}", text))


# -- roles ------------------------------------------------------------------------------------


def test_a_role_is_changed(owner):
    ada = make_member(organization=owner.organization, role=Role.MEMBER)

    response = owner.post(f"/settings/members/{ada.public_id}/role", {"role": "admin"}, follow=True)

    assert response.redirect_chain == [("/settings/members", 302)]
    assert f"{ada.email} is Admin now." in response.content.decode()
    assert role_of(ada, owner.organization) == Role.ADMIN


def test_the_last_owner_stays(owner):
    path = f"/settings/members/{owner.user.public_id}/role"

    response = owner.post(path, {"role": "member"})

    page = Page(response.content.decode())
    assert response.status_code == 400
    assert "The last Owner cannot be demoted, removed or disabled" in page.text
    assert f"wrong-{owner.user.public_id}" in page.ids
    assert f"wrong-{owner.user.public_id}" in page.described
    assert role_of(owner.user, owner.organization) == Role.OWNER


def test_an_admin_neither_makes_nor_changes_an_owner():
    admin = visitor(Role.ADMIN)
    boss = make_member(organization=admin.organization, role=Role.OWNER)
    ada = make_member(organization=admin.organization, role=Role.MEMBER)

    for user, role in ((boss, "member"), (ada, "owner")):
        response = admin.post(f"/settings/members/{user.public_id}/role", {"role": role})
        assert response.status_code == 400
        assert "Only an Owner may do this to an Owner" in response.content.decode()
    rows = {row.member.user: row for row in admin.get("/settings/members").context["rows"]}
    assert rows[boss].is_mine_to_change is False
    assert [value for value, _ in rows[ada].choices] == ["admin", "member", "viewer", "disabled"]


@pytest.mark.parametrize("role", ["king", ""])
def test_an_unknown_role_is_refused(owner, role):
    ada = make_member(organization=owner.organization, role=Role.MEMBER)

    response = owner.post(f"/settings/members/{ada.public_id}/role", {"role": role})

    assert response.status_code == 400
    assert "Choose one of the roles." in response.content.decode()


# -- removing ---------------------------------------------------------------------------------


def test_removing_asks_says_what_happens_and_does_it(owner):
    ada = make_member(organization=owner.organization, role=Role.MEMBER)
    token, _ = make_token(organization=owner.organization, created_by=ada)
    path = f"/settings/members/{ada.public_id}/remove"

    assert "Their own API tokens here are revoked for good" in owner.get(path).content.decode()
    wrong = owner.post(path, {"confirm": "somebody else"})
    assert (wrong.status_code, role_of(ada, owner.organization)) == (400, Role.MEMBER)
    assert "This is not “" in wrong.content.decode()
    done = owner.post(path, {"confirm": ada.email.upper()})

    assert (done.status_code, done["Location"]) == (302, "/settings/members")
    assert role_of(ada, owner.organization) is None
    token.refresh_from_db()
    assert token.status == "revoked"


def test_removing_the_last_owner_is_refused(owner):
    admin = visitor(Role.ADMIN, owner.organization)
    path = f"/settings/members/{owner.user.public_id}/remove"

    for who, words in ((owner, "The last Owner cannot"), (admin, "Only an Owner may")):
        response = who.post(path, {"confirm": owner.user.email})
        assert response.status_code == 400
        assert words in response.content.decode()


def test_leaving_asks_and_leads_on():
    member = visitor(Role.MEMBER)

    wrong = member.post("/settings/organization/leave", {"confirm": "no"})
    assert wrong.status_code == 400
    left = member.post("/settings/organization/leave", {"confirm": member.organization.name})

    assert (left.status_code, left["Location"]) == (302, "/start")
    assert role_of(member.user, member.organization) is None
    assert member.get("/start")["Location"] == "/organizations/new"


def test_the_last_owner_cannot_leave(owner):
    response = owner.post("/settings/organization/leave", {"confirm": owner.organization.name})

    assert response.status_code == 400
    assert "The last Owner cannot" in response.content.decode()


# -- invites ----------------------------------------------------------------------------------


def test_an_invite_by_mail(owner):
    response = owner.post(
        "/settings/members/invites",
        {"email": "Ada@Example.com", "role": "member", "once": once(owner)},
    )

    assert response.status_code == 200
    page = response.content.decode()
    (link,) = links_in(page)
    invite = Invite.objects.get()
    assert (invite.email, invite.role, invite.created_by) == (
        "ada@example.com",
        "member",
        owner.user,
    )
    assert owner.get(f"/join/{link}").context["invite"] == invite


def test_an_invite_is_mailed(owner, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        owner.post(
            "/settings/members/invites",
            {"email": "ada@example.com", "role": "viewer", "once": once(owner)},
        )

    (sent,) = mail.outbox
    assert sent.to == ["ada@example.com"]
    assert "http://testserver/join/csl_inv_" in sent.body


def test_a_link_for_several_is_shown_once(owner):
    form = {"role": "viewer", "multi_use": "on", "max_uses": "25", "once": once(owner)}

    first = owner.post("/settings/members/invites", form)
    again = owner.post("/settings/members/invites", form)

    assert len(links_in(first.content.decode())) == 1
    assert "no-store" in first["Cache-Control"]
    assert again.status_code == 200
    assert links_in(again.content.decode()) == set()
    assert "Its link was shown already" in again.content.decode()
    invite = Invite.objects.get()
    assert (invite.role, invite.multi_use, invite.max_uses) == ("viewer", True, 25)
    assert links_in(owner.get("/settings/members").content.decode()) == set()


@pytest.mark.parametrize(
    ("form", "field", "words"),
    [
        ({"email": "nobody", "role": "member"}, "email", "Enter a valid email address."),
        ({"role": "disabled"}, "role", "is not one of the available choices"),
        ({"role": "owner"}, "role", "An Owner is invited by e-mail address"),
        ({"role": "member", "max_uses": "3"}, "max_uses", "max_uses needs multi_use"),
        ({"role": "member", "multi_use": "on", "max_uses": "0"}, "max_uses", "greater than or"),
        (
            {"email": "a@example.com", "multi_use": "on", "role": "member"},
            "multi_use",
            "An invite to one address is for a single use",
        ),
    ],
)
def test_an_invite_that_makes_no_sense(owner, form, field, words):
    response = owner.post("/settings/members/invites", {**form, "once": once(owner)})

    page = Page(response.content.decode())
    assert response.status_code == 400
    assert words in page.text
    assert f"id_{field}_error" in page.ids
    assert f"#id_{field}" in page.addresses
    assert Invite.objects.count() == 0


def test_a_member_is_not_invited_again(owner):
    ada = make_member(organization=owner.organization)

    response = owner.post(
        "/settings/members/invites", {"email": ada.email, "role": "member", "once": once(owner)}
    )

    assert response.status_code == 400
    assert "This address belongs to a member already" in response.content.decode()


def test_an_admin_cannot_invite_an_owner():
    admin = visitor(Role.ADMIN)

    response = admin.post(
        "/settings/members/invites",
        {"email": "a@example.com", "role": "owner", "once": once(admin)},
    )

    assert (response.status_code, Invite.objects.count()) == (400, 0)


def test_a_new_link_ends_the_old_one(owner):
    invite, old = make_invite(organization=owner.organization)

    response = owner.post(f"/settings/members/invites/{invite.public_id}/resend")

    (new,) = links_in(response.content.decode())
    assert new != old
    assert owner.get(f"/join/{old}").status_code == 404
    assert owner.get(f"/join/{new}").status_code == 200


def test_sending_again_at_once_is_refused_on_the_page(owner):
    invite, _ = make_invite(
        organization=owner.organization, email="a@example.com", mailed_at=timezone.now()
    )

    response = owner.post(f"/settings/members/invites/{invite.public_id}/resend")

    assert response.status_code == 400
    assert "less than a minute ago" in response.content.decode()


def test_an_invite_is_revoked(owner):
    invite, token = make_invite(organization=owner.organization)

    response = owner.post(f"/settings/members/invites/{invite.public_id}/revoke")

    assert response["Location"] == "/settings/members"
    invite.refresh_from_db()
    assert invite.status_at(timezone.now()) == InviteStatus.REVOKED
    assert owner.get(f"/join/{token}").status_code == 404


# -- ownership --------------------------------------------------------------------------------


def test_an_ownership_is_offered_and_accepted(owner):
    heir = visitor(Role.MEMBER, owner.organization)
    path = f"/settings/members/{heir.user.public_id}/ownership"

    assert owner.post(path, {"confirm": "no"}).status_code == 400
    assert owner.post(path, {"confirm": heir.user.email})["Location"] == "/settings/organization"
    assert "offers you the ownership" in heir.get("/usage").content.decode()
    assert "Become Owner" in heir.get("/settings/organization").content.decode()
    assert "Become Owner" not in owner.get("/settings/organization").content.decode()
    assert heir.post("/settings/ownership/accept")["Location"] == "/settings/organization"

    assert role_of(heir.user, owner.organization) == Role.OWNER
    assert role_of(owner.user, owner.organization) == Role.ADMIN


@pytest.mark.parametrize(
    ("by", "ends_as"),
    [("heir", TransferStatus.DECLINED), ("owner", TransferStatus.CANCELLED)],
)
def test_an_offer_is_declined_or_taken_back(owner, by, ends_as):
    heir = visitor(Role.VIEWER, owner.organization)
    make_transfer(organization=owner.organization, from_user=owner.user, to_user=heir.user)

    response = {"heir": heir, "owner": owner}[by].post("/settings/ownership/end")

    assert response["Location"] == "/settings/organization"
    assert OwnershipTransfer.objects.get().status == ends_as
    assert role_of(heir.user, owner.organization) == Role.VIEWER


def test_a_second_offer_is_refused_in_the_form(owner):
    make_transfer(organization=owner.organization, from_user=owner.user)
    other = make_member(organization=owner.organization, role=Role.ADMIN)

    response = owner.post(
        f"/settings/members/{other.public_id}/ownership", {"confirm": other.email}
    )

    assert response.status_code == 400
    assert "A transfer of ownership is pending already" in response.content.decode()


def test_nobody_else_accepts_or_ends_an_offer(owner):
    make_transfer(organization=owner.organization, from_user=owner.user)
    other = visitor(Role.ADMIN, owner.organization)

    assert other.post("/settings/ownership/accept").status_code == 404
    assert other.post("/settings/ownership/end").status_code == 403
    assert OwnershipTransfer.objects.get().status == TransferStatus.PENDING


# -- the page ---------------------------------------------------------------------------------


def test_the_page_lists_members_and_open_invites(owner):
    ada = make_member(organization=owner.organization, role=Role.DISABLED)
    make_invite(organization=owner.organization, email="open@example.com")
    make_invite(
        organization=owner.organization,
        email="late@example.com",
        expires_at=timezone.now() - timedelta(days=1),
    )
    make_member(organization=make_organization())

    context = owner.get("/settings/members").context

    assert [row.member.user for row in context["rows"]] == [ada, owner.user]
    assert [invite.email for invite in context["invites"]] == ["open@example.com"]


def test_the_number_of_queries_does_not_grow(owner, django_assert_num_queries):
    def fill():
        make_invite(organization=owner.organization, created_by=make_user())
        make_member(organization=owner.organization)

    fill()
    owner.get("/settings/members")
    for _ in range(2):
        with django_assert_num_queries(7):
            owner.get("/settings/members")
        fill()
        fill()
