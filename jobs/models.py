"""Job, its events, and the Runner that holds a lease on it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils import timezone

from accounts.models import Organization, User
from casola_site.core import ids
from jobs.enums import HOLDS_LEASE, FilePurpose, JobStatus, Lane, RunnerState
from tokens.models import ApiToken


class Runner(models.Model):
    """One process that holds a model; its row carries the lease of every Job it claimed.

    `public_id` is new for every process start: together with a Job's attempt it is the fencing
    token. `heartbeat_at` is the database's clock.
    """

    public_id = models.CharField(max_length=40, unique=True, default=ids.runner_id, editable=False)
    placement_id = models.CharField(max_length=40, db_index=True)
    queue_id = models.CharField(max_length=60, db_index=True)
    model_id = models.CharField(max_length=200)
    node = models.CharField(max_length=100)
    pid = models.PositiveIntegerField()
    pid_start = models.FloatField()
    state = models.CharField(
        max_length=10, choices=RunnerState.choices, default=RunnerState.LOADING
    )
    channel = models.CharField(max_length=120, blank=True)
    capacity = models.PositiveIntegerField(default=1)
    outstanding = models.PositiveIntegerField(default=0)
    memory_bytes = models.PositiveBigIntegerField(default=0)
    progress = models.FloatField(default=0)
    detail = models.CharField(max_length=500, blank=True)
    heartbeat_at = models.DateTimeField()
    started_at = models.DateTimeField(default=timezone.now)
    live_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            models.Index(fields=("state", "heartbeat_at"), name="runner_lease"),
            models.Index(
                fields=("queue_id",), name="runner_of_queue", condition=Q(state=RunnerState.LIVE)
            ),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=RunnerState.values), name="runner_state_known"
            ),
        )

    def __str__(self) -> str:
        return f"{self.public_id} ({self.model_id})"

    @property
    def holds_lease(self) -> bool:
        """Whether it may still finish Jobs."""
        return self.state in HOLDS_LEASE


NEWEST_FIRST = ("-created_at", "-id")


class JobQuerySet(models.QuerySet["Job"]):
    """Reads of Jobs."""

    def for_organization(self, organization_id: int) -> JobQuerySet:
        """Only this tenant's."""
        return self.filter(organization_id=organization_id)


class Job(models.Model):
    """One unit of requested work.

    It must have ended by `deadline_at`. Its data (input, result, metadata, files) goes at
    `expires_at`, or before on demand; `data_deleted_at` says when it went.
    """

    id = models.UUIDField(primary_key=True, default=ids.job_id, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="jobs")
    token = models.ForeignKey(ApiToken, on_delete=models.PROTECT, null=True, related_name="+")
    user = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    model_id = models.CharField(max_length=200)
    queue_id = models.CharField(max_length=60)
    task = models.CharField(max_length=60)
    lane = models.CharField(max_length=12, choices=Lane.choices, default=Lane.PERSISTED)
    status = models.CharField(max_length=12, choices=JobStatus.choices, default=JobStatus.PENDING)
    priority = models.SmallIntegerField(default=0)
    input = models.JSONField(null=True)
    metadata = models.JSONField(null=True)
    result = models.JSONField(null=True)
    error = models.JSONField(null=True)
    units = models.JSONField(default=dict)
    progress = models.FloatField(default=0)
    attempts = models.PositiveSmallIntegerField(default=0)
    crashes = models.PositiveSmallIntegerField(default=0)
    failures = models.PositiveSmallIntegerField(default=0)
    runner = models.ForeignKey(Runner, on_delete=models.SET_NULL, null=True, related_name="jobs")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    available_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    first_output_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    deadline_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    data_deleted_at = models.DateTimeField(null=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        indexes = (
            models.Index(
                fields=("queue_id", "organization", "-priority", "created_at"),
                name="job_pending",
                condition=Q(status=JobStatus.PENDING),
            ),
            models.Index(
                fields=("queue_id", "organization"),
                name="job_processing",
                condition=Q(status=JobStatus.PROCESSING),
            ),
            models.Index(
                fields=("runner",), name="job_of_runner", condition=Q(status=JobStatus.PROCESSING)
            ),
            models.Index(
                fields=("deadline_at",),
                name="job_deadline",
                condition=Q(
                    deadline_at__isnull=False, status__in=(JobStatus.PENDING, JobStatus.PROCESSING)
                ),
            ),
            models.Index(
                fields=("expires_at",),
                name="job_expiry",
                condition=Q(expires_at__isnull=False, data_deleted_at=None),
            ),
            # Lists, newest first, whole or by one column: a page costs the same however long ago
            # the rows are and however few of them match.
            models.Index(fields=("organization", *NEWEST_FIRST), name="job_newest"),
            models.Index(fields=("organization", "status", *NEWEST_FIRST), name="job_by_status"),
            models.Index(fields=("organization", "model_id", *NEWEST_FIRST), name="job_by_model"),
            models.Index(fields=("organization", "task", *NEWEST_FIRST), name="job_by_task"),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=JobStatus.values), name="job_status_known"
            ),
            models.CheckConstraint(condition=Q(lane__in=Lane.values), name="job_lane_known"),
        )

    def __str__(self) -> str:
        return str(self.id)


class StoredFile(models.Model):
    """A file that a Job made or a client sent; it lies in the storage under its name.

    One that a Job made is opened by its signed address until it expires. One that was sent has a
    public id and a purpose, belongs to who sent it, and may be kept until it is deleted
    (`expires_at` is None); its row stands before its content does, and is_whole says when that came.
    """

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="files", db_index=False
    )
    job = models.ForeignKey(Job, on_delete=models.CASCADE, null=True, related_name="files")
    public_id = models.CharField(  # noqa: DJ001 - unique where there is one
        max_length=40, unique=True, null=True, editable=False
    )
    purpose = models.CharField(max_length=16, choices=FilePurpose.choices, blank=True, default="")
    filename = models.CharField(max_length=255, blank=True, default="")
    token = models.ForeignKey(ApiToken, on_delete=models.PROTECT, null=True, related_name="+")
    user = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    name = models.CharField(max_length=200, unique=True)
    size_bytes = models.PositiveBigIntegerField()
    is_whole = models.BooleanField(default=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            # All that the sum of an Organization's files needs.
            models.Index(
                fields=("organization", "expires_at", "size_bytes"), name="file_by_organization"
            ),
            models.Index(fields=("expires_at",), name="file_expiry"),
            models.Index(
                fields=("organization", "-created_at"),
                name="file_sent",
                condition=Q(public_id__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return self.public_id or self.name


class JobEvent(models.Model):
    """What happened to a Job, in order; `seq` is also the id of server-sent events."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveIntegerField()
    type = models.CharField(max_length=24)
    at = models.DateTimeField(default=timezone.now)
    data = models.JSONField(default=dict)

    class Meta:
        ordering = ("job", "seq")
        constraints = (models.UniqueConstraint(fields=("job", "seq"), name="one_event_per_seq"),)

    def __str__(self) -> str:
        return f"{self.seq} {self.type}"
