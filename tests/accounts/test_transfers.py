"""Handing over an ownership: offered by an Owner, accepted by the recipient, by nobody else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import IntegrityError
from django.utils import timezone

from accounts.actors import SYSTEM, Actor, ActorKind, user_actor
from accounts.models import AuditEvent, OwnershipTransfer, Role
from accounts.services import (
    MemberNotFound,
    NotAPerson,
    RoleTooLow,
    TransferNotFound,
    accept_transfer,
    change_role,
    end_transfer,
    find_open_transfer,
    offer_transfer,
)
from casola_site.core.errors import Conflict
from tests.factories.accounts import make_member, make_organization, make_transfer, make_user
from tests.threads import at_once

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = timezone.now()


def offer(organization, member, by, now=NOW):
    return offer_transfer(
        organization=organization, member_id=member.public_id, by=user_actor(by), now=now
    )


def accept(organization, by, now=NOW):
    return accept_transfer(organization=organization, by=user_actor(by), now=now)


def roles(organization):
    return dict(organization.memberships.values_list("user__email", "role"))


@pytest.fixture
def organization():
    return make_organization()


@pytest.fixture
def owner(organization):
    return make_member(organization=organization)


@pytest.mark.parametrize("role", ["admin", "member", "viewer"])
def test_an_ownership_goes_from_hand_to_hand(organization, owner, role):
    taker = make_member(organization=organization, role=role)

    offered = offer(organization, taker, owner)
    assert roles(organization) == {owner.email: "owner", taker.email: role}
    assert offered.expires_at == NOW + timedelta(days=7)
    accepted = accept(organization, taker)

    assert accepted == offered
    assert roles(organization) == {owner.email: "admin", taker.email: "owner"}
    events = AuditEvent.objects.order_by("pk").values_list("action", "target", "actor_id", "data")
    note = {"transfer": offered.public_id}
    assert list(events) == [
        ("transfer.offered", taker.public_id, owner.public_id, note),
        ("transfer.accepted", taker.public_id, taker.public_id, note),
        ("member.role_changed", taker.public_id, taker.public_id, {"old": role, "new": "owner"}),
        ("member.role_changed", owner.public_id, taker.public_id, {"old": "owner", "new": "admin"}),
    ]
    with pytest.raises(TransferNotFound):
        accept(organization, taker)


def test_another_owner_stays_owner(organization, owner):
    other = make_member(organization=organization)
    taker = make_member(organization=organization, role=Role.MEMBER)
    offer(organization, taker, owner)
    accept(organization, taker)
    assert roles(organization) == {
        owner.email: "admin", other.email: "owner", taker.email: "owner"
    }  # fmt: skip


@pytest.mark.parametrize("role", [role for role in Role.values if role != "owner"])
def test_only_an_owner_offers(organization, owner, role):
    by = make_member(organization=organization, role=role)
    with pytest.raises(RoleTooLow):
        offer(organization, make_member(organization=organization, role="member"), by)
    with pytest.raises(RoleTooLow):
        offer(organization, owner, make_user())


def test_a_service_account_neither_gives_nor_takes(organization, owner):
    member = make_member(organization=organization, role=Role.MEMBER)
    robot = Actor(kind=ActorKind.TOKEN, id="tok_x")
    for by in (robot, SYSTEM):
        with pytest.raises(NotAPerson):
            offer_transfer(organization=organization, member_id=member.public_id, by=by, now=NOW)
    offer(organization, member, owner)
    with pytest.raises(NotAPerson):
        accept_transfer(organization=organization, by=robot, now=NOW)
    with pytest.raises(RoleTooLow):
        end_transfer(organization=organization, by=robot, now=NOW)


@pytest.mark.parametrize("role", ["owner", "disabled"])
def test_some_cannot_take_it(organization, owner, role):
    with pytest.raises(Conflict) as refused:
        offer(organization, make_member(organization=organization, role=role), owner)
    assert refused.value.param == "member_id"
    with pytest.raises(MemberNotFound):
        offer(organization, make_user(), owner)


def test_one_offer_at_a_time_until_it_expires(organization, owner):
    one, other = (make_member(organization=organization, role="member") for _ in range(2))
    first = offer(organization, one, owner)
    with pytest.raises(Conflict, match="pending already"):
        offer(organization, other, owner)
    late = NOW + timedelta(days=7)
    with pytest.raises(TransferNotFound):
        accept(organization, one, late)
    with pytest.raises(TransferNotFound):
        find_open_transfer(organization=organization, now=late)

    offer(organization, other, owner, late)

    first.refresh_from_db()
    assert first.status == "cancelled"
    with pytest.raises(TransferNotFound):
        accept(organization, one, late)


@pytest.mark.parametrize("role", [*Role.values, "stranger"])
def test_only_the_recipient_accepts(organization, owner, role):
    taker = make_member(organization=organization, role=Role.MEMBER)
    offer(organization, taker, owner)
    by = make_user() if role == "stranger" else make_member(organization=organization, role=role)
    for other in (by, owner):
        with pytest.raises(TransferNotFound):
            accept(organization, other)
    assert roles(organization)[owner.email] == "owner"


@pytest.mark.parametrize("who", ["giver", "taker", "owner", "admin", "member"])
def test_who_ends_it(organization, who):
    make_member(organization=organization)
    transfer = make_transfer(organization=organization)
    by = {"giver": transfer.from_user, "taker": transfer.to_user}.get(who) or make_member(
        organization=organization, role=who
    )
    ending = {"organization": organization, "by": user_actor(by), "now": NOW}
    if who in ("admin", "member"):
        with pytest.raises(RoleTooLow):
            end_transfer(**ending)
        return
    assert end_transfer(**ending).status == ("declined" if who == "taker" else "cancelled")
    with pytest.raises(TransferNotFound):
        accept(organization, transfer.to_user)


def test_an_offer_of_a_former_owner_is_void(organization, owner):
    other, taker = (
        make_member(organization=organization),
        make_member(organization=organization, role=Role.MEMBER),
    )
    offer(organization, taker, owner)
    change_role(
        organization=organization,
        member_id=owner.public_id,
        role="member",
        by=user_actor(other),
        now=NOW,
    )
    with pytest.raises(TransferNotFound):
        accept(organization, taker)


def test_the_database_keeps_one_pending_offer(organization):
    make_transfer(organization=organization)
    with pytest.raises(IntegrityError):
        make_transfer(organization=organization)


@pytest.mark.django_db(transaction=True)
def test_cancelling_against_accepting_leaves_one_owner_or_the_other():
    for _ in range(6):
        organization = make_organization()
        transfer = make_transfer(organization=organization)
        results = at_once(
            [
                lambda organization=organization, taker=transfer.to_user: accept(
                    organization, taker
                ),
                lambda organization=organization, giver=transfer.from_user: end_transfer(
                    organization=organization, by=user_actor(giver), now=NOW
                ),
            ]
        )
        assert sum(isinstance(result, OwnershipTransfer) for result in results) == 1
        transfer.refresh_from_db()
        new = transfer.status == "accepted"
        assert roles(organization) == {
            transfer.from_user.email: "admin" if new else "owner",
            transfer.to_user.email: "owner" if new else "member",
        }
