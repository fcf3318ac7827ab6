"""Inviting people: making, sending again, revoking and accepting Invites."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from smtplib import SMTPException

from django.core.mail import send_mail
from django.db import transaction
from django.db.models import F, Q
from django.template.loader import render_to_string

from accounts.actors import Actor, user_actor
from accounts.models import (
    INVITABLE,
    Invite,
    InviteStatus,
    Membership,
    Organization,
    OrganizationStatus,
    Role,
    User,
)
from accounts.services import authority
from accounts.services.audit import Action, record
from accounts.services.errors import InviteNotFound, NotAPerson, RoleTooLow, TooMany
from accounts.services.organizations import check_address
from casola_site.core.errors import Conflict, InvalidRequest, PermissionDenied
from casola_site.core.ids import can_be_id, random_text

logger = logging.getLogger(__name__)

OPEN_FOR = timedelta(days=7)
RESEND_AFTER = timedelta(minutes=1)
MAX_OPEN = 200  # Invites that an Organization may have open
MAX_USES = 10_000
PREFIX = "csl_inv_"
TOKEN = re.compile(r"csl_inv_[0-9A-Za-z]{36}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteTerms:
    """Whom an Invite admits: one address, or (`email` empty) whoever holds the link."""

    email: str = ""
    role: str = Role.MEMBER
    multi_use: bool = False
    max_uses: int | None = None


def new_token() -> str:
    """A secret to put into a link."""
    return PREFIX + random_text(36)


def digest(token: str) -> str:
    """What is stored of it."""
    return hashlib.sha256(token.encode()).hexdigest()


def join_url(base_url: str, token: str) -> str:
    """The page that accepts it."""
    return f"{base_url}/join/{token}"


def check_terms(terms: InviteTerms) -> InviteTerms:
    """The terms, completed. Raises InvalidRequest for those that make no sense together."""

    def wrong(message: str, param: str) -> InvalidRequest:
        return InvalidRequest(message, code="invalid_value", param=param)

    email = check_address(terms.email, param="email") if terms.email else ""
    if terms.role not in INVITABLE:
        raise wrong(f"role must be one of {', '.join(INVITABLE)}", "role")
    if terms.role == Role.OWNER and not email:
        raise wrong("An Owner is invited by e-mail address, not by an open link", "role")
    if not terms.multi_use and terms.max_uses not in (None, 1):
        raise wrong("max_uses needs multi_use", "max_uses")
    if terms.multi_use and email:
        raise wrong("An invite to one address is for a single use", "multi_use")
    if terms.max_uses is not None and not 1 <= terms.max_uses <= MAX_USES:
        raise wrong(f"max_uses must be 1 to {MAX_USES}", "max_uses")
    return InviteTerms(
        email=email,
        role=terms.role,
        multi_use=terms.multi_use,
        max_uses=terms.max_uses if terms.multi_use else 1,
    )


def open_invites(organization: Organization, now: datetime) -> Q:
    """The filter for those that can still be accepted."""
    return Q(organization=organization, revoked_at=None, expires_at__gt=now) & _has_room()


def _has_room() -> Q:
    return Q(max_uses=None) | Q(uses__lt=F("max_uses"))


@transaction.atomic
def create_invite(
    *, organization: Organization, terms: InviteTerms, base_url: str, by: Actor, now: datetime
) -> tuple[Invite, str]:
    """A new Invite and its token, which is shown this once; an address gets it by mail as well.

    Raises InvalidRequest, RoleTooLow, Conflict for an address that is a member or invited already,
    or TooMany.
    """
    terms = check_terms(terms)
    organization = authority.lock(organization)
    authority.check_may_grant(authority.manager_role(by, organization), terms.role)
    open_ones = Invite.objects.filter(open_invites(organization, now))
    if terms.email:
        _check_new_address(organization, terms.email, open_ones.filter(email=terms.email).exists())
    if open_ones.count() >= MAX_OPEN:
        raise TooMany(f"{MAX_OPEN} invites are open already; revoke some first")
    token = new_token()
    invite = Invite.objects.create(
        organization=organization,
        email=terms.email,
        role=terms.role,
        multi_use=terms.multi_use,
        max_uses=terms.max_uses,
        token_hash=digest(token),
        created_by_id=by.user_pk,
        created_at=now,
        expires_at=now + OPEN_FOR,
    )
    _mail_after_commit(invite, join_url(base_url, token), by, now)
    _note(invite, Action.INVITE_CREATED, by, now)
    return invite, token


def _check_new_address(organization: Organization, email: str, is_invited: bool) -> None:
    members = Membership.objects.filter(organization=organization, user__email__iexact=email)
    if members.exists():
        raise Conflict("This address belongs to a member already", param="email")
    if is_invited:
        raise Conflict("This address is invited already; send that invite again", param="email")


@transaction.atomic
def resend_invite(
    *, organization: Organization, invite_id: str, base_url: str, by: Actor, now: datetime
) -> tuple[Invite, str]:
    """A new token for seven more days; the old one opens nothing. Mailed when it has an address.

    Raises InviteNotFound, RoleTooLow, or Conflict when it is used up or was mailed a moment ago.
    """
    organization = authority.lock(organization)
    role = authority.manager_role(by, organization)
    invite = find_invite(organization_pk=organization.pk, invite_id=invite_id)
    authority.check_may_grant(role, invite.role)
    if invite.status_at(now) in (InviteStatus.USED, InviteStatus.REVOKED):
        raise Conflict("This invite is used up or revoked; make a new one")
    if invite.mailed_at is not None and now - invite.mailed_at < RESEND_AFTER:
        raise Conflict("This invite was mailed less than a minute ago")
    token = new_token()
    invite.token_hash, invite.expires_at = digest(token), now + OPEN_FOR
    invite.save(update_fields=["token_hash", "expires_at"])
    _mail_after_commit(invite, join_url(base_url, token), by, now)
    _note(invite, Action.INVITE_RESENT, by, now)
    return invite, token


@transaction.atomic
def revoke_invite(
    *, organization: Organization, invite_id: str, by: Actor, now: datetime
) -> Invite:
    """Make the Invite worthless; revoking twice changes nothing.

    Raises InviteNotFound or RoleTooLow.
    """
    organization = authority.lock(organization)
    role = authority.manager_role(by, organization)
    invite = find_invite(organization_pk=organization.pk, invite_id=invite_id)
    authority.check_may_grant(role, invite.role)
    if invite.revoked_at is None:
        end_invite(invite, by=by, now=now)
    return invite


def end_invite(invite: Invite, *, by: Actor, now: datetime, reason: str = "") -> None:
    """Revoke it; the caller holds the lock and has checked who may."""
    invite.revoked_at = now
    invite.save(update_fields=["revoked_at"])
    _note(invite, Action.INVITE_REVOKED, by, now, reason=reason)


def find_invite(*, organization_pk: int, invite_id: str) -> Invite:
    """The Organization's Invite, whatever its state. Raises InviteNotFound."""
    found = None
    if can_be_id(invite_id):
        found = (
            Invite.objects.select_related("organization", "created_by")
            .filter(organization_id=organization_pk, public_id=invite_id)
            .first()
        )
    if found is None:
        raise InviteNotFound("Invite not found")
    return found


def find_by_token(*, token: str, now: datetime) -> Invite:
    """The Invite that a link opens now, for the page that asks. Raises InviteNotFound."""
    invite = _invite_of(token)
    if (
        invite.status_at(now) != InviteStatus.OPEN
        or invite.organization.status != OrganizationStatus.ACTIVE
    ):
        raise InviteNotFound
    return invite


def _invite_of(token: str) -> Invite:
    if not TOKEN.fullmatch(token):
        raise InviteNotFound
    found = (
        Invite.objects.select_related("organization__plan", "created_by")
        .filter(token_hash=digest(token))
        .first()
    )
    if found is None:
        raise InviteNotFound
    return found


@transaction.atomic
def accept_invite(*, token: str, user: User, now: datetime, by: Actor | None = None) -> Membership:
    """The User's Membership, made with the Invite's role.

    Who is a member already keeps their role and uses nothing up. Raises InviteNotFound, or
    PermissionDenied for another address than the Invite's (it must be verified) and for a Disabled
    member.
    """
    by = by or user_actor(user)
    invite = _invite_of(token)
    organization = authority.lock(invite.organization)
    there = (
        Membership.objects.select_related("organization__plan", "user")
        .filter(organization=organization, user=user)
        .first()
    )
    if there is not None:
        if there.role == Role.DISABLED:
            raise RoleTooLow("Your membership of this organization is disabled")
        return there
    if organization.status != OrganizationStatus.ACTIVE:
        raise InviteNotFound
    _check_addressee(invite, user)
    # One statement decides who gets the last place; the lock alone does not see other doors.
    taken = (
        Invite.objects.filter(_has_room(), pk=invite.pk, token_hash=digest(token), revoked_at=None)
        .filter(expires_at__gt=now)
        .update(uses=F("uses") + 1)
    )
    if not taken:
        raise InviteNotFound
    membership = Membership.objects.create(
        organization=organization, user=user, role=invite.role, created_at=now
    )
    record(
        by=by,
        action=Action.INVITE_ACCEPTED,
        organization=organization,
        now=now,
        target=user.public_id,
        target_name=user.email,
        data={"invite": invite.public_id, "role": invite.role},
    )
    # A service account's cached Identity is not touched, but a returning User's is.
    authority.renew_stamp(organization)
    return membership


def accept_invite_as(*, token: str, by: Actor, now: datetime) -> Membership:
    """`accept_invite` for the User behind a token. Raises NotAPerson for a service account."""
    if not by.is_person:
        raise NotAPerson("accept an invite")
    user = User.objects.get(pk=by.user_pk)
    return accept_invite(token=token, user=user, now=now, by=by)


def _check_addressee(invite: Invite, user: User) -> None:
    if not user.is_active:
        raise InviteNotFound
    if invite.email and (
        user.email.lower() != invite.email.lower() or user.email_verified_at is None
    ):
        raise PermissionDenied("This invite is for another e-mail address, or yours is unverified")


def _mail_after_commit(invite: Invite, url: str, by: Actor, now: datetime) -> None:
    if invite.email:
        inviter = User.objects.filter(pk=by.user_pk).values_list("name", "email").first()
        name = (inviter[0] or inviter[1]) if inviter else ""
        transaction.on_commit(partial(_mail, invite, url, name, now))


def _mail(invite: Invite, url: str, inviter: str, now: datetime) -> None:
    """Send it; one that cannot be sent shows as not mailed and may be sent again."""
    context = {"invite": invite, "url": url, "inviter": inviter}
    subject = render_to_string("accounts/mail/invite_subject.txt", context).strip()
    body = render_to_string("accounts/mail/invite.txt", context)
    try:
        send_mail(subject, body, None, [invite.email])
    except (SMTPException, OSError) as error:
        logger.warning("invite %s was not mailed: %s", invite.public_id, type(error).__name__)
        return
    Invite.objects.filter(pk=invite.pk).update(mailed_at=now)
    invite.mailed_at = now


def _note(invite: Invite, action: Action, by: Actor, now: datetime, *, reason: str = "") -> None:
    record(
        by=by,
        action=action,
        organization=invite.organization,
        now=now,
        target=invite.public_id,
        target_name=invite.email or "open link",
        reason=reason,
        data={"role": invite.role, "max_uses": invite.max_uses},
    )
