"""Users, Organizations, Memberships and Plans for support staff."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Group
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest

from accounts.models import IdempotencyKey, Membership, Organization, Plan, Role, User
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


@admin.register(Organization)
class OrganizationAdmin(ReadOnlyAdmin):
    """Tenants."""

    list_display = ("name", "public_id", "plan", "status", "owner", "members", "created_at")
    list_filter = ("plan", "status", "is_personal")
    search_fields = ("public_id", "name", "slug", "memberships__user__email")
    list_select_related = ("plan",)
    inlines = (MembershipInline,)
    date_hierarchy = "created_at"

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
        "retention_hours",
    )


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnlyAdmin):
    """Remembered answers (the answers themselves are not shown)."""

    list_display = ("organization", "route", "key", "status", "created_at")
    search_fields = ("organization__public_id", "key")
    list_select_related = ("organization",)
    exclude = ("answer",)
