"""Inviting people."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render

from accounts.actors import actor_of
from accounts.forms import InviteForm
from accounts.idempotency import Answer, answer_once
from accounts.models import Role
from accounts.permissions import MemberRequest, member_page
from accounts.services import (
    InviteTerms,
    create_invite,
    find_invite,
    join_url,
    resend_invite,
    revoke_invite,
)
from accounts.views.members import members_page
from casola_site.core.clock import now
from casola_site.core.errors import ApiError
from casola_site.core.network import base_url


@member_page(Role.ADMIN, methods="POST")
def invite(request: MemberRequest) -> HttpResponse:
    """A new invite; its link is shown in this answer and never again."""
    form = InviteForm(request.POST, role=request.membership.role)
    if not form.is_valid():
        return members_page(request, form=form)
    data, base, moment = form.cleaned_data, base_url(request), now()
    once = data.pop("once")

    def make() -> Answer:
        made, token = create_invite(
            organization=request.organization,
            terms=InviteTerms(**data),
            base_url=base,
            by=actor_of(request),
            now=moment,
        )
        return 200, {"invite": made.public_id, "url": join_url(base, token)}

    answer = form.carry_out(
        answer_once,
        organization=request.organization,
        route="pages/invites",
        key=once,
        body=data,
        now=moment,
        make=make,
        hide=lambda body: {**body, "url": None},
    )
    if answer is None:
        return members_page(request, form=form)
    return _made(request, answer[1]["invite"], answer[1]["url"])


def _made(request: MemberRequest, invite_id: str, url: str | None) -> HttpResponse:
    found = find_invite(organization_pk=request.organization.pk, invite_id=invite_id)
    return render(request, "accounts/invited.html", {"invite": found, "url": url})


@member_page(Role.ADMIN, methods="POST")
def resend(request: MemberRequest, invite_id: str) -> HttpResponse:
    """A new link for seven more days; the one before opens nothing any more."""
    base = base_url(request)
    try:
        again, token = resend_invite(
            organization=request.organization,
            invite_id=invite_id,
            base_url=base,
            by=actor_of(request),
            now=now(),
        )
    except ApiError as error:
        find_invite(organization_pk=request.organization.pk, invite_id=invite_id)
        return members_page(request, invite_error=(invite_id, error.message))
    return _made(request, again.public_id, join_url(base, token))


@member_page(Role.ADMIN, methods="POST")
def revoke(request: MemberRequest, invite_id: str) -> HttpResponse:
    """Make the invite worthless."""
    try:
        revoked = revoke_invite(
            organization=request.organization,
            invite_id=invite_id,
            by=actor_of(request),
            now=now(),
        )
    except ApiError as error:
        find_invite(organization_pk=request.organization.pk, invite_id=invite_id)
        return members_page(request, invite_error=(invite_id, error.message))
    messages.success(request, f"The invite for {revoked.email or 'whoever has the link'} is gone.")
    return redirect("members")
