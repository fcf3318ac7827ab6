"""Jobs, Runners and what a Runner reports."""

from __future__ import annotations

import uuid

from django.utils import timezone

from accounts.models import Organization
from casola_site.core import ids
from jobs.enums import JobStatus, RunnerState
from jobs.leases import register_runner
from jobs.models import Job, Runner
from jobs.services import Outcome
from jobs.submission import Submitter
from tests.factories.accounts import make_organization

MODEL = "test/echo"
QUEUE = "queue-echo"
TASK = "openai/chat-completion"


def make_runner(**columns) -> Runner:
    """A live Runner with a fresh lease."""
    return register_runner(
        **{
            "placement_id": "plc_test",
            "queue_id": QUEUE,
            "model_id": MODEL,
            "node": "test",
            "pid": 1,
            "pid_start": 0.0,
            "state": RunnerState.LIVE,
            **columns,
        }
    )


def make_job(*, organization: Organization | None = None, **columns) -> Job:
    """A pending Job without events."""
    return Job.objects.create(
        organization=organization or make_organization(),
        **{"model_id": MODEL, "queue_id": QUEUE, "task": TASK, "input": {}, **columns},
    )


def make_running_job(*, runner: Runner, **columns) -> Job:
    """A Job as it is after its first claim by the Runner."""
    return make_job(
        runner=runner,
        **{
            "status": JobStatus.PROCESSING,
            "attempts": 1,
            "started_at": timezone.now(),
            **columns,
        },
    )


def make_submitter(organization: Organization, **columns) -> Submitter:
    """Somebody in the Organization, without a queue cap."""
    return Submitter(
        organization_id=organization.pk, **{"token_id": None, "user_id": None, **columns}
    )


def make_outcome(job: Job, **columns) -> Outcome:
    """The Job's present attempt, completed with one completion token."""
    return Outcome(
        **{
            "job_id": str(job.pk),
            "status": JobStatus.COMPLETED,
            "organization_id": job.organization_id,
            "token_id": job.token_id,
            "user_id": job.user_id,
            "model_id": job.model_id,
            "queue_id": job.queue_id,
            "task": job.task,
            "units": {"completion_tokens": 1},
            "created_at": job.created_at,
            "started_at": job.started_at,
            "runner_id": job.runner_id,
            "attempt": job.attempts,
            "result": {"text": "done"},
            **columns,
        }
    )


def make_direct_outcome(organization: Organization, **columns) -> Outcome:
    """An interactive request that completed with one completion token; it has no row yet."""
    return Outcome(
        **{
            "job_id": str(ids.job_id()),
            "status": JobStatus.COMPLETED,
            "organization_id": organization.pk,
            "token_id": None,
            "user_id": None,
            "model_id": MODEL,
            "queue_id": QUEUE,
            "task": TASK,
            "units": {"completion_tokens": 1},
            "created_at": timezone.now(),
            **columns,
        }
    )


def ghost_id() -> str:
    """The id of no Job."""
    return str(uuid.UUID(int=ids.job_id().int ^ 1))
