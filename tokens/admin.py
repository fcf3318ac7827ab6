"""Tokens for support staff: found by prefix, the hash is not shown."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from casola_site.core.admin import ReadOnlyAdmin
from tokens import keys
from tokens.models import ApiToken


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """A pasted secret is looked up by its hash and never kept."""

    list_display = (
        "shown",
        "name",
        "public_id",
        "organization",
        "scope_list",
        "status",
        "last_used_at",
        "expires_at",
    )
    list_filter = ("status", "is_service_account")
    search_fields = ("prefix", "public_id", "name", "organization__public_id", "organization__name")
    list_select_related = ("organization",)
    exclude = ("hash",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[ApiToken], search_term: str
    ) -> tuple[QuerySet[ApiToken], bool]:
        """A whole secret finds its token."""
        if keys.is_well_formed(search_term.strip()):
            return queryset.filter(hash=keys.digest(search_term.strip())), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="token", ordering="prefix")
    def shown(self, row: Any) -> str:
        """What may be shown of the secret."""
        return f"{row.prefix}…{row.last_four}"

    @admin.display(description="scopes")
    def scope_list(self, row: Any) -> str:
        """As text."""
        return ", ".join(row.scopes)
