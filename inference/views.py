"""Where a member arrives: the first key, the first call, and whether it has come."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render

from accounts.actors import actor_of, origin_of
from accounts.models import Membership, OrganizationStatus, Role
from accounts.navigation import reaches
from accounts.permissions import MemberRequest, member_page
from casola_site.core.clock import now, unix
from casola_site.core.errors import ApiError, AuthenticationFailed, NotFound
from casola_site.core.network import base_url
from inference.api.openai.chat import ChatCompletionViewSet
from inference.api.trial import run_trial
from tokens.onboarding import make_first_key, replace_first_key
from tokens.selectors import onboarding_token
from usage.models import UsageRecord
from usage.selectors import last_record

PREFETCH = ("HTTP_SEC_PURPOSE", "HTTP_PURPOSE", "HTTP_X_MOZ")
HELLO = [{"role": "user", "content": "Hello!"}]


@member_page(Role.VIEWER, methods="GET")
def start(request: MemberRequest) -> HttpResponse:
    """Where signing in leads: to the first call while there was none, then to the usage."""
    if not may_call(request.membership) or request.user.email_verified_at is None:
        return redirect("usage")
    return redirect("welcome" if last_record(request.organization) is None else "usage")


def may_call(membership: Membership) -> bool:
    """Whether a key for the first call can be made for the member."""
    is_open = membership.organization.status == OrganizationStatus.ACTIVE
    return is_open and reaches(membership.role, Role.MEMBER)


@member_page(Role.MEMBER, verified=True)
def welcome(request: MemberRequest) -> HttpResponse:
    """The first key, made and shown by the first visit alone, and what to do with it."""
    made = None
    if request.method == "GET" and not _is_prefetch(request) and may_call(request.membership):
        made = make_first_key(membership=request.membership, by=actor_of(request), now=now())
    return _welcome(request, secret=made[1] if made else None)


def _is_prefetch(request: MemberRequest) -> bool:
    """Whether the browser only fetches ahead: nobody would see the secret."""
    return any("prefetch" in request.META.get(name, "").lower() for name in PREFETCH)


@member_page(Role.MEMBER, methods="POST", verified=True)
def new_key(request: MemberRequest) -> HttpResponse:
    """A new secret for the first key, shown in this answer; the one before ends."""
    _, secret = replace_first_key(membership=request.membership, by=actor_of(request), now=now())
    return _welcome(request, secret=secret)


@member_page(Role.MEMBER, methods="POST", verified=True)
def test(request: MemberRequest) -> HttpResponse:
    """The first call, made here with the member's first key."""
    token = onboarding_token(request.membership)
    try:
        if token is None:
            raise NotFound("Make a key first")
        trial = run_trial(
            ChatCompletionViewSet,
            token=token,
            body={"model": settings.SAMPLE_MODEL, "messages": HELLO},
            address=origin_of(request)["ip"],
        )
    except AuthenticationFailed:
        problem: ApiError = NotFound("The key does not work any more: make a new one")
        return _welcome(request, problem=problem, status=400)
    except ApiError as error:
        return _welcome(request, problem=error, status=error.status)
    return _welcome(request, trial=trial)


def _welcome(request: MemberRequest, *, status: int = 200, **shown: Any) -> HttpResponse:
    context = {
        "base_url": base_url(request),
        "sample_model": settings.SAMPLE_MODEL,
        "token": onboarding_token(request.membership),
        "record": last_record(request.organization),
        "may_call": may_call(request.membership),
        **shown,
    }
    return render(request, "inference/welcome.html", context, status=status)


@member_page(Role.MEMBER)
def first_call(request: MemberRequest) -> HttpResponse:
    """Whether the organization's first request has come, and what the newest one was."""
    record = last_record(request.organization)
    return JsonResponse({"received": record is not None, "request": record and _told(record)})


def _told(record: UsageRecord) -> dict[str, Any]:
    return {
        "at": unix(record.created_at),
        "model": record.model_id,
        "status": record.status,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
    }
