"""Invites: who may make which, whom they admit, and that a place is taken once."""

from __future__ import annotations

import re
from datetime import timedelta
from smtplib import SMTPException

import pytest
from django.core import mail
from django.utils import timezone

from accounts.actors import SYSTEM, Actor, ActorKind, user_actor
from accounts.models import AuditEvent, Invite, Membership, OrganizationStatus, Role
from accounts.services import (
    InviteNotFound,
    InviteTerms,
    NotAPerson,
    RoleTooLow,
    TooMany,
    accept_invite,
    accept_invite_as,
    create_invite,
    find_by_token,
    resend_invite,
    revoke_invite,
)
from accounts.services import invites as module
from casola_site.core.errors import Conflict, InvalidRequest, PermissionDenied
from tests.factories.accounts import make_invite, make_member, make_organization, make_user
from tests.threads import at_once

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = timezone.now()
BASE = "https://casola.example"
LATER = NOW + timedelta(minutes=2)


def create(organization, by=SYSTEM, **terms):
    return create_invite(
        organization=organization, terms=InviteTerms(**terms), base_url=BASE, by=by, now=NOW
    )


def make_verified(email="ada@example.com", **columns):
    return make_user(email=email, email_verified_at=NOW, **columns)


# -- making -----------------------------------------------------------------------------------


@pytest.mark.parametrize("actor", [*Role.values, "stranger", "service account", "staff"])
@pytest.mark.parametrize("role", Role.values)
def test_who_may_invite_into_which_role(actor, role):
    organization = make_organization()
    by = {
        "service account": Actor(kind=ActorKind.TOKEN, id="tok_x"),
        "staff": SYSTEM,
        "stranger": user_actor(make_user()),
    }.get(actor) or user_actor(make_member(organization=organization, role=actor))
    if role == "disabled":
        with pytest.raises(InvalidRequest):
            create(organization, by, role=role, email="a@example.com")
    elif actor in ("owner", "staff") or (actor in ("admin", "service account") and role != "owner"):
        invite, _ = create(organization, by, role=role, email="a@example.com")
        assert (invite.role, invite.created_by_id) == (role, by.user_pk)
    else:
        with pytest.raises(RoleTooLow):
            create(organization, by, role=role, email="a@example.com")
        assert not Invite.objects.exists()


def test_the_row_holds_no_secret():
    invite, token = create(make_organization())

    assert re.fullmatch(r"csl_inv_[0-9A-Za-z]{36}", token)
    row = Invite.objects.values().get()
    assert not any(token in str(value) for value in row.values())
    assert (invite.status_at(NOW), invite.max_uses, invite.email) == ("open", 1, "")
    assert invite.expires_at == NOW + timedelta(days=7)
    event = AuditEvent.objects.get()
    assert (event.action, event.target) == ("invite.created", invite.public_id)
    assert token not in str(AuditEvent.objects.values().get())


@pytest.mark.parametrize(
    ("terms", "param"),
    [
        ({"email": "nobody"}, "email"),
        ({"email": "a@b.c\nBcc: x@example.com"}, "email"),
        ({"email": "a@example.com", "multi_use": True}, "multi_use"),
        ({"role": "root"}, "role"),
        ({"role": "owner"}, "role"),
        ({"max_uses": 2}, "max_uses"),
        ({"multi_use": True, "max_uses": 0}, "max_uses"),
        ({"multi_use": True, "max_uses": 10_001}, "max_uses"),
    ],
)
def test_terms_that_make_no_sense(terms, param):
    with pytest.raises(InvalidRequest) as refused:
        create(make_organization(), **terms)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert not Invite.objects.exists()


def test_an_address_is_invited_once():
    organization = make_organization()
    member = make_member(organization=organization)
    create(organization, email="Ada@Example.com")

    for email in ("ada@example.com", member.email.upper()):
        with pytest.raises(Conflict) as refused:
            create(organization, email=email)
        assert refused.value.param == "email"
    create(make_organization(), email="ada@example.com")
    revoke_invite(
        organization=organization,
        invite_id=organization.invites.get().public_id,
        by=SYSTEM,
        now=NOW,
    )
    assert create(organization, email="ada@example.com")[0].email == "ada@example.com"


def test_an_organization_has_so_many_open_at_most(monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    organization = make_organization()
    make_invite(organization=organization, expires_at=NOW)
    first, _ = create(organization)
    create(organization)
    with pytest.raises(TooMany):
        create(organization)
    revoke_invite(organization=organization, invite_id=first.public_id, by=SYSTEM, now=NOW)
    create(organization)


# -- mail -------------------------------------------------------------------------------------


def test_an_address_gets_the_link(django_capture_on_commit_callbacks):
    organization = make_organization(name='A <b> & "Co"')
    owner = user_actor(make_member(organization=organization))
    with django_capture_on_commit_callbacks(execute=True):
        invite, token = create(organization, owner, email="ada@example.com")

    [letter] = mail.outbox
    assert (letter.to, letter.subject) == (["ada@example.com"], 'Join A <b> & "Co" on Casola')
    assert f"\n{BASE}/join/{token}\n" in letter.body
    assert 'the organization "A <b> & "Co"" on Casola, with the role Member.' in letter.body
    assert letter.body.startswith(f"{owner.name} invites you to ")
    invite.refresh_from_db()
    assert invite.mailed_at == NOW


def test_a_link_is_not_mailed(django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        create(make_organization())
    assert mail.outbox == []


def test_a_failing_mail_server_fails_no_request(django_capture_on_commit_callbacks, monkeypatch):
    def fail(*_args, **_options):
        raise SMTPException

    monkeypatch.setattr(module, "send_mail", fail)
    with django_capture_on_commit_callbacks(execute=True):
        invite, _ = create(make_organization(), email="ada@example.com")
    invite.refresh_from_db()
    assert (invite.mailed_at, invite.status_at(NOW)) == (None, "open")


def test_nothing_is_mailed_for_what_was_rolled_back(django_capture_on_commit_callbacks):
    organization = make_organization()
    with django_capture_on_commit_callbacks(execute=True):
        create(organization, email="ada@example.com")
        with pytest.raises(Conflict):
            create(organization, email="ada@example.com")
    assert len(mail.outbox) == 1


def test_sending_again_makes_a_new_link(django_capture_on_commit_callbacks):
    organization = make_organization()
    with django_capture_on_commit_callbacks(execute=True):
        invite, old = create(organization, email="ada@example.com")

    def again(now, by=SYSTEM):
        with django_capture_on_commit_callbacks(execute=True):
            return resend_invite(
                organization=organization,
                invite_id=invite.public_id,
                base_url=BASE,
                by=by,
                now=now,
            )

    with pytest.raises(Conflict, match="less than a minute"):
        again(NOW + timedelta(seconds=59))
    late = NOW + timedelta(days=8)
    row, token = again(late)

    assert (row.pk, row.expires_at) == (invite.pk, late + timedelta(days=7))
    assert [len(mail.outbox), token in mail.outbox[1].body] == [2, True]
    with pytest.raises(InviteNotFound):
        find_by_token(token=old, now=late)
    assert find_by_token(token=token, now=late) == invite
    revoke_invite(organization=organization, invite_id=invite.public_id, by=SYSTEM, now=late)
    with pytest.raises(Conflict, match="revoked"):
        again(late + timedelta(days=1))


def test_an_admin_cannot_handle_an_owners_invite():
    """Sending it again would show the Admin a link that makes an Owner."""
    organization = make_organization()
    admin = user_actor(make_member(organization=organization, role=Role.ADMIN))
    invite, _ = create(organization, email="ada@example.com", role="owner")
    where = {"organization": organization, "invite_id": invite.public_id, "by": admin, "now": NOW}
    with pytest.raises(RoleTooLow):
        resend_invite(**where, base_url=BASE)
    with pytest.raises(RoleTooLow):
        revoke_invite(**where)


@pytest.mark.parametrize("invite_id", ["", "inv_ghost", "x" * 5000, "a\x00b"])
def test_an_odd_or_foreign_id_is_no_invite(invite_id):
    organization = make_organization()
    foreign, _ = create(make_organization())
    for wanted in (invite_id, foreign.public_id):
        with pytest.raises(InviteNotFound):
            revoke_invite(organization=organization, invite_id=wanted, by=SYSTEM, now=NOW)
    foreign.refresh_from_db()
    assert foreign.revoked_at is None


# -- accepting --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["admin", "member", "viewer"])
def test_a_link_makes_a_member(role):
    organization = make_organization()
    invite, token = create(organization, role=role)
    user = make_user()

    membership = accept_invite(token=token, user=user, now=NOW)

    assert (membership.organization, membership.user, membership.role) == (organization, user, role)
    invite.refresh_from_db()
    assert (invite.uses, invite.status_at(NOW)) == (1, "used")
    event = AuditEvent.objects.get(action="invite.accepted")
    assert (event.actor_id, event.data) == (
        user.public_id, {"invite": invite.public_id, "role": role}
    )  # fmt: skip
    with pytest.raises(InviteNotFound):
        accept_invite(token=token, user=make_user(), now=NOW)


def test_accepting_twice_is_harmless():
    organization = make_organization()
    invite, token = create(organization, multi_use=True, max_uses=2)
    user, owner = make_user(), make_member(organization=organization)

    first = accept_invite(token=token, user=user, now=NOW)
    for now in (NOW, NOW + timedelta(days=30)):
        assert accept_invite(token=token, user=user, now=now) == first
        assert accept_invite(token=token, user=owner, now=now).role == "owner"

    invite.refresh_from_db()
    assert invite.uses == 1
    assert organization.memberships.count() == 2


def test_a_disabled_member_is_not_revived():
    organization = make_organization()
    invite, token = create(organization)
    user = make_member(organization=organization, role=Role.DISABLED)

    with pytest.raises(RoleTooLow):
        accept_invite(token=token, user=user, now=NOW)

    assert organization.memberships.get().role == "disabled"
    invite.refresh_from_db()
    assert invite.uses == 0


@pytest.mark.parametrize("why", ["revoked", "expired", "used", "suspended", "resent", "inactive"])
def test_what_no_longer_opens(why):
    organization = make_organization()
    invite, token = create(organization)
    now, user = NOW, make_user()
    if why == "revoked":
        revoke_invite(organization=organization, invite_id=invite.public_id, by=SYSTEM, now=NOW)
    elif why == "expired":
        now = NOW + timedelta(days=7)
    elif why == "used":
        accept_invite(token=token, user=make_user(), now=NOW)
    elif why == "suspended":
        organization.status = OrganizationStatus.SUSPENDED
        organization.save()
    elif why == "resent":
        Invite.objects.update(token_hash="0" * 64)
    else:
        user = make_user(is_active=False)

    with pytest.raises(InviteNotFound):
        accept_invite(token=token, user=user, now=now)

    assert not Membership.objects.filter(user=user).exists()
    if why != "inactive":
        with pytest.raises(InviteNotFound):
            find_by_token(token=token, now=now)


@pytest.mark.parametrize("token", ["", "csl_inv_", "x" * 44, "csl_inv_" + "a" * 36, "a\x00", "é"])
def test_an_unknown_token(token):
    with pytest.raises(InviteNotFound):
        accept_invite(token=token, user=make_user(), now=NOW)


def test_a_mailed_invite_is_for_that_verified_address():
    organization = make_organization()
    _, token = create(organization, email="Ada@Example.com")
    for user in (make_user(email="ada@example.com"), make_verified("eve@example.com")):
        with pytest.raises(PermissionDenied):
            accept_invite(token=token, user=user, now=NOW)
        user.delete()
    assert not organization.memberships.exists()

    assert accept_invite(token=token, user=make_verified(), now=NOW).role == "member"


def test_a_service_account_accepts_nothing():
    _, token = create(make_organization())
    for by in (Actor(kind=ActorKind.TOKEN, id="tok_x"), SYSTEM):
        with pytest.raises(NotAPerson) as refused:
            accept_invite_as(token=token, by=by, now=NOW)
        assert refused.value.message == "A service account cannot accept an invite"


# -- at the same moment -----------------------------------------------------------------------


def accept_together(token, users):
    return at_once(
        [lambda user=user: accept_invite(token=token, user=user, now=LATER) for user in users]
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("options", "places"), [({}, 1), ({"multi_use": True, "max_uses": 7}, 7)])
def test_fifty_at_once_get_as_many_places_as_there_are(options, places):
    organization = make_organization()
    invite, token = create(organization, **options)

    results = accept_together(token, [make_user() for _ in range(50)])

    assert sum(isinstance(result, Membership) for result in results) == places
    assert sum(isinstance(result, InviteNotFound) for result in results) == 50 - places
    invite.refresh_from_db()
    assert organization.memberships.count() == invite.uses == places
    assert AuditEvent.objects.filter(action="invite.accepted").count() == places


@pytest.mark.django_db(transaction=True)
def test_fifty_clicks_of_one_person_make_one_member():
    organization = make_organization()
    invite, token = create(organization, multi_use=True)

    results = accept_together(token, [make_user()] * 50)

    assert {type(result) for result in results} == {Membership}
    assert len({result.pk for result in results}) == 1
    invite.refresh_from_db()
    assert (organization.memberships.count(), invite.uses) == (1, 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("_round", range(8))
def test_revoking_against_accepting_leaves_no_doubt(_round):
    organization = make_organization()
    invite, token = create(organization)

    accepted, revoked = at_once(
        [
            lambda: accept_invite(token=token, user=make_user(), now=LATER),
            lambda: revoke_invite(
                organization=organization, invite_id=invite.public_id, by=SYSTEM, now=LATER
            ),
        ]
    )

    assert revoked.revoked_at == LATER
    invite.refresh_from_db()
    is_member = isinstance(accepted, Membership)
    assert is_member or isinstance(accepted, InviteNotFound)
    assert organization.memberships.count() == invite.uses == is_member
