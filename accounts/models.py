"""Users, Organizations, Memberships, Plans and idempotency keys."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone

from casola_site.core import ids


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
    is_personal = models.BooleanField(default=False)
    is_system = models.BooleanField(default=False)
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
