"""ApiToken: a credential row; the secret itself is never stored."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.utils import timezone

from accounts.models import Organization, User
from casola_site.core import ids
from casola_site.core.budgets import Budget, BudgetPeriod, budget_of


class TokenStatus(models.TextChoices):
    """Whether it opens anything."""

    ACTIVE = "active"
    REVOKED = "revoked"


class ShownStatus(models.TextChoices):
    """What a list says of it."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"


class ApiToken(models.Model):
    """What one secret may do, for which Organization, and for how long."""

    public_id = models.CharField(max_length=40, unique=True, default=ids.token_id, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="tokens")
    created_by = models.ForeignKey(
        User, on_delete=models.SET_NULL, null=True, blank=True, related_name="tokens"
    )
    is_service_account = models.BooleanField(default=False)
    name = models.CharField(max_length=120)
    description = models.CharField(max_length=500, blank=True)
    hash = models.CharField(max_length=64, unique=True, editable=False)
    # The secret before the last rotation: works until `previous_until`.
    previous_hash = models.CharField(
        max_length=64, unique=True, null=True, blank=True, editable=False
    )
    previous_until = models.DateTimeField(null=True, editable=False)
    prefix = models.CharField(max_length=16, editable=False, db_index=True)
    last_four = models.CharField(max_length=4, editable=False)
    scopes = models.JSONField(default=list)
    allowed_models = models.JSONField(null=True, blank=True)
    allowed_ips = models.JSONField(null=True, blank=True)
    budget_amount = models.DecimalField(max_digits=18, decimal_places=6, null=True, blank=True)
    budget_period = models.CharField(
        max_length=8, choices=BudgetPeriod.choices, default=BudgetPeriod.NEVER
    )
    status = models.CharField(max_length=8, choices=TokenStatus.choices, default=TokenStatus.ACTIVE)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    rotated_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    is_onboarding = models.BooleanField(
        default=False, editable=False, help_text="Made for its member when they arrived"
    )

    class Meta:
        indexes = (
            models.Index(fields=("organization", "-created_at"), name="token_by_organization"),
        )
        constraints = (
            models.CheckConstraint(
                condition=models.Q(status__in=TokenStatus.values), name="token_status_known"
            ),
            models.UniqueConstraint(
                fields=("organization", "created_by"),
                condition=models.Q(is_onboarding=True),
                name="one_onboarding_token",
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…{self.last_four})"

    @property
    def budget(self) -> Budget | None:
        """What it may spend."""
        return budget_of(self.budget_amount, self.budget_period)

    def shown_status(self, now: datetime) -> ShownStatus:
        """Active, revoked or expired at the moment."""
        if self.status == TokenStatus.REVOKED:
            return ShownStatus.REVOKED
        is_over = self.expires_at is not None and self.expires_at <= now
        return ShownStatus.EXPIRED if is_over else ShownStatus.ACTIVE


def opened_by(digest: str) -> models.Q:
    """Tokens that a secret of this hash belongs to, also one that was rotated away."""
    return models.Q(hash=digest) | models.Q(previous_hash=digest)
