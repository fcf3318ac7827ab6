"""The ledger (UsageRecord), the price rows it snapshots, and its sums over hours and days."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Coalesce
from django.utils import timezone

from accounts.models import Organization, User
from casola_site.core import ids
from tokens.models import ApiToken

UNITS = (
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "characters",
    "audio_ms",
    "images",
    "pixels",
    "video_ms",
    "compute_ms",
)
CURRENCY = "USD"  # of every price, record and total


class Price(models.Model):
    """What one unit of one ModelSpec costs from a moment on: `amount` for every `per` units."""

    model_id = models.CharField(max_length=200)
    unit = models.CharField(max_length=24, choices=[(unit, unit) for unit in UNITS])
    amount = models.DecimalField(max_digits=18, decimal_places=9)
    per = models.PositiveBigIntegerField(default=1_000_000)
    currency = models.CharField(max_length=3, default=CURRENCY)
    valid_from = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = (models.Index(fields=("model_id", "unit", "-valid_from"), name="price_lookup"),)

    def __str__(self) -> str:
        return f"{self.model_id} {self.unit}: {self.amount}/{self.per}"


class Measured(models.Model):
    """The columns of UNITS."""

    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    cached_tokens = models.PositiveBigIntegerField(default=0)
    characters = models.PositiveBigIntegerField(default=0)
    audio_ms = models.PositiveBigIntegerField(default=0)
    images = models.PositiveBigIntegerField(default=0)
    pixels = models.PositiveBigIntegerField(default=0)
    video_ms = models.PositiveBigIntegerField(default=0)
    compute_ms = models.PositiveBigIntegerField(default=0)

    class Meta:
        abstract = True


class UsageRecord(Measured):
    """One finished Job's consumption; never changed, never deleted."""

    public_id = models.CharField(max_length=40, unique=True, default=ids.usage_id, editable=False)
    job_id = models.CharField(max_length=36, unique=True, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="usage")
    token = models.ForeignKey(ApiToken, on_delete=models.PROTECT, null=True, related_name="+")
    user = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
    model_id = models.CharField(max_length=200)
    task = models.CharField(max_length=60)
    status = models.CharField(max_length=12)
    prices = models.JSONField(default=dict)
    amount = models.DecimalField(max_digits=18, decimal_places=9, default=0)
    currency = models.CharField(max_length=3, default=CURRENCY)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes = (
            models.Index(fields=("organization", "-created_at"), name="usage_by_organization"),
            # For the roll-up, which takes all organizations at once.
            models.Index(fields=("created_at",), name="usage_by_time"),
        )

    def __str__(self) -> str:
        return f"{self.job_id}: {self.amount} {self.currency}"


class UsageTotal(Measured):
    """The sum of an Organization's UsageRecords with the same key over a closed minute, hour or day.

    Those of minutes are kept for the last hours only.
    """

    PERIODS = (("minute", "minute"), ("hour", "hour"), ("day", "day"))

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="usage_totals", db_index=False
    )
    granularity = models.CharField(max_length=6, choices=PERIODS)
    start = models.DateTimeField()
    model_id = models.CharField(max_length=200)
    task = models.CharField(max_length=60)
    token = models.ForeignKey(
        ApiToken, on_delete=models.PROTECT, null=True, related_name="+", db_index=False
    )
    user = models.ForeignKey(
        User, on_delete=models.PROTECT, null=True, related_name="+", db_index=False
    )
    status = models.CharField(max_length=12)
    requests = models.PositiveBigIntegerField()
    amount = models.DecimalField(max_digits=30, decimal_places=9)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                "organization",
                "granularity",
                "start",
                "model_id",
                "task",
                "status",
                Coalesce("token", 0),
                Coalesce("user", 0),
                name="usage_total_once",
            ),
            models.CheckConstraint(
                condition=models.Q(granularity__in=("minute", "hour", "day")),
                name="usage_total_granularity_known",
            ),
        )
        indexes = (models.Index(fields=("granularity", "start"), name="usage_total_by_time"),)

    def __str__(self) -> str:
        return f"{self.granularity} {self.start:%Y-%m-%d %H:%M}: {self.requests}"


MINUTES_KEPT = timedelta(hours=2)


class TotalsMark(models.Model):
    """The one row that says up to when the UsageTotals hold the ledger; None: nothing yet.

    Hours and days do so from the beginning to `until`, minutes for the MINUTES_KEPT before
    `minutes_until`.
    """

    until = models.DateTimeField(null=True)
    minutes_until = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"until {self.until}"
