"""The ledger, the prices and the budgets for support staff."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.contrib import admin

from casola_site.core.admin import ReadOnlyAdmin
from usage.models import (
    BudgetAlert,
    BudgetCounter,
    BudgetReservation,
    Price,
    UsageRecord,
    UsageTotal,
    amount_of_nanos,
)


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    """One row per finished Job."""

    list_display = (
        "created_at",
        "organization",
        "model_id",
        "task",
        "status",
        "prompt_tokens",
        "completion_tokens",
        "compute_ms",
        "amount",
        "currency",
        "job_id",
    )
    list_filter = ("status", "task", "model_id")
    search_fields = ("job_id", "public_id", "organization__public_id", "token__public_id")
    list_select_related = ("organization",)
    raw_id_fields = ("organization", "token", "user")
    date_hierarchy = "created_at"


@admin.register(Price)
class PriceAdmin(ReadOnlyAdmin):
    """What a unit costs from when on."""

    list_display = ("model_id", "unit", "amount", "per", "currency", "valid_from")
    list_filter = ("model_id", "unit")


@admin.register(UsageTotal)
class UsageTotalAdmin(ReadOnlyAdmin):
    """Sums of the ledger over closed minutes, hours and days."""

    list_display = (
        "start",
        "granularity",
        "organization",
        "model_id",
        "task",
        "status",
        "requests",
        "prompt_tokens",
        "completion_tokens",
        "compute_ms",
        "amount",
    )
    list_filter = ("granularity", "status", "task", "model_id")
    search_fields = ("organization__public_id", "token__public_id")
    list_select_related = ("organization",)
    raw_id_fields = ("organization", "token", "user")
    date_hierarchy = "start"


@admin.register(BudgetCounter)
class BudgetCounterAdmin(ReadOnlyAdmin):
    """Budgets and how far they are used; an Organization's is changed on its own page."""

    list_display = (
        "organization", "token", "limit", "period", "period_start", "used", "held", "alerted",
    )  # fmt: skip
    list_filter = ("period", "alerted")
    search_fields = ("organization__public_id", "organization__name", "token__public_id")
    list_select_related = ("organization", "token")
    fields = (
        "organization", "token", "limit", "period", "period_start", "used", "held", "alerted",
    )  # fmt: skip
    readonly_fields = ("limit", "used", "held")

    @admin.display(description="amount", ordering="amount")
    def limit(self, row: Any) -> Decimal:
        """In the currency."""
        return amount_of_nanos(row.amount)

    @admin.display(description="spent", ordering="spent")
    def used(self, row: Any) -> Decimal:
        """In the currency, in the period that began at `period_start`."""
        return amount_of_nanos(row.spent)

    @admin.display(description="reserved", ordering="reserved")
    def held(self, row: Any) -> Decimal:
        """In the currency."""
        return amount_of_nanos(row.reserved)


@admin.register(BudgetReservation)
class BudgetReservationAdmin(ReadOnlyAdmin):
    """What requests under way hold back."""

    list_display = ("created_at", "counter", "job_id", "held", "expires_at")
    search_fields = ("job_id", "counter__organization__public_id", "counter__token__public_id")
    list_select_related = ("counter__organization", "counter__token")
    fields = ("created_at", "counter", "job_id", "held", "expires_at")
    readonly_fields = ("held",)

    @admin.display(description="amount", ordering="amount")
    def held(self, row: Any) -> Decimal:
        """In the currency."""
        return amount_of_nanos(row.amount)


@admin.register(BudgetAlert)
class BudgetAlertAdmin(ReadOnlyAdmin):
    """What was told of budgets."""

    list_display = ("created_at", "counter", "threshold", "is_refusal", "mailed_at")
    list_filter = ("threshold", "is_refusal")
    search_fields = ("counter__organization__public_id", "counter__token__public_id")
    list_select_related = ("counter__organization", "counter__token")
    exclude = ("amount", "spent")
