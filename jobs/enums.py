"""States and lanes of a Job, states of a Runner."""

from django.db import models


class JobStatus(models.TextChoices):
    """The seed's five words."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Lane(models.TextChoices):
    """How a Job reached its Runner."""

    INTERACTIVE = "interactive"
    PERSISTED = "persisted"


class RunnerState(models.TextChoices):
    """Where a Runner is in its life."""

    LOADING = "loading"
    LIVE = "live"
    DRAINING = "draining"
    DEAD = "dead"
    STOPPED = "stopped"


TERMINAL = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
HOLDS_LEASE = (RunnerState.LOADING, RunnerState.LIVE, RunnerState.DRAINING)
