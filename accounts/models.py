"""Users, Organizations, Memberships, Invites, Plans, the audit and idempotency keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, NoReturn

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone

from casola_site.core import ids
from casola_site.core.budgets import Budget, BudgetPeriod, budget_of


class UserManager(BaseUserManager["User"]):
    """Creates users by e-mail."""

    def get_by_natural_key(self, email: str | None) -> User:
        """E-mail addresses are matched without case."""
        return self.get(email__iexact=email)

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """A user who can sign in (when given a password). Raises ValueError without an e-mail."""
        if not email:
            raise ValueError("a user needs an e-mail address")
        user = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        """Support staff with every permission."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class User(AbstractBaseUser, PermissionsMixin):
    """A person, known by e-mail address."""

    public_id = models.CharField(max_length=40, unique=True, default=ids.user_id, editable=False)
    email = models.EmailField(max_length=254, unique=True)
    name = models.CharField(max_length=150, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    email_verified_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    current_organization = models.ForeignKey(
        "accounts.Organization",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="What the dashboard shows",
    )

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects = UserManager()

    class Meta:
        constraints = (models.UniqueConstraint(Lower("email"), name="user_email_unique"),)

    def __str__(self) -> str:
        return self.email


class Plan(models.Model):
    """Named limits of an Organization; null means no limit."""

    code = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=80)
    api_requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    job_submissions_per_minute = models.PositiveIntegerField(null=True, blank=True)
    max_running_jobs = models.PositiveIntegerField(null=True, blank=True)
    max_queued_jobs = models.PositiveIntegerField(null=True, blank=True)
    max_streams = models.PositiveIntegerField(null=True, blank=True)
    max_sockets = models.PositiveIntegerField(null=True, blank=True)
    storage_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    retention_hours = models.PositiveIntegerField(default=24)

    def __str__(self) -> str:
        return self.name


class OrganizationStatus(models.TextChoices):
    """Whether an Organization's tokens work."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class Organization(models.Model):
    """A tenant: everything else belongs to one."""

    public_id = models.CharField(
        max_length=40, unique=True, default=ids.organization_id, editable=False
    )
    name = models.CharField(max_length=120)
    slug = models.SlugField(max_length=60, unique=True)
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="organizations")
    status = models.CharField(
        max_length=12, choices=OrganizationStatus.choices, default=OrganizationStatus.ACTIVE
    )
    suspended_at = models.DateTimeField(null=True, blank=True)
    suspended_reason = models.CharField(max_length=500, blank=True)
    is_personal = models.BooleanField(default=False)
    is_system = models.BooleanField(default=False)
    budget_amount = models.DecimalField(max_digits=18, decimal_places=6, null=True, blank=True)
    budget_period = models.CharField(
        max_length=8,
        choices=BudgetPeriod.choices,
        default=BudgetPeriod.NEVER,
        db_default=BudgetPeriod.NEVER,  # for code that runs beside this and knows no budgets
    )
    has_budgets = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="Whether it or one of its tokens has one: ends of jobs need not look otherwise",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=models.Q(status__in=OrganizationStatus.values),
                name="organization_status_known",
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.public_id})"

    @property
    def budget(self) -> Budget | None:
        """What all its tokens together may spend."""
        return budget_of(self.budget_amount, self.budget_period)


class Role(models.TextChoices):
    """What a member may do at most."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"
    DISABLED = "disabled"


class Membership(models.Model):
    """A User's place in an Organization."""

    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="memberships"
    )
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=12, choices=Role.choices)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "user"), name="one_membership_per_user"
            ),
            models.CheckConstraint(
                condition=models.Q(role__in=Role.values), name="membership_role_known"
            ),
        )

    def __str__(self) -> str:
        return f"{self.user} · {self.role}"


INVITABLE = [value for value in Role.values if value != Role.DISABLED]


class InviteStatus(models.TextChoices):
    """Whether an Invite can still be accepted; follows from its columns."""

    OPEN = "open"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Invite(models.Model):
    """A way into an Organization: for one e-mail address, or a link for whoever holds it."""

    public_id = models.CharField(max_length=40, unique=True, default=ids.invite_id, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="invites")
    email = models.EmailField(max_length=254, blank=True, help_text="Empty: an open link")
    role = models.CharField(max_length=12, choices=Role.choices)
    multi_use = models.BooleanField(default=False)
    max_uses = models.PositiveIntegerField(null=True, blank=True)
    uses = models.PositiveIntegerField(default=0)
    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    created_by = models.ForeignKey(
        User, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    mailed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = (
            models.Index(fields=("organization", "-created_at"), name="invite_by_organization"),
        )
        constraints = (
            models.CheckConstraint(
                condition=models.Q(role__in=INVITABLE), name="invite_role_invitable"
            ),
            models.CheckConstraint(
                condition=models.Q(max_uses=None) | models.Q(uses__lte=models.F("max_uses")),
                name="invite_not_overused",
            ),
        )

    def __str__(self) -> str:
        return f"{self.public_id} · {self.role}"

    def status_at(self, now: datetime) -> InviteStatus:
        """Open, or why not."""
        if self.revoked_at is not None:
            return InviteStatus.REVOKED
        if self.max_uses is not None and self.uses >= self.max_uses:
            return InviteStatus.USED
        return InviteStatus.EXPIRED if self.expires_at <= now else InviteStatus.OPEN


class TransferStatus(models.TextChoices):
    """Where the offer of an ownership stands; one that ran out of time stays pending."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    CANCELLED = "cancelled"


class OwnershipTransfer(models.Model):
    """An Owner's offer to a member to become Owner in their place."""

    public_id = models.CharField(
        max_length=40, unique=True, default=ids.transfer_id, editable=False
    )
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="transfers"
    )
    from_user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    to_user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    status = models.CharField(
        max_length=12, choices=TransferStatus.choices, default=TransferStatus.PENDING
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("organization",),
                condition=models.Q(status="pending"),
                name="one_pending_transfer",
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=TransferStatus.values), name="transfer_status_known"
            ),
        )

    def __str__(self) -> str:
        return f"{self.public_id} · {self.status}"


class AuditIsAppendOnly(TypeError):
    """An AuditEvent was to be changed or deleted."""


class AuditEvents(models.QuerySet["AuditEvent"]):
    """Rows are added and read, nothing else."""

    def update(self, **columns: Any) -> NoReturn:
        """Refused."""
        raise AuditIsAppendOnly

    def delete(self) -> NoReturn:
        """Refused."""
        raise AuditIsAppendOnly


class AuditEvent(models.Model):
    """Who did what, and why: written with the change itself, never changed afterwards.

    It outlives what it speaks of, so it names users and tokens by their public ids. The database
    refuses updates as well (on PostgreSQL also deletes).
    """

    public_id = models.CharField(max_length=40, unique=True, default=ids.audit_id, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    organization = models.ForeignKey(
        Organization,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
    )
    actor_kind = models.CharField(max_length=8)
    actor_id = models.CharField(max_length=40, blank=True)
    actor_name = models.CharField(max_length=254, blank=True)
    on_behalf_of = models.CharField(max_length=40, blank=True, db_index=True)
    action = models.CharField(max_length=60, db_index=True)
    target = models.CharField(max_length=64, blank=True, db_index=True)
    target_name = models.CharField(max_length=254, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    ip = models.CharField(max_length=45, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    data = models.JSONField(default=dict, blank=True)

    objects = AuditEvents.as_manager()

    class Meta:
        indexes = (
            models.Index(fields=("organization", "-created_at"), name="audit_by_organization"),
            models.Index(fields=("-created_at",), name="audit_by_time"),
        )

    def __str__(self) -> str:
        return f"{self.action} {self.target}"

    def save(self, *args: Any, **options: Any) -> None:
        """Insert. Raises AuditIsAppendOnly for a row that is there already."""
        if not self._state.adding:
            raise AuditIsAppendOnly
        super().save(*args, **{**options, "force_insert": True})

    def delete(self, *args: Any, **options: Any) -> NoReturn:
        """Refused."""
        raise AuditIsAppendOnly

    @property
    def shown_actor(self) -> str:
        """Who it was, as the Organization is told: support staff stay unnamed."""
        return "support" if self.actor_kind == "staff" else self.actor_name or self.actor_kind

    @property
    def shown_ip(self) -> str:
        """From where; of support staff not."""
        return "" if self.actor_kind == "staff" else self.ip


class IdempotencyKey(models.Model):
    """The answer given to an `Idempotency-Key`, kept for 24 h."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    route = models.CharField(max_length=100)
    key = models.CharField(max_length=255)
    body_hash = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    answer = models.JSONField(null=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("organization", "route", "key"), name="one_answer_per_key"
            ),
        )

    def __str__(self) -> str:
        return f"{self.route} · {self.key}"
