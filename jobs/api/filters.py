"""The filters of the list of Jobs, from the query of its address."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from drf_spectacular.utils import OpenApiParameter

from casola_site.core.errors import InvalidRequest
from jobs.enums import JobStatus
from jobs.selectors import JobFilter

LONGEST = {"model_id": 200, "task": 60}
LATEST = 253_402_300_799  # the last second of the year 9999
PARAMETERS = [
    OpenApiParameter("status", str, enum=JobStatus.values),
    OpenApiParameter("model_id", str, description="as the Jobs show it"),
    OpenApiParameter("task", str),
    OpenApiParameter("created_after", int, description="Unix seconds; this second included"),
    OpenApiParameter("created_before", int, description="Unix seconds; this second excluded"),
]


def filter_of(params: Any) -> JobFilter:
    """What the query asks for. Raises InvalidRequest, which names the parameter."""
    status = params.get("status")
    if status is not None and status not in JobStatus.values:
        raise _bad("status", f"must be one of {', '.join(JobStatus.values)}")
    return JobFilter(
        status=status,
        model_id=_text(params, "model_id"),
        task=_text(params, "task"),
        created_after=_moment(params, "created_after"),
        created_before=_moment(params, "created_before"),
    )


def _text(params: Any, name: str) -> str | None:
    value = params.get(name)
    if value is not None and (not 0 < len(value) <= LONGEST[name] or "\x00" in value):
        raise _bad(name, f"must be 1 to {LONGEST[name]} characters")
    return value


def _moment(params: Any, name: str) -> datetime | None:
    value = params.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 12 and int(value) <= LATEST):
        raise _bad(name, "must be a time in whole Unix seconds")
    return datetime.fromtimestamp(int(value), tz=UTC)


def _bad(name: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{name} {message}", code="invalid_value", param=name)
