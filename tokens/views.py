"""API tokens under Settings: list, make, change, rotate, revoke."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render

from accounts.actors import actor_of
from accounts.idempotency import Answer, answer_once
from accounts.models import Role
from accounts.permissions import MemberRequest, member_page
from casola_site.core.clock import now
from casola_site.core.errors import InvalidRequest
from casola_site.core.forms import posted
from casola_site.core.network import base_url
from casola_site.core.pagination import page
from casola_site.core.scopes import Scope
from tokens.forms import RevokeForm, RotateForm, SecretForm, TokenChangeForm, TokenForm
from tokens.identity import member_identity
from tokens.models import ApiToken, ShownStatus, TokenStatus
from tokens.selectors import MANAGERS, budget_states, find_seen, is_theirs, tokens_seen_by
from tokens.services import (
    NotYours,
    TokenNotFound,
    change_token,
    mint_token,
    revoke_token,
    rotate_token,
)


@member_page(Role.VIEWER)
def tokens(request: MemberRequest) -> HttpResponse:
    """The member's own tokens, for Owners and Admins everybody's."""
    rows = tokens_seen_by(request.membership)
    with_ended = request.GET.get("ended") == "1"
    if not with_ended:
        rows = rows.exclude(status=TokenStatus.REVOKED)
    found, has_more = page(rows, {"limit": "50", "after": request.GET.get("after", "")})
    moment = now()
    budgets = budget_states(found, moment)  # type: ignore[arg-type]
    context = {
        "rows": [(row, row.shown_status(moment), budgets.get(row.pk)) for row in found],  # type: ignore[attr-defined]
        "next_after": found[-1].public_id if has_more else None,  # type: ignore[attr-defined]
        "with_ended": with_ended,
        "sees_all": request.membership.role in MANAGERS,
    }
    return render(request, "tokens/list.html", context)


@member_page(Role.VIEWER, methods="GET POST", verified=True)
def create(request: MemberRequest) -> HttpResponse:
    """Ask, make it, show its secret: in this answer, and never again."""
    caller = member_identity(request.membership)
    form = TokenForm(
        posted(request),
        reach=caller.scopes,
        may_serve=Scope.ADMIN_WRITE in caller.scopes,
        initial={"scopes": sorted({Scope.USER_READ, Scope.USER_WRITE} & caller.scopes)},
    )
    if request.method == "POST" and form.is_valid():
        moment = now()
        service_account = form.cleaned_data.get("service_account", False)

        def make() -> Answer:
            token, secret = mint_token(
                minted_by=caller,
                organization=request.organization,
                service_account=service_account,
                by=actor_of(request),
                now=moment,
                **form.columns(moment),
            )
            return 201, {"token": token.public_id, "secret": secret}

        response = _once(request, form, "pages/tokens", make)
        if response is not None:
            return response
    status = 400 if form.errors else 200
    return render(request, "tokens/create.html", {"form": form}, status=status)


def _once(request: MemberRequest, form: Any, route: str, make: Any) -> HttpResponse | None:
    """The page with the secret, without it when the form comes a second time; None if refused."""
    answer = form.carry_out(
        answer_once,
        organization=request.organization,
        route=route,
        key=form.cleaned_data["once"],
        body={name: str(value) for name, value in form.cleaned_data.items()},
        now=now(),
        make=make,
        hide=lambda body: {**body, "secret": None},
    )
    if answer is None:
        return None
    token, secret = _seen(request, answer[1]["token"]), answer[1]["secret"]
    context = {**samples(request), "token": token, "secret": secret, "is_new": answer[0] == 201}
    return render(request, "tokens/secret.html", context, status=answer[0])


def samples(request: Any) -> dict[str, Any]:
    """What the code samples are filled in with."""
    return {"base_url": base_url(request), "sample_model": settings.SAMPLE_MODEL}


def _seen(request: MemberRequest, token_id: str) -> ApiToken:
    token = find_seen(request.membership, token_id)
    if token is None:
        raise TokenNotFound
    return token


@member_page(Role.VIEWER, methods="GET POST")
def token(request: MemberRequest, token_id: str) -> HttpResponse:
    """What it may do; its member, or a manager of a service account's, changes that."""
    row = _seen(request, token_id)
    caller = member_identity(request.membership)
    form = TokenChangeForm(posted(request), token=row, reach=caller.scopes)
    if request.method == "POST":
        if not is_theirs(request.membership, row):
            raise NotYours("Only the member whose token it is may change it")
        moment = now()
        if form.is_valid() and form.carry_out(
            change_token,
            token=row,
            changes=form.columns(moment),
            caller=caller,
            by=actor_of(request),
            now=moment,
        ):
            messages.success(request, "Saved. It counts from the next request on.")
            return redirect("token", row.public_id)
    return _token_page(request, row, form, RotateForm())


def _token_page(
    request: MemberRequest, row: ApiToken, form: TokenChangeForm, rotation: RotateForm
) -> HttpResponse:
    moment = now()
    status = row.shown_status(moment)
    context = {
        "token": row,
        "status": status,
        "budget": budget_states([row], moment).get(row.pk),
        "form": form,
        "rotation": rotation,
        "is_theirs": is_theirs(request.membership, row),
        "may_change": is_theirs(request.membership, row) and status != ShownStatus.REVOKED,
        "may_rotate": is_theirs(request.membership, row) and status == ShownStatus.ACTIVE,
    }
    code = 400 if form.errors or rotation.errors else 200
    return render(request, "tokens/token.html", context, status=code)


@member_page(Role.VIEWER, methods="POST", verified=True)
def rotate(request: MemberRequest, token_id: str) -> HttpResponse:
    """A new secret, shown in this answer; the present one works until the grace ends."""
    row = _seen(request, token_id)
    if not is_theirs(request.membership, row):
        raise NotYours
    caller = member_identity(request.membership)
    form = RotateForm(request.POST)
    if form.is_valid():
        grace = timedelta(seconds=int(form.cleaned_data["grace"]))

        def make() -> Answer:
            rotated, secret = rotate_token(
                token=row, grace=grace, caller=caller, by=actor_of(request), now=now()
            )
            return 200, {"token": rotated.public_id, "secret": secret}

        response = _once(request, form, f"pages/tokens/{row.public_id}/rotate", make)
        if response is not None:
            return response
    return _token_page(request, row, TokenChangeForm(token=row, reach=caller.scopes), form)


@member_page(Role.VIEWER, methods="GET POST")
def revoke(request: MemberRequest, token_id: str) -> HttpResponse:
    """Ask for its name, then make it worthless for good."""
    row = _seen(request, token_id)
    form = RevokeForm(posted(request), expected=row.name)
    if request.method == "POST" and form.is_valid():
        revoke_token(token=row, now=now(), by=actor_of(request))
        messages.success(request, f"{row.name} opens nothing any more.")
        return redirect("tokens")
    context = {"form": form, "token": row}
    return render(request, "tokens/revoke.html", context, status=400 if form.errors else 200)


@member_page(Role.VIEWER, methods="POST", while_suspended=True)
def env_file(request: MemberRequest) -> HttpResponse:
    """The secret that the page shows, as a file: it comes in the body and is not kept."""
    form = SecretForm(request.POST)
    if not form.is_valid():
        raise InvalidRequest("This is no secret")
    text = (
        f"CASOLA_API_KEY={form.cleaned_data['secret']}\n"
        f"CASOLA_BASE_URL={base_url(request)}/openai/v1\n"
    )
    return HttpResponse(
        text,
        content_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="casola.env"'},
    )
