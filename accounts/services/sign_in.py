"""What signing up and in changes: verified addresses, personal Organizations, the audit of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction

from accounts.actors import Actor
from accounts.models import User
from accounts.selectors import current_membership
from accounts.services.audit import Action, record
from accounts.services.organizations import personal_organization


@transaction.atomic
def confirm_address(*, user: User, by: Actor, now: datetime) -> User:
    """The User with a verified address and a personal Organization; confirming twice is harmless."""
    verified = User.objects.filter(pk=user.pk, email_verified_at=None).update(email_verified_at=now)
    personal_organization(user=user, now=now, by=by)
    user.refresh_from_db(fields=["email_verified_at", "current_organization"])
    if verified:
        note_sign_in(action=Action.EMAIL_VERIFIED, user=user, by=by, now=now)
    return user


@transaction.atomic
def address_changed(*, user: User, old: str, by: Actor, now: datetime) -> User:
    """The User whose new address, verified a moment ago, has taken the old one's place."""
    user.email_verified_at = now
    user.save(update_fields=["email_verified_at"])
    data = {"old": old, "new": user.email}
    note_sign_in(action=Action.EMAIL_CHANGED, user=user, by=by, now=now, data=data)
    return user


@transaction.atomic
def note_sign_in(
    *, action: Action, user: User, by: Actor, now: datetime, data: dict[str, Any] | None = None
) -> None:
    """Tell the audit of the User's current Organization what happened to their sign-in."""
    place = current_membership(user)
    record(
        by=by,
        action=action,
        organization=place.organization if place else None,
        now=now,
        target=user.public_id,
        target_name=user.email,
        data=data,
    )
