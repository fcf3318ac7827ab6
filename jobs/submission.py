"""How a Job comes to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import transaction

from accounts.models import Organization
from casola_site.core import ids
from casola_site.core.errors import QueueFull
from jobs import events, files
from jobs.enums import JobStatus
from jobs.files import KeptFile
from jobs.models import Job, JobEvent
from tokens.identity import Identity
from usage.reservations import reserve


@dataclass(frozen=True, slots=True)
class Submitter:
    """On whose behalf a Job is made."""

    organization_id: int
    token_id: int | None
    user_id: int | None
    max_queued_jobs: int | None = None
    storage_bytes: int | None = None
    plan: str = ""

    @classmethod
    def of(cls, identity: Identity) -> Submitter:
        """The caller."""
        return cls(
            organization_id=identity.organization_pk,
            token_id=identity.token_pk,
            user_id=identity.user_pk,
            max_queued_jobs=identity.max_queued_jobs,
            storage_bytes=identity.storage_bytes,
            plan=identity.plan,
        )


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a submitter may say of a Job beside its input.

    `priority` orders the Jobs of one Organization; `deadline_s` is how many seconds after its
    submission the Job must have ended; `metadata` is theirs to find it again by.
    """

    priority: int = 0
    deadline_s: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def submit_job(
    *,
    submitter: Submitter,
    model_id: str,
    queue_id: str,
    task: str,
    payload: dict[str, Any],
    wishes: Wishes = Wishes(),
    ceiling: Decimal = Decimal(0),
    makes_files: bool = False,
    uploads: Sequence[KeptFile] = (),
    now: datetime,
) -> Job:
    """A pending Job; its Runner is woken after the commit.

    What it may cost at most, `ceiling`, is held back from the submitter's budgets until it ends.
    `uploads` came with the request and lie in the storage; they go with the Job's data.
    Raises QueueFull or FilesFull at the plan's caps, StorageFull when the disk is nearly full, or
    OutOfBudget.
    """
    job_id = ids.job_id()
    if makes_files or uploads:
        files.require_room(
            organization_id=submitter.organization_id,
            cap=submitter.storage_bytes,
            plan=submitter.plan,
            now=now,
        )
    with transaction.atomic():
        cap = submitter.max_queued_jobs
        if cap is not None:
            # The Organization's row serialises its submitters, so the cap holds under concurrency.
            # Not its key: rows that point to it need not wait.
            rows = Organization.objects.select_for_update(no_key=True)
            rows.get(pk=submitter.organization_id)
            waiting = Job.objects.filter(
                organization_id=submitter.organization_id, status=JobStatus.PENDING
            ).count()
            if waiting >= cap:
                raise QueueFull(cap, plan=submitter.plan)
        reserve(
            job_id=str(job_id),
            organization_id=submitter.organization_id,
            token_id=submitter.token_id,
            ceiling=ceiling,
            now=now,
            expires_at=now,  # an open Job keeps it
        )
        job = Job.objects.create(
            id=job_id,
            organization_id=submitter.organization_id,
            token_id=submitter.token_id,
            user_id=submitter.user_id,
            model_id=model_id,
            queue_id=queue_id,
            task=task,
            input=payload,
            priority=wishes.priority,
            metadata=wishes.metadata or None,
            deadline_at=wishes.deadline_s and now + timedelta(seconds=wishes.deadline_s),
            created_at=now,
        )
        files.record([(str(job_id), submitter.organization_id, uploads)])
        JobEvent.objects.create(job=job, seq=1, type="created", at=now)
        transaction.on_commit(lambda: events.wake(queue_id))
    return job
