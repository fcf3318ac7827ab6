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


class FilePurpose(models.TextChoices):
    """What a file that a client sent is for: OpenAI's words."""

    ASSISTANTS = "assistants"
    BATCH = "batch"
    FINE_TUNE = "fine-tune"
    VISION = "vision"
    USER_DATA = "user_data"
    EVALS = "evals"


TERMINAL = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
HOLDS_LEASE = (RunnerState.LOADING, RunnerState.LIVE, RunnerState.DRAINING)
