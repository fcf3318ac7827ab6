"""Tokens for support staff: found by prefix, the hash is not shown."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from accounts.actors import staff_actor
from accounts.forms import ReasonForm
from casola_site.core.admin import ReadOnlyAdmin
from casola_site.core.clock import now
from tokens import keys
from tokens.models import ApiToken, opened_by
from tokens.services import revoke_token

PERMISSION = "tokens.change_apitoken"


def may_revoke(request: HttpRequest) -> bool:
    """Whether the staff member may end a token."""
    return request.user.is_active and request.user.has_perm(PERMISSION)


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """A pasted secret is looked up by its hash and never kept."""

    list_display = (
        "shown",
        "name",
        "public_id",
        "organization",
        "scope_list",
        "state",
        "last_used_at",
        "expires_at",
    )
    list_filter = ("status", "is_service_account")
    search_fields = ("prefix", "public_id", "name", "organization__public_id", "organization__name")
    list_select_related = ("organization",)
    exclude = ("hash", "previous_hash")

    def get_urls(self) -> list[URLPattern]:
        """With the page that revokes."""
        revoke = path(
            "<int:object_id>/revoke/",
            self.admin_site.admin_view(self.revoke),
            name="tokens_apitoken_revoke",
        )
        return [revoke, *super().get_urls()]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """With a link to that page."""
        context = {"may_revoke": may_revoke(request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)

    def revoke(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """Ask why, then do it."""
        if not may_revoke(request):
            raise PermissionDenied
        token = get_object_or_404(ApiToken.objects.select_related("organization"), pk=object_id)
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            reason = form.cleaned_data["reason"]
            revoke_token(token=token, now=now(), by=staff_actor(request), reason=reason)
            messages.success(request, f"Revoked {token}.")
            return redirect("admin:tokens_apitoken_change", token.pk)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": "Revoke",
            "token": token,
            "form": form,
            "opts": ApiToken._meta,
        }
        return TemplateResponse(request, "admin/tokens/apitoken/revoke.html", context)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[ApiToken], search_term: str
    ) -> tuple[QuerySet[ApiToken], bool]:
        """A whole secret finds its token."""
        if keys.is_well_formed(search_term.strip()):
            return queryset.filter(opened_by(keys.digest(search_term.strip()))), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="token", ordering="prefix")
    def shown(self, row: Any) -> str:
        """What may be shown of the secret."""
        return f"{row.prefix}…{row.last_four}"

    @admin.display(description="status", ordering="status")
    def state(self, row: Any) -> str:
        """Active, revoked or expired."""
        return row.shown_status(now()).label

    @admin.display(description="scopes")
    def scope_list(self, row: Any) -> str:
        """As text."""
        return ", ".join(row.scopes)
