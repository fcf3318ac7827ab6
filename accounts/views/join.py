"""The page at the end of an invite's link."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from accounts.actors import actor_of
from accounts.models import Invite, Membership
from accounts.permissions import public_page, to_login
from accounts.roles import ROLE_WORDS
from accounts.services import InviteNotFound, accept_invite, find_by_token, switch_organization
from casola_site.core.clock import now
from casola_site.core.doors import Door, wait_at
from casola_site.core.error_views import too_many_requests
from casola_site.core.errors import InvalidRequest, PermissionDenied


@public_page(methods="GET POST")
def join(request: HttpRequest, token: str) -> HttpResponse:
    """Which organization invites, and a button that joins it.

    A link that opens nothing is the same 404 whatever the reason; an address that tries too many of
    them gets 429.
    """
    try:
        invite = find_by_token(token=token, now=now())
        response = _accept(request, invite, token) if request.method == "POST" else None
    except InviteNotFound:
        if wait := wait_at(Door.INVITE, request):
            return too_many_requests(request, wait)
        return render(request, "accounts/join_closed.html", status=404)
    return response or _page(request, invite)


def _accept(request: HttpRequest, invite: Invite, token: str) -> Any:
    user: Any = request.user
    if not user.is_authenticated:
        return to_login(request)
    try:
        if user.email_verified_at is None:
            raise InvalidRequest("Confirm your e-mail address first")  # noqa: TRY301
        membership = accept_invite(token=token, user=user, now=now(), by=actor_of(request))
    except (PermissionDenied, InvalidRequest) as error:
        return _page(request, invite, error=error.message)
    organization = membership.organization
    switch_organization(user=user, organization=organization)
    messages.success(
        request, f"Welcome to {organization.name}. You are {membership.get_role_display()}."
    )
    return redirect("start")


def _page(request: HttpRequest, invite: Invite, *, error: str = "") -> HttpResponse:
    user: Any = request.user
    is_user = user.is_authenticated
    context = {
        "invite": invite,
        "organization": invite.organization,
        "inviter": _name(invite),
        "role_words": ROLE_WORDS[invite.role],
        "error": error,
        "query": urlencode({"next": request.path}),
        "is_member": is_user
        and Membership.objects.filter(organization=invite.organization, user=user).exists(),
        "is_for_other": is_user
        and bool(invite.email)
        and user.email.lower() != invite.email.lower(),
        "hint": _masked(invite.email),
    }
    response = render(request, "accounts/join.html", context, status=400 if error else 200)
    response["Referrer-Policy"] = "no-referrer"  # the address of the page is a secret
    return response


def _name(invite: Invite) -> str:
    by = invite.created_by
    return (by.name or by.email) if by is not None else ""


def _masked(email: str) -> str:
    """Enough for the invited person to know which of their addresses is meant."""
    name, _, domain = email.partition("@")
    return f"{name[:1]}…@{domain}" if email else ""
