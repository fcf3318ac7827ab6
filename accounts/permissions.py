"""Who may see a page: every page of the dashboard names the least role it is for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache

from accounts.models import Membership, Organization, OrganizationStatus, Role
from accounts.navigation import reaches
from accounts.services.errors import RoleTooLow
from accounts.shell import membership_of
from casola_site.core.errors import MethodNotAllowed, PermissionDenied

LOGIN, VERIFY, START, NO_ORGANIZATION = "/login", "/verify", "/start", "/organizations/new"
SAFE = frozenset({"GET", "HEAD"})
View = Callable[..., HttpResponseBase]


class OrganizationSuspended(PermissionDenied):
    """403: nothing changes in an Organization that support has closed."""

    message = "The organization is suspended: nothing can be changed in it"


class PageRequest(HttpRequest):
    """A request of a signed-in User."""

    user: Any


class MemberRequest(PageRequest):
    """A request of a member of the Organization they are in."""

    membership: Membership

    @property
    def organization(self) -> Organization:
        """The one that the page is about."""
        return self.membership.organization


def public_page(*, methods: str = "GET") -> Callable[[View], View]:
    """Decorator: a page for everybody, signed in or not."""

    def decorate(view: View) -> View:
        @never_cache
        @wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            _check_method(request, methods)
            return view(request, *args, **kwargs)

        checked.page_for = "anybody"  # type: ignore[attr-defined]
        return checked

    return decorate


def user_page(*, methods: str = "GET", verified: bool = False) -> Callable[[View], View]:
    """Decorator: a page for everybody who is signed in, whatever their Organizations."""

    def decorate(view: View) -> View:
        @never_cache
        @wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            _check_method(request, methods)
            if not request.user.is_authenticated:
                return to_login(request)
            if verified and request.user.email_verified_at is None:  # type: ignore[union-attr]
                return redirect(VERIFY)
            return view(request, *args, **kwargs)

        checked.page_for = "user"  # type: ignore[attr-defined]
        return checked

    return decorate


def member_page(
    least: Role, *, methods: str = "GET", verified: bool = False, while_suspended: bool = False
) -> Callable[[View], View]:
    """Decorator: a page for members of at least the role; the view finds `request.membership`.

    Somebody without an Organization is sent to make one. A suspended Organization's pages show, but
    change nothing, unless the page says `while_suspended`. With `verified`, who has yet to confirm
    their address is sent to do so.
    """

    def decorate(view: View) -> View:
        @user_page(methods=methods, verified=verified)
        @wraps(view)
        def checked(request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
            membership = membership_of(request)
            if membership is None:
                return redirect(NO_ORGANIZATION)
            if not reaches(membership.role, least):
                raise RoleTooLow(f"This is for members who are {least.label} or more")
            is_open = membership.organization.status == OrganizationStatus.ACTIVE
            if not (is_open or while_suspended or request.method in SAFE):
                raise OrganizationSuspended
            request.membership, request.organization = membership, membership.organization
            return view(request, *args, **kwargs)

        checked.page_for = least  # type: ignore[attr-defined]
        return checked

    return decorate


def to_login(request: HttpRequest) -> HttpResponseBase:
    """To the log-in page, and from there back to the page that was asked for."""
    return redirect_to_login(request.get_full_path() if request.method in SAFE else START, LOGIN)


def _check_method(request: HttpRequest, methods: str) -> None:
    allowed = methods.split()
    if "GET" in allowed:
        allowed.append("HEAD")
    if request.method not in allowed:
        raise MethodNotAllowed(headers={"Allow": ", ".join(allowed)})
