"""POST /api/jobs and what follows."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.response import Response

from accounts.api.parameters import IDEMPOTENCY_KEY, PAGING
from accounts.idempotency import Answer, answer_once
from accounts.models import Organization
from casola_site.core.clock import now
from casola_site.core.errors import ModelNotFound
from casola_site.core.pagination import page
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from jobs.api.filters import PARAMETERS, filter_of
from jobs.api.serializers import (
    JobCreatedSerializer,
    JobCreateSerializer,
    JobListSerializer,
    JobSerializer,
    JobSummarySerializer,
    wishes_of,
)
from jobs.contracts import task_contract
from jobs.models import Job
from jobs.retention import delete_data
from jobs.selectors import list_jobs
from jobs.services import cancel_job, find_job
from jobs.submission import Submitter, submit_job
from usage.limits import RateClass
from usage.reservations import refusals_told
from usage.services import price_snapshot

JOB = OpenApiParameter("job_id", str, OpenApiParameter.PATH)


class JobViewSet(ApiViewSet):
    """Jobs of the caller's Organization."""

    required_scopes = {"GET": Scope.USER_READ, "POST": Scope.USER_WRITE}
    rate_classes = {"POST": RateClass.JOB_SUBMISSION}

    @extend_schema(
        operation_id="list_jobs",
        summary="List jobs",
        tags=["Jobs"],
        parameters=[*PARAMETERS, *PAGING],
        responses=JobListSerializer,
    )
    def list(self, request: Any) -> Response:
        """Jobs, the newest first, without their results; interactive requests are among them."""
        own, query = request.auth.organization_pk, request.query_params
        rows = list_jobs(organization_id=own, wanted=filter_of(query))
        anchors = Job.objects.for_organization(own)
        jobs, has_more = page(rows, query, key="pk", anchors=anchors)
        shown = JobSummarySerializer(jobs, many=True).data
        after = shown[-1]["id"] if has_more else None
        return Response({"jobs": shown, "has_more": has_more, "next_after": after})

    @extend_schema(
        operation_id="create_job",
        summary="Create a job",
        tags=["Jobs"],
        parameters=[IDEMPOTENCY_KEY],
        request=JobCreateSerializer,
        responses={201: JobCreatedSerializer},
    )
    def create(self, request: Any) -> Response:
        """Queue a Job; poll it until it is completed."""
        body = JobCreateSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        data, identity, moment = body.validated_data, request.auth, now()
        contract = task_contract(model=data["model_id"], task=data["task"], payload=data["input"])
        if not identity.may_use(contract.model_id):
            raise ModelNotFound(data["model_id"])

        def make() -> Answer:
            job = submit_job(
                submitter=Submitter.of(identity),
                model_id=contract.model_id,
                queue_id=contract.queue_id,
                task=contract.task,
                payload=contract.payload,
                wishes=wishes_of(data),
                ceiling=contract.ceiling(now=moment) if identity.is_budgeted else Decimal(0),
                makes_files=contract.makes_files,
                now=moment,
            )
            return 201, {"id": str(job.pk), "queue_id": job.queue_id}

        key = request.headers.get("Idempotency-Key")
        with refusals_told(moment):
            status, answer = answer_once(
                organization=Organization(pk=identity.organization_pk),
                route="jobs",
                key=key,
                body=request.data,
                now=moment,
                make=make,
            )
        headers = {"x-casola-job-id": answer["id"]}
        if contract.is_demo:
            headers["x-casola-weights"] = "demo"
        return Response(answer, status=status, headers=headers)

    @extend_schema(
        operation_id="get_job",
        summary="One job",
        tags=["Jobs"],
        parameters=[JOB],
        responses=JobSerializer,
    )
    def retrieve(self, request: Any, job_id: str) -> Response:
        """Status, progress and, when it is completed, the result."""
        job = find_job(organization_id=request.auth.organization_pk, job_id=job_id)
        return Response(JobSerializer(job, context={"request": request}).data)


class JobCancelViewSet(ApiViewSet):
    """Cancelling counts as an API request."""

    required_scopes = {"POST": Scope.USER_WRITE}
    empty_body_allowed = True

    @extend_schema(
        operation_id="cancel_job",
        summary="Cancel a job",
        tags=["Jobs"],
        parameters=[JOB],
        request=None,
        responses={200: JobSerializer},
    )
    def create(self, request: Any, job_id: str) -> Response:
        """Make a Job cancelled at once; 409 when it had ended."""
        job = find_job(organization_id=request.auth.organization_pk, job_id=job_id)
        moment = now()
        prices = price_snapshot(model_id=job.model_id, now=moment)
        cancelled = cancel_job(job=job, prices=prices, now=moment)
        return Response(JobSerializer(cancelled, context={"request": request}).data)


class JobDataViewSet(ApiViewSet):
    """What a Job holds beside what it was and cost."""

    required_scopes = {"DELETE": Scope.USER_WRITE}

    @extend_schema(
        operation_id="delete_job_data",
        summary="Delete a job's data",
        tags=["Jobs"],
        parameters=[JOB],
        responses={200: JobSerializer},
    )
    def destroy(self, request: Any, job_id: str) -> Response:
        """Delete input, metadata, result and files of a Job that has ended; 409 before that.

        Status, error and usage stay. Doing it again is fine.
        """
        job = find_job(organization_id=request.auth.organization_pk, job_id=job_id)
        deleted = delete_data(job=job, now=now())
        return Response(JobSerializer(deleted, context={"request": request}).data)
