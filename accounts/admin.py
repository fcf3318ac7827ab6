"""Users, Organizations, Memberships and Plans for support staff."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern

from accounts import admin_actions
from accounts.models import (
    AuditEvent,
    IdempotencyKey,
    Invite,
    Membership,
    Organization,
    OwnershipTransfer,
    Plan,
    Role,
    User,
)
from accounts.sign_in import admin as _sign_in  # noqa: F401 - registers what it has
from casola_site.core.admin import ReadOnlyAdmin, ReadOnlyInline

admin.site.site_header = admin.site.site_title = "Casola admin"
admin.site.index_title = "Support console"
admin.site.unregister(Group)


class MembershipInline(ReadOnlyInline):
    """Who belongs to it."""

    model = Membership
    fields = ("user", "role", "created_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        """With the users."""
        return super().get_queryset(request).select_related("user")


class LatestInline(ReadOnlyInline):
    """The newest rows only: an Organization may have very many."""

    most = 20

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        """Chosen by id, because a formset filters further."""
        rows = super().get_queryset(request)
        match = request.resolver_match
        shown = str((match.kwargs if match else {}).get("object_id", ""))
        if not shown.isdecimal():
            return rows.none()
        latest = rows.filter(organization_id=int(shown)).order_by("-created_at", "-pk")
        return rows.filter(pk__in=list(latest.values_list("pk", flat=True)[: self.most])).order_by(
            "-created_at", "-pk"
        )


class InviteInline(LatestInline):
    """Ways into it."""

    model = Invite
    fields = ("email", "role", "max_uses", "uses", "expires_at", "revoked_at", "mailed_at")


class AuditInline(LatestInline):
    """What was changed last."""

    model = AuditEvent
    verbose_name_plural = "latest audit events"
    fields = ("created_at", "action", "actor_kind", "actor_name", "target_name", "reason", "ip")


@admin.register(Organization)
class OrganizationAdmin(ReadOnlyAdmin):
    """Tenants."""

    list_display = ("name", "public_id", "plan", "status", "owner", "members", "created_at")
    list_filter = ("plan", "status", "is_personal")
    search_fields = ("public_id", "name", "slug", "memberships__user__email")
    list_select_related = ("plan",)
    inlines = (MembershipInline, InviteInline, AuditInline)
    date_hierarchy = "created_at"

    def get_urls(self) -> list[URLPattern]:
        """With a page for each thing that support staff may do."""
        return [*admin_actions.urls(self.admin_site), *super().get_urls()]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """With links to those pages."""
        context = {"may_act": admin_actions.may_act(request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Organization]:
        """With owner and member count."""
        owner = Membership.objects.filter(organization=OuterRef("pk"), role=Role.OWNER).order_by(
            "pk"
        )
        return (
            super()
            .get_queryset(request)
            .annotate(
                member_count=Count("memberships", distinct=True),
                owner_email=Subquery(owner.values("user__email")[:1]),
            )
        )

    @admin.display(ordering="owner_email")
    def owner(self, row: Any) -> str:
        """The first Owner's address."""
        return row.owner_email or "–"

    @admin.display(ordering="member_count")
    def members(self, row: Any) -> int:
        """How many."""
        return row.member_count


@admin.register(User)
class UserAdmin(ReadOnlyAdmin):
    """People."""

    list_display = (
        "email",
        "public_id",
        "name",
        "is_active",
        "is_staff",
        "email_verified_at",
        "last_login",
    )
    list_filter = ("is_active", "is_staff")
    search_fields = ("email", "public_id", "name")
    exclude = ("password", "groups", "user_permissions")


@admin.register(Membership)
class MembershipAdmin(ReadOnlyAdmin):
    """Members and their roles."""

    list_display = ("organization", "user", "role", "created_at")
    list_filter = ("role",)
    search_fields = ("organization__public_id", "organization__name", "user__email")
    list_select_related = ("organization", "user")


@admin.register(Invite)
class InviteAdmin(ReadOnlyAdmin):
    """Invites; what opens them is not stored."""

    list_display = (
        "public_id",
        "organization",
        "email",
        "role",
        "uses",
        "max_uses",
        "expires_at",
        "revoked_at",
    )
    list_filter = ("role", "multi_use")
    search_fields = ("public_id", "email", "organization__public_id", "organization__name")
    list_select_related = ("organization",)
    exclude = ("token_hash",)


@admin.register(OwnershipTransfer)
class OwnershipTransferAdmin(ReadOnlyAdmin):
    """Offered ownerships."""

    list_display = ("public_id", "organization", "from_user", "to_user", "status", "expires_at")
    list_filter = ("status",)
    search_fields = ("public_id", "organization__public_id", "organization__name")
    list_select_related = ("organization", "from_user", "to_user")


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    """Who did what."""

    list_display = (
        "created_at",
        "action",
        "organization",
        "actor_kind",
        "actor_name",
        "target_name",
        "reason",
        "ip",
        "request_id",
    )
    list_filter = ("actor_kind", "action")
    search_fields = (
        "organization__public_id",
        "organization__name",
        "actor_id",
        "actor_name",
        "on_behalf_of",
        "target",
        "target_name",
        "request_id",
    )
    list_select_related = ("organization",)
    date_hierarchy = "created_at"


@admin.register(Plan)
class PlanAdmin(ReadOnlyAdmin):
    """Named limits."""

    list_display = (
        "name",
        "code",
        "api_requests_per_minute",
        "job_submissions_per_minute",
        "max_running_jobs",
        "max_queued_jobs",
        "max_streams",
        "storage_bytes",
        "retention_hours",
    )


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnlyAdmin):
    """Remembered answers (the answers themselves are not shown)."""

    list_display = ("organization", "route", "key", "status", "created_at")
    search_fields = ("organization__public_id", "key")
    list_select_related = ("organization",)
    exclude = ("answer",)
