"""POST /api/jobs and what follows."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.response import Response

from accounts.idempotency import Answer, answer_once
from accounts.models import Organization
from casola_site.core.clock import now
from casola_site.core.errors import ModelNotFound
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from jobs.api.serializers import JobCreatedSerializer, JobCreateSerializer, JobSerializer
from jobs.contracts import task_contract
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
        operation_id="create_job",
        summary="Create a job",
        tags=["Jobs"],
        parameters=[OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER)],
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
                submitter=Submitter(
                    organization_id=identity.organization_pk,
                    token_id=identity.token_pk,
                    user_id=identity.user_pk,
                    max_queued_jobs=identity.max_queued_jobs,
                    storage_bytes=identity.storage_bytes,
                    plan=identity.plan,
                ),
                model_id=contract.model_id,
                queue_id=contract.queue_id,
                task=contract.task,
                payload=contract.payload,
                priority=data.get("priority", 0),
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
