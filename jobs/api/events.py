"""GET /api/jobs/{id}/events: what happened to a Job, as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers

from casola_site.core.clock import now, unix
from casola_site.core.errors import ApiError, InvalidRequest, body_for
from casola_site.core.network import base_url
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from jobs.api.serializers import JobErrorSerializer, shown_result
from jobs.enums import TERMINAL, JobStatus
from jobs.models import Job
from jobs.selectors import Told, events_after, last_seq
from jobs.services import find_job

STREAM_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
OPENING = b"retry: 1000\n\n"
HEARTBEAT = b": \n\n"
LAST_EVENT_ID = "Last-Event-ID"
RUNNING = frozenset({"claimed", "progress"})


class JobEventSerializer(serializers.Serializer):
    """One event; `data` of a progress event has `progress` and `message`, of the last one these."""

    id = serializers.UUIDField(help_text="of the job")
    seq = serializers.IntegerField(help_text="counts from 1; also the event's id")
    type = serializers.CharField()
    status = serializers.ChoiceField(choices=JobStatus.choices)
    at = serializers.IntegerField()
    data = serializers.DictField()
    result = serializers.JSONField(required=False, allow_null=True)
    error = JobErrorSerializer(required=False, allow_null=True)
    usage = serializers.DictField(child=serializers.IntegerField(), required=False)


def event_body(job_id: Any, told: Told, base: str) -> dict[str, Any]:
    """An event as its readers see it; the last one says what became of the Job."""
    status: str = JobStatus.PROCESSING if told.type in RUNNING else JobStatus.PENDING
    body = {
        "id": str(job_id),
        "seq": told.seq,
        "type": told.type,
        "status": told.type if told.type in TERMINAL else status,
        "at": unix(told.at),
        "data": told.data,
    }
    if told.job is None:
        return body
    error = told.job.error
    return {
        **body,
        "result": shown_result(told.job, base, now()),
        "error": error and {"code": error.get("code"), "message": error.get("message")},
        "usage": told.job.units,
    }


def as_text(body: dict[str, Any]) -> str:
    """JSON in one line."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def as_sse(job_id: Any, found: Iterable[Told], base: str) -> bytes:
    """Server-sent events."""
    return "".join(
        f"id: {told.seq}\nevent: {told.type}\ndata: {as_text(event_body(job_id, told, base))}\n\n"
        for told in found
    ).encode()


def error_event(error: ApiError) -> bytes:
    """The end of a stream that broke; it has no id, so that one may go on after the last event."""
    return f"event: error\ndata: {as_text(body_for(error, 'native'))}\n\n".encode()


def position(text: str | None, *, param: str) -> int:
    """The number of the last event that a reader has seen. Raises InvalidRequest."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        message = f"{param} must be the id of an event of this job"
        raise InvalidRequest(message, code="invalid_value", param=param)
    return int(text)


def job_to_follow(*, organization_id: int, job_id: str, after: int, param: str) -> Job:
    """The tenant's Job. Raises JobNotFound, or InvalidRequest where it has no such event."""
    job = find_job(organization_id=organization_id, job_id=job_id)
    if after and after > last_seq(job):
        message = f"{param} must be the id of an event of this job"
        raise InvalidRequest(message, code="invalid_value", param=param)
    return job


class JobEventsViewSet(ApiViewSet):
    """The declaration of the stream; `jobs.consumers` serves it and waits for what is to come."""

    required_scopes = {"GET": Scope.USER_READ}

    @extend_schema(
        operation_id="get_job_events",
        summary="Follow a job",
        tags=["Jobs"],
        parameters=[
            OpenApiParameter("job_id", str, OpenApiParameter.PATH),
            OpenApiParameter(LAST_EVENT_ID, int, OpenApiParameter.HEADER),
            OpenApiParameter("after", int, description=f"the same as {LAST_EVENT_ID}"),
        ],
        responses={
            (200, "text/event-stream"): OpenApiResponse(
                JobEventSerializer, "Server-sent events; this is the data of each"
            )
        },
    )
    def list(self, request: Any, job_id: str) -> HttpResponse:
        """Every event from the first, or from the one after the last that was seen, to the end.

        A stream that is cut goes on with its last id: nothing is lost, doubled or out of order.
        """
        after, param = wanted_position(request.headers.get(LAST_EVENT_ID), request.query_params)
        own = request.auth.organization_pk
        job = job_to_follow(organization_id=own, job_id=job_id, after=after, param=param)
        # Without an event loop the stream ends with what there is; readers come again for more.
        found = events_after([(job.pk, after)]).get(job.pk, [])
        return HttpResponse(
            OPENING + as_sse(job.pk, found, base_url(request)), headers=STREAM_HEADERS
        )


def wanted_position(header: str | None, query: Any) -> tuple[int, str]:
    """Where to begin, and which of the two said so."""
    param = LAST_EVENT_ID if header else "after"
    return position(header or query.get("after"), param=param), param
