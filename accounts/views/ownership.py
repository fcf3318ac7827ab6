"""Handing over an ownership."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render

from accounts.actors import actor_of
from accounts.forms import ConfirmForm
from accounts.models import Role
from accounts.permissions import MemberRequest, member_page
from accounts.services import accept_transfer, end_transfer, offer_transfer
from accounts.services.authority import find_member
from casola_site.core.clock import now
from casola_site.core.forms import posted


@member_page(Role.OWNER, methods="GET POST")
def offer(request: MemberRequest, member_id: str) -> HttpResponse:
    """Ask, then offer one's own ownership to the member."""
    member = find_member(request.organization, member_id)
    form = ConfirmForm(posted(request), expected=member.user.email)
    if request.method == "POST" and form.is_valid():
        transfer = form.carry_out(
            offer_transfer,
            organization=request.organization,
            member_id=member_id,
            by=actor_of(request),
            now=now(),
        )
        if transfer is not None:
            messages.success(request, f"Offered to {member.user.email}, who has seven days.")
            return redirect("organization")
    context = {"member": member, "form": form}
    return render(request, "accounts/offer.html", context, status=400 if form.errors else 200)


@member_page(Role.VIEWER, methods="POST")
def accept(request: MemberRequest) -> HttpResponse:
    """Become Owner."""
    accept_transfer(organization=request.organization, by=actor_of(request), now=now())
    messages.success(request, f"You are Owner of {request.organization.name} now.")
    return redirect("organization")


@member_page(Role.VIEWER, methods="POST")
def end(request: MemberRequest) -> HttpResponse:
    """Take the offer back, or decline it."""
    end_transfer(organization=request.organization, by=actor_of(request), now=now())
    messages.success(request, "The offer is off; nothing has changed.")
    return redirect("organization")
