"""Plans, Organizations and Users: the least that is valid."""

from __future__ import annotations

from itertools import count

from accounts.models import Membership, Organization, Plan, Role, User

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
