"""The ledger (UsageRecord), the price rows it snapshots, its sums, and the counters of budgets."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from django.db import models
from django.db.models.functions import Coalesce
from django.utils import timezone

from accounts.models import Organization, User
from casola_site.core import ids
from casola_site.core.budgets import (
    CURRENCY,
    Budget,
    BudgetPeriod,
    BudgetState,
    period_end,
    period_start,
)
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


NANOS = 1_000_000_000  # in one unit of the currency: counters add up in whole numbers
THRESHOLDS = (50, 80, 100)  # percent of a budget that are told


def nanos_of(amount: Decimal) -> int:
    """An amount of at most nine places in billionths."""
    return int(amount * NANOS)


def amount_of_nanos(nanos: int) -> Decimal:
    """The same the other way."""
    return Decimal(nanos).scaleb(-9)


class BudgetCounter(models.Model):
    """What of one budget is spent and reserved; enforcement and display read the same row.

    The limit is its owner's (an Organization's, or a token's) and copied here in the transaction
    that changes it. `spent` is the sum of the ledger since `period_start`, `reserved` the sum of
    the BudgetReservations; all amounts in billionths. `alerted` is the highest of THRESHOLDS that
    was told in this period.
    """

    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="budget_counters"
    )
    token = models.ForeignKey(
        ApiToken, on_delete=models.CASCADE, null=True, related_name="budget_counters"
    )
    amount = models.BigIntegerField()
    period = models.CharField(max_length=8, choices=BudgetPeriod.choices)
    period_start = models.DateTimeField()
    spent = models.BigIntegerField(default=0)
    reserved = models.BigIntegerField(default=0)
    alerted = models.PositiveSmallIntegerField(default=0)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("organization",),
                condition=models.Q(token=None),
                name="one_counter_per_organization",
            ),
            models.UniqueConstraint(fields=("token",), name="one_counter_per_token"),
            models.CheckConstraint(
                condition=models.Q(amount__gt=0, spent__gte=0, reserved__gte=0),
                name="budget_counter_not_negative",
            ),
        )

    def __str__(self) -> str:
        return f"{self.period} budget of {self.token or self.organization}"

    @property
    def scope(self) -> str:
        """Whose limit it is, in the words of the API."""
        return "organization" if self.token_id is None else "token"

    def roll(self, at: datetime) -> None:
        """Begin the period that holds the moment, if it is a later one."""
        start = period_start(self.period, at)
        if start > self.period_start:
            self.period_start, self.spent, self.alerted = start, 0, 0

    def state(self, now: datetime) -> BudgetState:
        """How it stands, as the API shows it."""
        is_over = self.period_start < period_start(self.period, now)
        return BudgetState(
            budget=Budget(amount_of_nanos(self.amount), BudgetPeriod(self.period)),
            spent=Decimal(0) if is_over else amount_of_nanos(self.spent),
            reserved=amount_of_nanos(self.reserved),
            resets_at=period_end(self.period, now),
        )


class BudgetReservation(models.Model):
    """What one request under way may cost at most, held back from one budget until it ends.

    A persisted Job keeps its own until it has ended; an interactive one is given back after
    `expires_at` at the latest.
    """

    counter = models.ForeignKey(
        BudgetCounter, on_delete=models.CASCADE, related_name="reservations"
    )
    job_id = models.CharField(max_length=36, editable=False)
    amount = models.BigIntegerField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("job_id", "counter"), name="one_reservation_per_budget"
            ),
        )

    def __str__(self) -> str:
        return f"{self.job_id}: {amount_of_nanos(self.amount)} {CURRENCY}"


class BudgetAlert(models.Model):
    """That a budget was used to a threshold, or refused a request: once in a period and limit."""

    counter = models.ForeignKey(BudgetCounter, on_delete=models.CASCADE, related_name="alerts")
    period_start = models.DateTimeField()
    amount = models.BigIntegerField(help_text="The limit at that moment")
    threshold = models.PositiveSmallIntegerField()
    spent = models.BigIntegerField()
    is_refusal = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    tried_at = models.DateTimeField(null=True, help_text="When mailing it was begun")
    mailed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("counter", "period_start", "amount", "threshold"), name="one_alert_each"
            ),
        )
        indexes = (
            models.Index(
                fields=("created_at",),
                name="alert_unsent",
                condition=models.Q(mailed_at=None),
            ),
        )

    def __str__(self) -> str:
        return f"{self.threshold} % of {self.counter}"
