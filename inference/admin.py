"""Models, nodes and placements for support staff."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils import timezone

from casola_site.core.admin import ReadOnlyAdmin, ReadOnlyInline
from inference.models import ModelSpec, Node, Placement
from jobs.enums import HOLDS_LEASE
from jobs.models import Runner


class PlacementInline(ReadOnlyInline):
    """Where it is loaded."""

    model = Placement
    fields = (
        "public_id",
        "node",
        "device",
        "state",
        "memory_bytes",
        "failures",
        "detail",
        "used_at",
    )


@admin.register(ModelSpec)
class ModelSpecAdmin(ReadOnlyAdmin):
    """Servable models."""

    list_display = (
        "model_id",
        "public_id",
        "task_list",
        "engine",
        "loaded_as",
        "source",
        "dtype",
        "slots",
        "enabled",
        "is_demo",
        "keep_loaded",
    )
    list_filter = ("enabled", "is_demo", "engine", "loaded_as")
    search_fields = ("model_id", "public_id", "aliases")
    inlines = (PlacementInline,)

    @admin.display(description="tasks")
    def task_list(self, row: ModelSpec) -> str:
        """As text."""
        return ", ".join(row.tasks)


@admin.register(Placement)
class PlacementAdmin(ReadOnlyAdmin):
    """Which model should be where, and the Runner that holds it."""

    list_display = (
        "spec",
        "public_id",
        "node",
        "device",
        "state",
        "runner_state",
        "memory",
        "failures",
        "used_at",
        "detail",
    )
    list_filter = ("state", "node")
    search_fields = ("public_id", "spec__model_id", "node")
    list_select_related = ("spec",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Placement]:
        """With the state of its present Runner."""
        runner = Runner.objects.filter(placement_id=OuterRef("public_id"), state__in=HOLDS_LEASE)
        return (
            super()
            .get_queryset(request)
            .annotate(present_state=Subquery(runner.order_by("-pk").values("state")[:1]))
        )

    @admin.display(description="runner", ordering="present_state")
    def runner_state(self, row: Any) -> str:
        """Loading, live, draining or none."""
        return row.present_state or "–"

    @admin.display(ordering="memory_bytes")
    def memory(self, row: Placement) -> str:
        """In MB."""
        return f"{row.memory_bytes / 1e6:.0f} MB"


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    """Hosts that run Runners."""

    list_display = ("name", "pid", "slots", "devices", "heartbeat_age", "started_at")
    search_fields = ("name",)

    @admin.display(description="heartbeat", ordering="heartbeat_at")
    def heartbeat_age(self, row: Node) -> str:
        """How long ago."""
        return f"{(timezone.now() - row.heartbeat_at).total_seconds():.0f} s ago"
