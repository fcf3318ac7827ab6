"""Who a secret speaks for: looked up by hash, cached for at most 10 s, checked on every request.

A cached Identity is only believed while its Organization's stamp in Redis is the one it was read
under: revocation, role change and suspension write a new stamp, so they count from the next request
on, in every process. Without Redis nothing is cached and each request reads the database.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from asgiref.sync import sync_to_async
from django.utils import timezone
from redis.exceptions import RedisError

from accounts.models import Membership, Organization, OrganizationStatus
from accounts.roles import scopes_of_role
from casola_site.core import stamps
from casola_site.core.budgets import Budget
from casola_site.core.errors import AuthenticationFailed
from casola_site.core.scopes import Scope, closure
from tokens import uses
from tokens.models import ApiToken, TokenStatus, opened_by

CACHE_SECONDS = 10.0
CACHE_SIZE = 10_000
stamp_key, invalidate = stamps.stamp_key, stamps.renew


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller as every layer sees it; `pk`s stay inside the process."""

    token_pk: int
    token_id: str
    organization_pk: int
    organization_id: str
    user_pk: int | None
    scopes: frozenset[Scope]
    allowed_models: tuple[str, ...] | None
    allowed_ips: tuple[str, ...] | None
    api_requests_per_minute: int | None
    job_submissions_per_minute: int | None
    max_queued_jobs: int | None
    max_running_jobs: int | None
    max_streams: int | None
    max_sockets: int | None
    storage_bytes: int | None
    plan: str
    expires_at: float | None
    stamp: str
    digest: str = ""
    is_service_account: bool = False
    is_authenticated: bool = True
    budget: Budget | None = None
    organization_has_budget: bool = False

    def may_use(self, model_id: str) -> bool:
        """Whether the token's model allow-list admits the model."""
        return self.allowed_models is None or model_id in self.allowed_models

    @property
    def is_budgeted(self) -> bool:
        """Whether its requests are paid from a budget."""
        return self.organization_has_budget or self.budget is not None


class _Cache:
    def __init__(self) -> None:
        self.entries: OrderedDict[str, tuple[float, Identity]] = OrderedDict()

    def get(self, digest: str) -> Identity | None:
        found = self.entries.get(digest)
        if found is None:
            return None
        until, identity = found
        now = time.time()
        if until < now or (identity.expires_at is not None and identity.expires_at <= now):
            self.entries.pop(digest, None)
            return None
        return identity

    def put(self, digest: str, identity: Identity) -> None:
        self.entries[digest] = (time.time() + CACHE_SECONDS, identity)
        while len(self.entries) > CACHE_SIZE:
            self.entries.popitem(last=False)

    def drop(self, digest: str) -> None:
        self.entries.pop(digest, None)


_cache = _Cache()
_organization_of: OrderedDict[str, str] = OrderedDict()  # a token's Organization never changes


def cached(digest: str) -> Identity | None:
    """The Identity if it was read within 10 s; its stamp is still to be compared."""
    return _cache.get(digest)


def forget(digest: str) -> None:
    """Drop one cached Identity (its stamp was an old one)."""
    _cache.drop(digest)


def load(digest: str) -> Identity:
    """Read the Identity from the database and cache it. Raises AuthenticationFailed."""
    stamp = ""
    organization_id = _organization_of.get(digest)
    if organization_id is None:
        row = (
            ApiToken.objects.filter(opened_by(digest))
            .values_list("organization__public_id")
            .first()
        )
        if row is None:
            raise AuthenticationFailed
        organization_id = _organization_of[digest] = row[0]
        while len(_organization_of) > CACHE_SIZE:
            _organization_of.popitem(last=False)
    try:
        stamp = stamps.current(organization_id)  # before the row: a revocation in between shows
    except RedisError:
        _cache.drop(digest)
    identity = _read(digest, stamp)
    if stamp:
        _cache.put(digest, identity)
        uses.note(identity.token_pk, timezone.now())
    return identity


load_async = sync_to_async(load, thread_sensitive=False)


def _read(digest: str, stamp: str) -> Identity:
    token = (
        ApiToken.objects.select_related("organization__plan")
        .filter(opened_by(digest), status=TokenStatus.ACTIVE)
        .first()
    )
    until = None if token is None else end_of(token, digest)
    if token is None or (until is not None and until <= timezone.now()):
        raise AuthenticationFailed
    organization = token.organization
    if organization.status != OrganizationStatus.ACTIVE:
        raise AuthenticationFailed
    scopes = closure(token.scopes)
    if not token.is_service_account:  # a member's: worth what the member's role is worth today
        scopes &= role_scopes(organization, token.created_by_id)
    if not scopes:
        raise AuthenticationFailed
    plan = organization.plan
    return Identity(
        token_pk=token.pk,
        token_id=token.public_id,
        organization_pk=organization.pk,
        organization_id=organization.public_id,
        user_pk=token.created_by_id,
        scopes=scopes,
        allowed_models=None if token.allowed_models is None else tuple(token.allowed_models),
        allowed_ips=None if token.allowed_ips is None else tuple(token.allowed_ips),
        api_requests_per_minute=plan.api_requests_per_minute,
        job_submissions_per_minute=plan.job_submissions_per_minute,
        max_queued_jobs=plan.max_queued_jobs,
        max_running_jobs=plan.max_running_jobs,
        max_streams=plan.max_streams,
        max_sockets=plan.max_sockets,
        storage_bytes=plan.storage_bytes,
        plan=plan.name,
        expires_at=None if until is None else until.timestamp(),
        stamp=stamp,
        digest=digest,
        is_service_account=token.is_service_account,
        budget=token.budget,
        organization_has_budget=organization.budget is not None,
    )


def member_identity(membership: Membership) -> Identity:
    """The caller that a signed-in member is: as far as their role reaches, without a token.

    For services that compare what is asked for with who asks; it opens no API.
    """
    organization = membership.organization
    plan = organization.plan
    return Identity(
        token_pk=0,
        token_id="",
        organization_pk=organization.pk,
        organization_id=organization.public_id,
        user_pk=membership.user_id,
        scopes=role_scopes(organization, membership.user_id),
        allowed_models=None,
        allowed_ips=None,
        api_requests_per_minute=plan.api_requests_per_minute,
        job_submissions_per_minute=plan.job_submissions_per_minute,
        max_queued_jobs=plan.max_queued_jobs,
        max_running_jobs=plan.max_running_jobs,
        max_streams=plan.max_streams,
        max_sockets=plan.max_sockets,
        storage_bytes=plan.storage_bytes,
        plan=plan.name,
        expires_at=None,
        stamp="",
    )


def end_of(token: ApiToken, digest: str) -> datetime | None:
    """When the secret of this hash stops working; a rotated one ends with its grace."""
    ends = [token.expires_at, None if digest == token.hash else token.previous_until]
    return min((end for end in ends if end is not None), default=None)


def role_scopes(organization: Organization, user_id: int | None) -> frozenset[Scope]:
    """What the user's present role in the Organization allows; nothing for a stranger."""
    membership = Membership.objects.filter(
        organization=organization, user_id=user_id, user__is_active=True
    ).first()
    if membership is None:
        return frozenset()
    return scopes_of_role(membership.role, system_organization=organization.is_system)
