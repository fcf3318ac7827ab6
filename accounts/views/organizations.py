"""The Organization: its names and limits, another one, switching, leaving."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render

from accounts.actors import actor_of
from accounts.forms import ConfirmForm, NameForm, OrganizationForm
from accounts.models import Organization, Role
from accounts.navigation import NAV, reaches
from accounts.permissions import MemberRequest, PageRequest, member_page, user_page
from accounts.selectors import find_membership, memberships_of, pending_transfers
from accounts.services import (
    RoleTooLow,
    change_organization,
    open_organization,
    remove_member,
    switch_organization,
)
from casola_site.core.clock import now
from casola_site.core.forms import posted
from casola_site.core.ids import can_be_id
from casola_site.core.tenancy import OrganizationNotFound


@member_page(Role.VIEWER, methods="GET POST")
def organization(request: MemberRequest) -> HttpResponse:
    """Names, plan, limits and ownership; Owners and Admins change the names."""
    current = request.organization
    if request.method == "POST" and not reaches(request.membership.role, Role.ADMIN):
        raise RoleTooLow("Only Owners and Admins may do this")
    form = OrganizationForm(posted(request), initial={"name": current.name, "slug": current.slug})
    if request.method == "POST" and form.is_valid():
        changed = form.carry_out(
            change_organization,
            organization=current,
            by=actor_of(request),
            now=now(),
            **form.cleaned_data,
        )
        if changed is not None:
            messages.success(request, "Saved.")
            return redirect("organization")
    return render(
        request,
        "accounts/organization.html",
        _organization_context(request, form),
        status=400 if form.errors else 200,
    )


def _organization_context(request: MemberRequest, form: OrganizationForm) -> dict[str, Any]:
    pending = pending_transfers(request.organization.pk).filter(expires_at__gt=now()).first()
    role = request.membership.role
    return {
        "form": form,
        "organization": request.organization,
        "plan": request.organization.plan,
        "may_change": reaches(role, Role.ADMIN),
        "is_owner": role == Role.OWNER,
        "transfer": pending,
        "is_offered_to_me": pending is not None and pending.to_user_id == request.user.pk,
    }


@member_page(Role.VIEWER, methods="GET POST", while_suspended=True)
def leave(request: MemberRequest) -> HttpResponse:
    """Ask, then end one's own membership."""
    current = request.organization
    form = ConfirmForm(posted(request), expected=current.name)
    if request.method == "POST" and form.is_valid():
        left = form.carry_out(
            remove_member,
            organization=current,
            member_id=request.user.public_id,
            by=actor_of(request),
            now=now(),
        )
        if left is not None:
            messages.success(request, f"You have left {current.name}.")
            return redirect("start")
    context = {"form": form, "organization": current}
    return render(request, "accounts/leave.html", context, status=400 if form.errors else 200)


@user_page(methods="GET POST")
def create(request: PageRequest) -> HttpResponse:
    """Another Organization, and into it."""
    form = NameForm(posted(request))
    if request.method == "POST" and form.is_valid():
        made = form.carry_out(
            open_organization, name=form.cleaned_data["name"], by=actor_of(request), now=now()
        )
        if made is not None:
            switch_organization(user=request.user, organization=made)
            messages.success(request, f"{made.name} is there, and you are its Owner.")
            return redirect("start")
    context = {"form": form, "is_first": not memberships_of(request.user).exists()}
    return render(request, "accounts/create.html", context, status=400 if form.errors else 200)


@user_page(methods="POST")
def switch(request: PageRequest) -> HttpResponse:
    """Show another Organization's pages from now on."""
    chosen = request.POST.get("organization", "")
    found = Organization.objects.filter(public_id=chosen).first() if can_be_id(chosen) else None
    if found is None:
        raise OrganizationNotFound
    switch_organization(user=request.user, organization=found)
    place = find_membership(user=request.user, organization=found)
    role = place.role if place else None
    wanted = request.POST.get("next", "")
    is_open = any(item.path == wanted and reaches(role, item.least) for item in NAV)
    return redirect(wanted if is_open else "start")
