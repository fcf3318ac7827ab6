"""Changing roles and removing members; an Organization always keeps an Owner."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils.module_loading import import_string

from accounts.actors import Actor
from accounts.models import (
    INVITABLE,
    Invite,
    Membership,
    Organization,
    Role,
    TransferStatus,
)
from accounts.selectors import pending_transfers
from accounts.services import authority
from accounts.services.audit import Action, record
from accounts.services.invites import end_invite, open_invites
from casola_site.core.errors import InvalidRequest

# Which roles' Invites somebody of this role may have open.
GRANTABLE: dict[str, frozenset[str]] = {
    Role.OWNER: frozenset(INVITABLE),
    Role.ADMIN: frozenset(INVITABLE) - {Role.OWNER},
}


def check_role(role: str) -> Role:
    """The role. Raises InvalidRequest for an unknown word."""
    if role not in Role.values:
        raise InvalidRequest(
            f"role must be one of {', '.join(Role.values)}", code="invalid_value", param="role"
        )
    return Role(role)


@transaction.atomic
def change_role(
    *, organization: Organization, member_id: str, role: str, by: Actor, now: datetime
) -> Membership:
    """Give a member another role; `disabled` keeps them listed and shuts them out.

    Their tokens are worth what the new role is worth from the next request on; Invites they may no
    longer grant are revoked. Raises MemberNotFound, RoleTooLow, LastOwner or InvalidRequest.
    """
    wanted = check_role(role)
    organization = authority.lock(organization)
    actor_role = authority.manager_role(by, organization)
    membership = authority.find_member(organization, member_id)
    authority.check_may_grant(actor_role, membership.role)
    authority.check_may_grant(actor_role, wanted)
    old = membership.role
    if old == wanted:
        return membership
    if wanted != Role.OWNER:
        authority.check_not_last_owner(membership)
    set_role(membership, wanted, by=by, now=now)
    record(
        by=by,
        action=Action.ROLE_CHANGED,
        organization=organization,
        now=now,
        target=membership.user.public_id,
        target_name=membership.user.email,
        data={"old": old, "new": wanted},
    )
    return membership


def set_role(membership: Membership, role: Role, *, by: Actor, now: datetime) -> None:
    """Write the role and end what it no longer allows; the caller holds the lock and has checked."""
    membership.role = role
    membership.save(update_fields=["role"])
    _shorten_reach(membership, role, by=by, now=now)
    authority.renew_stamp(membership.organization)


@transaction.atomic
def remove_member(
    *, organization: Organization, member_id: str, by: Actor, now: datetime
) -> Membership:
    """End a Membership and revoke the member's tokens; anybody may remove themselves.

    Returns the row as it was. Raises MemberNotFound, RoleTooLow or LastOwner.
    """
    organization = authority.lock(organization)
    membership = authority.find_member(organization, member_id)
    leaves = by.is_person and membership.user_id == by.user_pk and membership.role != Role.DISABLED
    if not leaves:
        authority.check_may_grant(authority.manager_role(by, organization), membership.role)
    authority.check_not_last_owner(membership)
    _shorten_reach(membership, None, by=by, now=now)
    Membership.objects.filter(pk=membership.pk).delete()
    # Revoked, not only shut out: an old secret must not work again when the User is invited again.
    import_string(settings.MEMBER_REMOVED)(membership=membership, by=by, now=now)
    record(
        by=by,
        action=Action.MEMBER_REMOVED,
        organization=organization,
        now=now,
        target=membership.user.public_id,
        target_name=membership.user.email,
        data={"role": membership.role},
    )
    authority.renew_stamp(organization)
    return membership


def _shorten_reach(membership: Membership, role: Role | None, *, by: Actor, now: datetime) -> None:
    """Revoke open Invites beyond the role, and end transfers that it cannot carry."""
    organization = membership.organization
    grantable = GRANTABLE.get(role or "", frozenset())
    theirs = Q(created_by_id=membership.user_id) & ~Q(role__in=grantable)
    invites = Invite.objects.select_related("organization").filter(theirs)
    for invite in invites.filter(open_invites(organization, now)):
        end_invite(invite, by=by, now=now, reason="The inviter's role no longer reaches as far")
    pending = pending_transfers(organization.pk)
    carried = Q()
    if role != Role.OWNER:
        carried |= Q(from_user_id=membership.user_id)
    if role in (None, Role.DISABLED, Role.OWNER):
        carried |= Q(to_user_id=membership.user_id)
    for transfer in pending.filter(carried) if carried else ():
        transfer.status, transfer.ended_at = TransferStatus.CANCELLED, now
        transfer.save(update_fields=["status", "ended_at"])
        record(
            by=by,
            action=Action.TRANSFER_CANCELLED,
            organization=organization,
            now=now,
            target=transfer.to_user.public_id,
            target_name=transfer.to_user.email,
            reason="A change of roles ended it",
            data={"transfer": transfer.public_id},
        )
