"""Handing over an ownership: offered by an Owner, accepted by the recipient within seven days."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction

from accounts.actors import Actor
from accounts.models import Membership, Organization, OwnershipTransfer, Role, TransferStatus
from accounts.selectors import pending_transfers
from accounts.services import authority
from accounts.services.audit import Action, record
from accounts.services.errors import NotAPerson, RoleTooLow, TransferNotFound
from accounts.services.members import set_role
from casola_site.core.errors import Conflict

OPEN_FOR = timedelta(days=7)
ENDED = {
    TransferStatus.CANCELLED: Action.TRANSFER_CANCELLED,
    TransferStatus.DECLINED: Action.TRANSFER_DECLINED,
    TransferStatus.ACCEPTED: Action.TRANSFER_ACCEPTED,
}


@transaction.atomic
def offer_transfer(
    *, organization: Organization, member_id: str, by: Actor, now: datetime
) -> OwnershipTransfer:
    """Offer one's own ownership to a member; an offer that has expired gives way to the new one.

    Raises NotAPerson, RoleTooLow, MemberNotFound, or Conflict when an offer is open or the member
    cannot take it.
    """
    if not by.is_person:
        raise NotAPerson("hand over an ownership")
    organization = authority.lock(organization)
    if authority.role_of(by, organization) != Role.OWNER:
        raise RoleTooLow("Only an Owner may hand over their ownership")
    recipient = authority.find_member(organization, member_id)
    if recipient.role == Role.OWNER:
        raise Conflict("This member is an Owner already", param="member_id")
    if recipient.role == Role.DISABLED or not recipient.user.is_active:
        raise Conflict("A disabled member cannot become Owner", param="member_id")
    pending = pending_transfers(organization.pk)
    pending.filter(expires_at__lte=now).update(status=TransferStatus.CANCELLED, ended_at=now)
    if pending.exists():
        raise Conflict("A transfer of ownership is pending already")
    transfer = OwnershipTransfer.objects.create(
        organization=organization,
        from_user_id=by.user_pk,
        to_user=recipient.user,
        created_at=now,
        expires_at=now + OPEN_FOR,
    )
    _note(transfer, Action.TRANSFER_OFFERED, by, now)
    return transfer


@transaction.atomic
def accept_transfer(*, organization: Organization, by: Actor, now: datetime) -> OwnershipTransfer:
    """The recipient becomes Owner, who offered it becomes Admin.

    Raises TransferNotFound unless an open offer names the actor, NotAPerson for a service account.
    """
    if not by.is_person:
        raise NotAPerson("become Owner")
    organization = authority.lock(organization)
    transfer = _open_transfer(organization, now)
    if transfer.to_user_id != by.user_pk:
        raise TransferNotFound
    places = {
        place.user_id: place
        for place in Membership.objects.select_related("organization", "user").filter(
            organization=organization, user__in=(transfer.from_user, transfer.to_user)
        )
    }
    giver, taker = places.get(transfer.from_user_id), places.get(transfer.to_user_id)
    if giver is None or giver.role != Role.OWNER or taker is None or taker.role == Role.DISABLED:
        raise TransferNotFound
    _end(transfer, TransferStatus.ACCEPTED, by, now)
    roles = {"old": {taker.user.public_id: taker.role, giver.user.public_id: giver.role}}
    set_role(taker, Role.OWNER, by=by, now=now)
    set_role(giver, Role.ADMIN, by=by, now=now)
    for place in (taker, giver):
        record(
            by=by,
            action=Action.ROLE_CHANGED,
            organization=organization,
            now=now,
            target=place.user.public_id,
            target_name=place.user.email,
            data={"old": roles["old"][place.user.public_id], "new": place.role},
        )
    return transfer


@transaction.atomic
def end_transfer(*, organization: Organization, by: Actor, now: datetime) -> OwnershipTransfer:
    """Take the offer back (an Owner), or decline it (the recipient).

    Raises TransferNotFound, or RoleTooLow for anybody else.
    """
    organization = authority.lock(organization)
    transfer = _open_transfer(organization, now)
    if by.is_person and transfer.to_user_id == by.user_pk:
        return _end(transfer, TransferStatus.DECLINED, by, now)
    if authority.role_of(by, organization) != Role.OWNER:
        raise RoleTooLow("Only an Owner or the recipient may end a transfer")
    return _end(transfer, TransferStatus.CANCELLED, by, now)


def find_open_transfer(*, organization: Organization, now: datetime) -> OwnershipTransfer:
    """The offer that can be accepted now. Raises TransferNotFound."""
    return _open_transfer(organization, now)


def _open_transfer(organization: Organization, now: datetime) -> OwnershipTransfer:
    found = pending_transfers(organization.pk).filter(expires_at__gt=now).first()
    if found is None:
        raise TransferNotFound
    return found


def _end(
    transfer: OwnershipTransfer, status: TransferStatus, by: Actor, now: datetime
) -> OwnershipTransfer:
    transfer.status, transfer.ended_at = status, now
    transfer.save(update_fields=["status", "ended_at"])
    _note(transfer, ENDED[status], by, now)
    return transfer


def _note(transfer: OwnershipTransfer, action: Action, by: Actor, now: datetime) -> None:
    record(
        by=by,
        action=action,
        organization=transfer.organization,
        now=now,
        target=transfer.to_user.public_id,
        target_name=transfer.to_user.email,
        data={"transfer": transfer.public_id},
    )
