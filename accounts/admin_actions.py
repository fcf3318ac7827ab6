"""What support staff may do to an Organization: a page each, with a reason, told to the audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from accounts.actors import staff_actor
from accounts.forms import BudgetForm, PlanForm, ReasonForm
from accounts.models import Organization
from accounts.services import (
    change_budget,
    change_plan,
    suspend_organization,
    unsuspend_organization,
)
from casola_site.core.clock import now
from casola_site.core.errors import ApiError

PERMISSION = "accounts.change_organization"


@dataclass(frozen=True, slots=True)
class StaffAction:
    """A page that asks for confirmation and calls one service."""

    name: str
    title: str
    effect: str
    form: type[ReasonForm]
    service: Callable[..., Organization]


ACTIONS = (
    StaffAction(
        "suspend",
        "Suspend",
        "From the next request on, its tokens open nothing; open streams end within seconds.",
        ReasonForm,
        suspend_organization,
    ),
    StaffAction(
        "unsuspend", "Unsuspend", "Its tokens work again.", ReasonForm, unsuspend_organization
    ),
    StaffAction(
        "plan",
        "Change plan",
        "The new limits hold from the next request on.",
        PlanForm,
        change_plan,
    ),
    StaffAction(
        "budget",
        "Change budget",
        "What was spent in the present period counts; it holds from the next request on.",
        BudgetForm,
        change_budget,
    ),
)


def may_act(request: HttpRequest) -> bool:
    """Whether the staff member may change Organizations."""
    return request.user.is_active and request.user.has_perm(PERMISSION)


def urls(site: admin.AdminSite) -> list[URLPattern]:
    """A route for each action."""

    def view(action: StaffAction) -> Callable[..., HttpResponse]:
        def act_on(request: HttpRequest, object_id: int) -> HttpResponse:
            return act(request, object_id, action=action, site=site)

        return site.admin_view(act_on)

    return [
        path(
            f"<int:object_id>/{action.name}/",
            view(action),
            name=f"accounts_organization_{action.name}",
        )
        for action in ACTIONS
    ]


def act(
    request: HttpRequest, object_id: int, *, action: StaffAction, site: admin.AdminSite
) -> HttpResponse:
    """Ask, then do it."""
    if not may_act(request):
        raise PermissionDenied
    organization = get_object_or_404(Organization.objects.select_related("plan"), pk=object_id)
    initial = {
        "plan_code": organization.plan.code,
        "amount": organization.budget_amount,
        "period": organization.budget_period if organization.budget else None,
    }
    form = action.form(request.POST or None, initial=initial)
    if request.method == "POST" and form.is_valid() and _do(request, organization, action, form):
        messages.success(request, f"{action.title}: done for {organization}.")
        return redirect("admin:accounts_organization_change", organization.pk)
    context: dict[str, Any] = {
        **site.each_context(request),
        "title": action.title,
        "effect": action.effect,
        "organization": organization,
        "form": form,
        "opts": Organization._meta,
    }
    return TemplateResponse(request, "admin/accounts/organization/act.html", context)


def _do(
    request: HttpRequest, organization: Organization, action: StaffAction, form: ReasonForm
) -> bool:
    try:
        action.service(
            organization=organization, by=staff_actor(request), now=now(), **form.cleaned_data
        )
    except ApiError as error:
        form.add_error("reason", error.message)
        return False
    return True
