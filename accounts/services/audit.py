"""Writing the audit: one row per change, in the transaction of the change."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db import transaction

from accounts.actors import Actor, ActorKind
from accounts.models import AuditEvent, Organization, User


class Action(StrEnum):
    """What can be done to an Organization, and to how a User signs in."""

    ORGANIZATION_CREATED = "organization.created"
    ORGANIZATION_CHANGED = "organization.changed"
    ORGANIZATION_SUSPENDED = "organization.suspended"
    ORGANIZATION_UNSUSPENDED = "organization.unsuspended"
    PLAN_CHANGED = "organization.plan_changed"
    BUDGET_CHANGED = "organization.budget_changed"
    ROLE_CHANGED = "member.role_changed"
    MEMBER_REMOVED = "member.removed"
    INVITE_CREATED = "invite.created"
    INVITE_RESENT = "invite.resent"
    INVITE_REVOKED = "invite.revoked"
    INVITE_ACCEPTED = "invite.accepted"
    TRANSFER_OFFERED = "transfer.offered"
    TRANSFER_CANCELLED = "transfer.cancelled"
    TRANSFER_DECLINED = "transfer.declined"
    TRANSFER_ACCEPTED = "transfer.accepted"
    TOKEN_ISSUED = "token.issued"  # noqa: S105 - the name of an action
    TOKEN_REVOKED = "token.revoked"  # noqa: S105
    TOKEN_CHANGED = "token.changed"  # noqa: S105
    TOKEN_ROTATED = "token.rotated"  # noqa: S105
    SIGNED_UP = "user.signed_up"
    SIGNED_IN = "user.signed_in"
    SIGN_IN_FAILED = "user.sign_in_failed"
    SIGNED_OUT = "user.signed_out"
    LOCKED_OUT = "user.locked_out"
    LOCK_CLEARED = "user.lock_cleared"
    EMAIL_VERIFIED = "user.email_verified"
    EMAIL_CHANGED = "user.email_changed"
    PASSWORD_CHANGED = "user.password_changed"  # noqa: S105
    PASSWORD_RESET = "user.password_reset"  # noqa: S105
    MFA_ADDED = "user.mfa_added"
    MFA_REMOVED = "user.mfa_removed"
    PROVIDER_ADDED = "user.provider_added"
    PROVIDER_REMOVED = "user.provider_removed"
    SESSIONS_ENDED = "user.sessions_ended"


def record(
    *,
    by: Actor,
    action: str,
    organization: Organization | None,
    now: datetime,
    target: str = "",
    target_name: str = "",
    reason: str = "",
    data: dict[str, Any] | None = None,
) -> AuditEvent:
    """One AuditEvent; `data` holds old and new values, never a secret.

    Call it inside the transaction of the change: neither exists without the other. Raises
    TransactionManagementError outside of one.
    """
    if not transaction.get_connection().in_atomic_block:
        raise transaction.TransactionManagementError("an audit row needs its change's transaction")
    name, on_behalf_of = by.name, by.on_behalf_of
    if by.kind == ActorKind.TOKEN and not name:
        found = User.objects.filter(pk=by.user_pk).values_list("email", "public_id").first()
        name, member = found or ("service account", "")
        on_behalf_of = on_behalf_of or member
    return AuditEvent.objects.create(
        created_at=now,
        organization=organization,
        actor_kind=by.kind,
        actor_id=by.id,
        actor_name=name,
        on_behalf_of=on_behalf_of,
        action=action,
        target=target,
        target_name=target_name[:254],
        reason=reason,
        ip=by.ip[:45],
        request_id=by.request_id[:64],
        data=data or {},
    )
