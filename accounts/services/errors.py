"""What the services of this app refuse, and why."""

from __future__ import annotations

from casola_site.core.errors import Conflict, NotFound, PermissionDenied


class MemberNotFound(NotFound):
    """404: nobody of that id belongs to the Organization."""

    message = "Member not found"


class InviteNotFound(NotFound):
    """404: no such Invite, or one that is used up, expired or revoked."""

    message = "Invite not found, used up, expired or revoked"


class TransferNotFound(NotFound):
    """404: no ownership is being offered."""

    message = "No transfer of ownership is pending"


class RoleTooLow(PermissionDenied):
    """403: the actor's role does not reach this far."""


class LastOwner(Conflict):
    """409: an Organization has an Owner at all times."""

    message = "The last Owner cannot be demoted, removed or disabled"


class NotAPerson(PermissionDenied):
    """403: only a User can do this, not a service account."""

    def __init__(self, what: str) -> None:
        super().__init__(f"A service account cannot {what}")


class SlugTaken(Conflict):
    """409: another Organization has the slug."""

    def __init__(self, slug: str) -> None:
        super().__init__(f"The slug '{slug}' is taken", param="slug")


class TooMany(Conflict):
    """409: there are as many of them as may be."""
