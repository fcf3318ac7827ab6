"""Jobs with their timeline, and Runners with their heartbeat, for support staff."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from casola_site.core.admin import ReadOnlyAdmin
from jobs.models import Job, JobEvent, Runner, StoredFile


def seconds(start: Any, end: Any) -> str:
    """The time between two moments, for people."""
    if start is None or end is None:
        return "–"
    span = (end - start).total_seconds()
    return f"{span * 1000:.0f} ms" if span < 1 else f"{span:.1f} s"


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    """Inputs and results are not shown here: they belong to the tenant."""

    list_display = (
        "id",
        "organization",
        "model_id",
        "task",
        "lane",
        "status",
        "created_at",
        "queued_for",
        "ran_for",
        "attempts",
        "crashes",
    )
    list_filter = ("status", "lane", "task", "model_id")
    search_fields = ("id", "organization__public_id", "token__public_id")
    list_select_related = ("organization",)
    exclude = ("input", "metadata", "result")
    readonly_fields = ("timeline",)
    date_hierarchy = "created_at"

    @admin.display(description="queued")
    def queued_for(self, row: Job) -> str:
        """From creation to the start of work."""
        return seconds(row.created_at, row.started_at)

    @admin.display(description="ran")
    def ran_for(self, row: Job) -> str:
        """From the start of work to the end."""
        return seconds(row.started_at, row.completed_at)

    @admin.display(description="timeline")
    def timeline(self, row: Job) -> SafeString:
        """Every moment that is known, in order, with the time since the one before."""
        moments = [
            ("created", row.created_at),
            ("started", row.started_at),
            ("first output", row.first_output_at),
            (str(row.status) if row.completed_at else "", row.completed_at),
        ]
        moments = [(name, at) for name, at in moments if name and at]
        moments += [
            (f"event {event.seq}: {event.type} {event.data or ''}", event.at)
            for event in row.events.all()
        ]
        moments.sort(key=lambda moment: moment[1])
        before = [moments[0][1], *(at for _, at in moments[:-1])]
        lines = format_html_join(
            "",
            "<li><time datetime='{}'>{}</time> (+{}) {}</li>",
            (
                (at.isoformat(), at.strftime("%H:%M:%S.%f")[:-3], seconds(last, at), name)
                for (name, at), last in zip(moments, before, strict=True)
            ),
        )
        return format_html("<ol>{}</ol>", lines)


@admin.register(JobEvent)
class JobEventAdmin(ReadOnlyAdmin):
    """What happened to Jobs."""

    list_display = ("at", "job_id", "seq", "type", "data")
    list_filter = ("type",)
    search_fields = ("job__id",)
    raw_id_fields = ("job",)


@admin.register(Runner)
class RunnerAdmin(ReadOnlyAdmin):
    """Processes that hold a model."""

    list_display = (
        "public_id",
        "model_id",
        "node",
        "pid",
        "state",
        "heartbeat_age",
        "outstanding",
        "capacity",
        "memory",
        "started_at",
        "detail",
    )
    list_filter = ("state", "node", "model_id")
    search_fields = ("public_id", "model_id", "node", "placement_id")

    @admin.display(description="heartbeat", ordering="heartbeat_at")
    def heartbeat_age(self, row: Runner) -> str:
        """How long ago."""
        return (
            f"{(timezone.now() - row.heartbeat_at).total_seconds():.0f} s ago"
            if row.holds_lease
            else "ended"
        )

    @admin.display(ordering="memory_bytes")
    def memory(self, row: Runner) -> str:
        """In MB."""
        return f"{row.memory_bytes / 1e6:.0f} MB"


@admin.register(StoredFile)
class StoredFileAdmin(ReadOnlyAdmin):
    """Who keeps how much; what is in the files belongs to the tenant."""

    list_display = (
        "__str__",
        "organization",
        "purpose",
        "job_id",
        "size_bytes",
        "created_at",
        "expires_at",
    )
    list_filter = ("purpose",)
    search_fields = ("name", "public_id", "organization__public_id", "job__id")
    list_select_related = ("organization",)
    raw_id_fields = ("job",)
    ordering = ("-created_at",)
    date_hierarchy = "created_at"
