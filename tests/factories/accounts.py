"""Plans, Organizations and Users: the least that is valid."""

from __future__ import annotations

from datetime import timedelta
from itertools import count

from django.utils import timezone

from accounts.models import (
    Invite,
    Membership,
    Organization,
    OwnershipTransfer,
    Plan,
    Role,
    User,
)
from accounts.services.invites import digest, new_token

_serial = count(1)


def make_plan(**columns) -> Plan:
    """A Plan without limits."""
    number = next(_serial)
    return Plan.objects.create(
        **{"code": f"test-plan-{number}", "name": f"Test plan {number}", **columns}
    )


def make_organization(**columns) -> Organization:
    """An Organization without members, on a Plan of its own."""
    number = next(_serial)
    if "plan" not in columns:
        columns["plan"] = make_plan()
    return Organization.objects.create(
        **{"name": f"Organization {number}", "slug": f"organization-{number}", **columns}
    )


def make_user(**columns) -> User:
    """A User who cannot sign in."""
    return User.objects.create(
        **{"email": f"user-{next(_serial)}@example.com", "password": "!", **columns}
    )


def make_member(*, organization: Organization, role: str = Role.OWNER) -> User:
    """A User with a role in the Organization."""
    user = make_user()
    Membership.objects.create(organization=organization, user=user, role=role)
    return user


def make_invite(*, organization: Organization, **columns) -> tuple[Invite, str]:
    """An open link for one Member, and its token."""
    token = new_token()
    defaults = {
        "role": Role.MEMBER,
        "max_uses": 1,
        "token_hash": digest(token),
        "expires_at": timezone.now() + timedelta(days=7),
    }
    return Invite.objects.create(organization=organization, **{**defaults, **columns}), token


def make_transfer(*, organization: Organization, **columns) -> OwnershipTransfer:
    """An offer from a new Owner to a new Member, open for a day."""
    for name, role in (("from_user", Role.OWNER), ("to_user", Role.MEMBER)):
        if name not in columns:
            columns[name] = make_member(organization=organization, role=role)
    columns.setdefault("expires_at", timezone.now() + timedelta(days=1))
    return OwnershipTransfer.objects.create(organization=organization, **columns)
