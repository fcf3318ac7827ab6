"""Who belongs to the Organization, as what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render

from accounts.actors import actor_of
from accounts.forms import ConfirmForm, InviteForm, RoleForm, role_choices
from accounts.models import Invite, Membership, Role
from accounts.permissions import MemberRequest, member_page
from accounts.roles import ROLE_WORDS
from accounts.services import change_role, remove_member
from accounts.services.authority import find_member
from accounts.services.invites import open_invites
from casola_site.core.clock import now
from casola_site.core.errors import ApiError
from casola_site.core.forms import posted
from casola_site.core.pagination import page

PAGE = {"limit": "50"}


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A member as the page lists them."""

    member: Membership
    is_self: bool
    is_mine_to_change: bool
    choices: list[tuple[str, str]]
    error: str = ""


@member_page(Role.ADMIN)
def members(request: MemberRequest) -> HttpResponse:
    """Members, open invites, what each role means."""
    return members_page(request)


def members_page(
    request: MemberRequest,
    *,
    form: InviteForm | None = None,
    member_error: tuple[str, str] = ("", ""),
    invite_error: tuple[str, str] = ("", ""),
) -> HttpResponse:
    """The page; with what was wrong (an id and why) its status is 400."""
    moment = now()
    organization, role = request.organization, request.membership.role
    rows, has_more = page(
        Membership.objects.select_related("user").filter(organization=organization),
        {**PAGE, "after": request.GET.get("after", "")},
        key="user__public_id",
    )
    invites = Invite.objects.select_related("created_by").filter(open_invites(organization, moment))
    is_wrong = form is not None or any((*member_error, *invite_error))
    context: dict[str, Any] = {
        "rows": [_row(request, row, *member_error) for row in rows],
        "next_after": rows[-1].user.public_id if has_more else None,  # type: ignore[attr-defined]
        "invites": list(invites.order_by("-created_at", "-pk")),
        "invite_error": invite_error,
        "problem": member_error[1] or invite_error[1],
        "form": form or InviteForm(role=role),
        "roles": [(str(label), ROLE_WORDS[value]) for value, label in Role.choices],
        "is_owner": role == Role.OWNER,
    }
    return render(request, "accounts/members.html", context, status=400 if is_wrong else 200)


def _row(request: MemberRequest, row: Any, wrong_id: str, message: str) -> MemberRow:
    role = request.membership.role
    return MemberRow(
        member=row,
        is_self=row.user_id == request.user.pk,
        is_mine_to_change=role == Role.OWNER or row.role != Role.OWNER,
        choices=role_choices(role, Role.values),
        error=message if row.user.public_id == wrong_id else "",
    )


@member_page(Role.ADMIN, methods="POST")
def change(request: MemberRequest, member_id: str) -> HttpResponse:
    """Give a member another role."""
    form = RoleForm(request.POST)
    if not form.is_valid():
        return members_page(request, member_error=(member_id, "Choose one of the roles."))
    try:
        member = change_role(
            organization=request.organization,
            member_id=member_id,
            role=form.cleaned_data["role"],
            by=actor_of(request),
            now=now(),
        )
    except ApiError as error:
        find_member(request.organization, member_id)
        return members_page(request, member_error=(member_id, error.message))
    messages.success(request, f"{member.user.email} is {member.get_role_display()} now.")
    return redirect("members")


@member_page(Role.ADMIN, methods="GET POST")
def remove(request: MemberRequest, member_id: str) -> HttpResponse:
    """Ask, then end the membership."""
    member = find_member(request.organization, member_id)
    form = ConfirmForm(posted(request), expected=member.user.email)
    if request.method == "POST" and form.is_valid():
        removed = form.carry_out(
            remove_member,
            organization=request.organization,
            member_id=member_id,
            by=actor_of(request),
            now=now(),
        )
        if removed is not None:
            messages.success(request, f"{member.user.email} is no longer a member.")
            return redirect("members")
    context = {"member": member, "form": form}
    return render(request, "accounts/remove.html", context, status=400 if form.errors else 200)
