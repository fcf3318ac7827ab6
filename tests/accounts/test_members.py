"""Roles and removal: an Organization always keeps an Owner, and nobody acts above their role."""

from __future__ import annotations

import pytest
from django.utils import timezone

from accounts.actors import SYSTEM, Actor, ActorKind, user_actor
from accounts.models import AuditEvent, Membership, Role
from accounts.services import (
    LastOwner,
    MemberNotFound,
    RoleTooLow,
    change_role,
    remove_member,
)
from casola_site.core.errors import AuthenticationFailed, InvalidRequest
from tests.factories.accounts import (
    make_invite,
    make_member,
    make_organization,
    make_transfer,
    make_user,
)
from tests.factories.tokens import make_token
from tests.threads import at_once
from tokens import identity, keys

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = timezone.now()
SERVICE_ACCOUNT = Actor(kind=ActorKind.TOKEN, id="tok_x")


def change(organization, member, role, by):
    return change_role(
        organization=organization,
        member_id=member.public_id,
        role=role,
        by=by if isinstance(by, Actor) else user_actor(by),
        now=NOW,
    )


def remove(organization, member, by):
    return remove_member(
        organization=organization,
        member_id=member.public_id,
        by=by if isinstance(by, Actor) else user_actor(by),
        now=NOW,
    )


def role_of(organization, member) -> str | None:
    found = Membership.objects.filter(organization=organization, user=member).first()
    return found and found.role


# Who may turn whom into what: everything not named here is refused.
MAY = {
    (actor, old, new)
    for actor in ("owner", "admin", "service account", "staff")
    for old in Role.values
    for new in Role.values
    if actor in ("owner", "staff") or "owner" not in (old, new)
}


@pytest.mark.parametrize("actor", [*Role.values, "stranger", "service account", "staff"])
@pytest.mark.parametrize("old", Role.values)
def test_who_may_change_whom(actor, old):
    organization = make_organization()
    make_member(organization=organization)  # so that nobody below is the last Owner
    by = {
        "service account": SERVICE_ACCOUNT,
        "staff": SYSTEM,
        "stranger": make_user(),
    }.get(actor) or make_member(organization=organization, role=actor)

    for new in Role.values:
        member = make_member(organization=organization, role=old)
        if (actor, old, new) in MAY:
            assert change(organization, member, new, by).role == new
        else:
            with pytest.raises(RoleTooLow):
                change(organization, member, new, by)
        assert role_of(organization, member) == (new if (actor, old, new) in MAY else old)

    member = make_member(organization=organization, role=old)
    if (actor, old, "disabled") in MAY:
        remove(organization, member, by)
        assert role_of(organization, member) is None
    else:
        with pytest.raises(RoleTooLow):
            remove(organization, member, by)
        assert role_of(organization, member) == old


@pytest.mark.parametrize("role", [role for role in Role.values if role != "owner"])
def test_the_last_owner_stays_owner(role):
    organization = make_organization()
    owner = make_member(organization=organization)
    make_member(organization=organization, role=Role.ADMIN)
    make_member(organization=make_organization())

    for by in (owner, SYSTEM):
        with pytest.raises(LastOwner) as refused:
            change(organization, owner, role, by)
        assert (refused.value.status, refused.value.headers["x-should-retry"]) == (409, "false")
        with pytest.raises(LastOwner):
            remove(organization, owner, by)
    assert role_of(organization, owner) == "owner"
    assert not AuditEvent.objects.exists()


def test_an_owner_who_cannot_sign_in_does_not_count():
    organization = make_organization()
    owner, gone = (make_member(organization=organization) for _ in range(2))
    gone.is_active = False
    gone.save()

    with pytest.raises(LastOwner):
        change(organization, owner, "member", owner)
    remove(organization, gone, owner)
    assert role_of(organization, gone) is None


@pytest.mark.parametrize("role", ["owner", "admin", "member", "viewer"])
def test_anybody_may_leave(role):
    organization = make_organization()
    make_member(organization=organization)
    member = make_member(organization=organization, role=role)

    remove(organization, member, member)

    assert role_of(organization, member) is None


def test_a_disabled_member_cannot_leave_to_come_back():
    organization = make_organization()
    member = make_member(organization=organization, role=Role.DISABLED)
    with pytest.raises(RoleTooLow):
        remove(organization, member, member)


@pytest.mark.parametrize("member_id", ["", "user_ghost", "x" * 5000, "a\x00b", "é", "1"])
def test_nobody_of_that_id(member_id):
    organization = make_organization()
    owner = user_actor(make_member(organization=organization))
    with pytest.raises(MemberNotFound):
        change_role(
            organization=organization, member_id=member_id, role="viewer", by=owner, now=NOW
        )
    with pytest.raises(MemberNotFound):
        remove_member(organization=organization, member_id=member_id, by=owner, now=NOW)


def test_a_foreign_member_is_nobody():
    organization = make_organization()
    owner = make_member(organization=organization)
    stranger = make_member(organization=make_organization(), role=Role.MEMBER)
    with pytest.raises(MemberNotFound):
        change(organization, stranger, "viewer", owner)
    with pytest.raises(MemberNotFound):
        remove(organization, stranger, owner)


@pytest.mark.parametrize("role", ["", "Owner", "root", "owner "])
def test_an_unknown_role(role):
    organization = make_organization()
    owner = make_member(organization=organization)
    with pytest.raises(InvalidRequest) as refused:
        change(organization, owner, role, owner)
    assert refused.value.param == "role"


# -- effects ----------------------------------------------------------------------------------


def scopes(secret) -> set[str] | None:
    try:
        return set(identity.load(keys.digest(secret)).scopes)
    except AuthenticationFailed:
        return None


def test_a_role_caps_the_members_tokens_and_nobody_elses():
    organization = make_organization()
    owner, member = (make_member(organization=organization) for _ in range(2))
    _, mine = make_token(organization=organization, created_by=member, scopes=["admin:write"])
    _, others = make_token(organization=organization, created_by=owner, scopes=["admin:write"])
    _, service = make_token(organization=organization, scopes=["admin:write"])
    everything = {"user:read", "user:write", "admin:read", "admin:write"}

    for role, reach in (
        ("admin", everything),
        ("member", {"user:read", "user:write"}),
        ("viewer", {"user:read"}),
        ("disabled", None),
        ("member", {"user:read", "user:write"}),
    ):
        change(organization, member, role, owner)
        assert scopes(mine) == reach
        assert scopes(others) == scopes(service) == everything


@pytest.mark.parametrize("how", ["role", "remove"])
def test_a_change_renews_the_stamp(how, django_capture_on_commit_callbacks):
    organization = make_organization()
    owner = make_member(organization=organization)
    member = make_member(organization=organization, role=Role.MEMBER)
    _, secret = make_token(organization=organization, created_by=member)
    before = identity.load(keys.digest(secret)).stamp

    with django_capture_on_commit_callbacks(execute=True):
        if how == "role":
            change(organization, member, "viewer", owner)
        else:
            remove(organization, member, owner)

    _, other = make_token(organization=organization)
    assert identity.load(keys.digest(other)).stamp != before


def test_a_removed_members_tokens_stay_dead_when_they_return():
    organization = make_organization()
    owner = make_member(organization=organization)
    member = make_member(organization=organization, role=Role.MEMBER)
    token, secret = make_token(organization=organization, created_by=member)
    kept, _ = make_token(
        organization=organization, created_by=member, is_service_account=True, name="service"
    )

    remove(organization, member, owner)
    Membership.objects.create(organization=organization, user=member, role=Role.OWNER)

    assert scopes(secret) is None
    token.refresh_from_db()
    kept.refresh_from_db()
    assert (token.status, kept.status) == ("revoked", "active")
    assert set(AuditEvent.objects.values_list("action", flat=True)) == {
        "member.removed",
        "token.revoked",
    }


@pytest.mark.parametrize(
    ("role", "left"),
    [("owner", {"admin", "viewer"}), ("admin", {"admin", "viewer"}), ("member", set())],
)
def test_invites_do_not_outlive_the_power_to_make_them(role, left):
    """Else a demoted Admin would come back through a link of their own."""
    organization = make_organization()
    owner = make_member(organization=organization)
    member = make_member(organization=organization, role=Role.OWNER)
    for invited in ("admin", "viewer"):
        make_invite(organization=organization, created_by=member, role=invited)
    kept, _ = make_invite(organization=organization, created_by=owner, role="admin")
    grand, _ = make_invite(
        organization=organization, created_by=member, role="owner", email="a@example.com"
    )

    change(organization, member, role, owner)

    open_ones = organization.invites.filter(created_by=member, revoked_at=None).exclude(pk=grand.pk)
    assert set(open_ones.values_list("role", flat=True)) == left
    grand.refresh_from_db()
    kept.refresh_from_db()
    assert (grand.revoked_at is None) == (role == "owner")
    assert kept.revoked_at is None


@pytest.mark.parametrize("whose", ["from_user", "to_user"])
@pytest.mark.parametrize("how", ["disable", "remove"])
def test_a_transfer_ends_with_the_power_to_carry_it(whose, how):
    organization = make_organization()
    make_member(organization=organization)
    transfer = make_transfer(organization=organization)

    if how == "disable":
        change(organization, getattr(transfer, whose), "disabled", SYSTEM)
    else:
        remove(organization, getattr(transfer, whose), SYSTEM)

    transfer.refresh_from_db()
    assert transfer.status == "cancelled"


def test_the_audit_tells_old_and_new():
    organization = make_organization()
    owner = make_member(organization=organization)
    member = make_member(organization=organization, role=Role.MEMBER)

    change(organization, member, "admin", owner)
    change(organization, member, "admin", owner)  # nothing changes, nothing is told
    remove(organization, member, owner)

    rows = AuditEvent.objects.order_by("pk").values_list(
        "action", "actor_kind", "actor_id", "target", "target_name", "data"
    )
    who = ("user", owner.public_id, member.public_id, member.email)
    assert list(rows) == [
        ("member.role_changed", *who, {"old": "member", "new": "admin"}),
        ("member.removed", *who, {"role": "admin"}),
    ]


def test_the_audit_tells_what_a_change_of_roles_ends():
    organization = make_organization()
    owner = make_member(organization=organization)
    going = make_member(organization=organization)
    taker = make_member(organization=organization, role=Role.MEMBER)
    transfer = make_transfer(organization=organization, from_user=going, to_user=taker)
    mine, _ = make_invite(organization=organization, created_by=going)
    make_invite(organization=organization, created_by=going, revoked_at=NOW)
    make_invite(organization=organization, created_by=going, expires_at=NOW)
    make_invite(organization=organization, created_by=owner)
    token, _ = make_token(organization=organization, created_by=going)

    remove(organization, going, owner)

    rows = AuditEvent.objects.values_list("action", "target", "actor_id")
    assert set(rows) == {
        ("invite.revoked", mine.public_id, owner.public_id),
        ("transfer.cancelled", taker.public_id, owner.public_id),
        ("token.revoked", token.public_id, owner.public_id),
        ("member.removed", going.public_id, owner.public_id),
    }
    transfer.refresh_from_db()
    assert transfer.status == "cancelled"
    told = AuditEvent.objects.exclude(reason="").values_list("action", flat=True)
    assert set(told) == {"invite.revoked", "transfer.cancelled"}


# -- at the same moment -----------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["demote", "disable", "remove", "mixed"])
def test_two_owners_cannot_both_go_at_once(how):
    """Each round, all Owners are taken down together by each other: one is always left."""
    for _ in range(5):
        organization = make_organization()
        owners = [make_member(organization=organization) for _ in range(4)]

        def go(number, organization=organization, owners=owners):
            target, by = owners[number], owners[(number + 1) % 4]
            kind = how if how != "mixed" else ("demote", "disable", "remove", "leave")[number]
            if kind == "remove":
                return remove(organization, target, by)
            if kind == "leave":
                return remove(organization, target, target)
            return change(organization, target, "admin" if kind == "demote" else "disabled", by)

        results = at_once([lambda number=number: go(number) for number in range(4)])

        left = Membership.objects.filter(organization=organization, role=Role.OWNER).count()
        assert left >= 1
        refused = [result for result in results if isinstance(result, Exception)]
        assert all(isinstance(error, LastOwner | RoleTooLow) for error in refused), refused
        assert left == len(refused)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("_round", range(5))
def test_an_admin_demoted_at_the_same_moment_does_not_act_afterwards(_round):
    """The actor's role is read under the lock: one of the two orders happened, nothing between."""
    organization = make_organization()
    owner = make_member(organization=organization)
    admin = make_member(organization=organization, role=Role.ADMIN)
    member = make_member(organization=organization, role=Role.MEMBER)

    demoted, acted = at_once(
        [
            lambda: change(organization, admin, "viewer", owner),
            lambda: change(organization, member, "admin", admin),
        ]
    )

    assert demoted.role == "viewer"
    order = list(AuditEvent.objects.filter(organization=organization).order_by("pk"))
    if isinstance(acted, RoleTooLow):
        assert [row.target for row in order] == [admin.public_id]
    else:
        assert [row.target for row in order] == [member.public_id, admin.public_id]
