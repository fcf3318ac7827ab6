"""The ledger and the prices for support staff."""

from __future__ import annotations

from django.contrib import admin

from casola_site.core.admin import ReadOnlyAdmin
from usage.models import Price, UsageRecord, UsageTotal


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
    """Sums of the ledger over closed hours and days."""

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
