"""Which Organizations a User may enter, and which one they are in."""

from __future__ import annotations

from django.db.models import QuerySet

from accounts.models import (
    Membership,
    Organization,
    OwnershipTransfer,
    Plan,
    Role,
    TransferStatus,
    User,
)


def memberships_of(user: User) -> QuerySet[Membership]:
    """The User's places that are not Disabled, the personal one first, then by age."""
    return (
        Membership.objects.select_related("organization__plan")
        .filter(user=user)
        .exclude(role=Role.DISABLED)
        .order_by("-organization__is_personal", "created_at", "pk")
    )


def find_membership(*, user: User, organization: Organization) -> Membership | None:
    """The User's place in the Organization unless it is Disabled."""
    return memberships_of(user).filter(organization=organization).first()


def current_membership(user: User) -> Membership | None:
    """The place the User has switched to, else their first; None for somebody without any."""
    places = memberships_of(user)
    if user.current_organization_id is not None:
        chosen = places.filter(organization_id=user.current_organization_id).first()
        if chosen is not None:
            return chosen
    return places.first()


def offered_plans() -> QuerySet[Plan]:
    """The Plans that organizations can have, the smallest first; one without limits is not offered."""
    return Plan.objects.exclude(api_requests_per_minute=None).order_by(
        "api_requests_per_minute", "pk"
    )


def pending_transfers(organization_pk: int) -> QuerySet[OwnershipTransfer]:
    """The Organization's offered ownership with both users: one row at most, perhaps expired."""
    return OwnershipTransfer.objects.select_related("organization", "from_user", "to_user").filter(
        organization_id=organization_pk, status=TransferStatus.PENDING
    )
