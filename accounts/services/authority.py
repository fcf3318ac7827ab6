"""Whose role allows what inside an Organization, read under the Organization's lock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from django.db import transaction

from accounts.actors import Actor
from accounts.models import Membership, Organization, Role
from accounts.services.errors import LastOwner, MemberNotFound, RoleTooLow
from casola_site.core import stamps
from casola_site.core.ids import can_be_id

MANAGERS = frozenset({Role.OWNER, Role.ADMIN})


def lock(organization: Organization) -> Organization:
    """The Organization, read anew; who else changes its members waits until this commits.

    Rows that only refer to the Organization (jobs, tokens) are not held up.
    """
    return (
        Organization.objects.select_for_update(of=("self",), no_key=True)
        .select_related("plan")
        .get(pk=organization.pk)
    )


def lock_alone(organization: Organization) -> Organization:
    """`lock`, and nothing of it ends meanwhile: who writes a row of its ledger waits as well.

    To be taken before rows that belong to the Organization.
    """
    return (
        Organization.objects.select_for_update(of=("self",))
        .select_related("plan")
        .get(pk=organization.pk)
    )


def role_of(by: Actor, organization: Organization) -> Role | None:
    """What the actor counts as: trusted ones as Owner, service accounts as Admin at most."""
    if by.is_trusted:
        return Role.OWNER
    if by.user_pk is None:
        return Role.ADMIN
    found = Membership.objects.filter(
        organization=organization, user_id=by.user_pk, user__is_active=True
    ).first()
    return None if found is None else Role(found.role)


def manager_role(by: Actor, organization: Organization) -> Role:
    """Owner or Admin. Raises RoleTooLow for everybody else."""
    role = role_of(by, organization)
    if role not in MANAGERS:
        raise RoleTooLow("Only Owners and Admins may do this")
    return role


def check_may_grant(role: Role, wanted: str) -> None:
    """Raise RoleTooLow when somebody of `role` would make or touch an Owner without being one."""
    if wanted == Role.OWNER and role != Role.OWNER:
        raise RoleTooLow("Only an Owner may do this to an Owner or make one")


def find_member(organization: Organization, member_id: str) -> Membership:
    """The Membership of a User's public id. Raises MemberNotFound."""
    found = (
        Membership.objects.select_related("user")
        .filter(organization=organization, user__public_id=member_id)
        .first()
        if can_be_id(member_id)
        else None
    )
    if found is None:
        raise MemberNotFound
    return found


def check_not_last_owner(membership: Membership) -> None:
    """Raise LastOwner unless another Owner could act without this one."""
    if membership.role != Role.OWNER:
        return
    others = Membership.objects.filter(
        organization_id=membership.organization_id, role=Role.OWNER, user__is_active=True
    ).exclude(pk=membership.pk)
    if not others.exists():
        raise LastOwner


def renew_stamp(organization: Organization) -> None:
    """After the commit, every cached Identity of the Organization is read again."""
    renew: Callable[[], None] = partial(stamps.renew, organization.public_id)
    transaction.on_commit(renew)
