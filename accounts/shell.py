"""What the frame of every page of a signed-in member shows, read when a template asks for it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from django.http import HttpRequest

from accounts import navigation
from accounts.models import Membership, Organization, OrganizationStatus, OwnershipTransfer
from accounts.navigation import Item
from accounts.selectors import current_membership, memberships_of, pending_transfers
from casola_site.core.clock import now

MOST_PLACES = 50  # Organizations in the switcher
THEMES = ("light", "dark")


def membership_of(request: HttpRequest) -> Membership | None:
    """The signed-in User's place in the Organization they are in, read once per request."""
    if not hasattr(request, "_membership"):
        user = request.user
        request._membership = current_membership(user) if user.is_authenticated else None  # type: ignore[attr-defined]
    return request._membership  # type: ignore[attr-defined]


class Shell:
    """The frame of one request."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request

    @cached_property
    def membership(self) -> Membership | None:
        """Where the User is."""
        return membership_of(self.request)

    @property
    def organization(self) -> Organization | None:
        """The one that the page is about."""
        return self.membership.organization if self.membership else None

    @property
    def role(self) -> str | None:
        """The User's in it."""
        return self.membership.role if self.membership else None

    @property
    def role_name(self) -> str:
        """In a word."""
        return self.membership.get_role_display() if self.membership else ""

    @cached_property
    def places(self) -> list[Membership]:
        """What the switcher offers."""
        return list(memberships_of(self.request.user)[:MOST_PLACES])  # type: ignore[arg-type]

    @cached_property
    def nav(self) -> list[Item]:
        """The main menu."""
        return self._shown(navigation.NAV)

    @cached_property
    def settings(self) -> list[Item]:
        """The pages under Settings."""
        return self._shown(navigation.SETTINGS)

    @cached_property
    def account(self) -> list[Item]:
        """The User's own pages."""
        return self._shown(navigation.ACCOUNT)

    def _shown(self, items: tuple[Item, ...]) -> list[Item]:
        return navigation.shown(items, role=self.role, path=self.request.path)

    @property
    def section(self) -> str:
        """Where a switch of the Organization leads: the menu's page of the moment, if any."""
        return next((item.path for item in self.nav if item.is_current), "/start")

    @property
    def is_suspended(self) -> bool:
        """Whether support has closed the Organization."""
        return (
            self.organization is not None
            and self.organization.status == OrganizationStatus.SUSPENDED
        )

    @property
    def is_unverified(self) -> bool:
        """Whether the User has yet to confirm their address."""
        user = self.request.user
        return user.is_authenticated and user.email_verified_at is None

    @cached_property
    def offer(self) -> OwnershipTransfer | None:
        """An ownership that is offered to the User."""
        if self.organization is None:
            return None
        return (
            pending_transfers(self.organization.pk)
            .filter(to_user=self.request.user, expires_at__gt=now())
            .first()
        )


def shell(request: HttpRequest) -> dict[str, Any]:
    """Context processor: `shell`, and the `theme` that the cookie asks for."""
    theme = request.COOKIES.get("theme", "")
    return {"shell": Shell(request), "theme": theme if theme in THEMES else ""}
