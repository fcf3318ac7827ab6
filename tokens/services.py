"""Issuing and revoking tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils.module_loading import import_string

from accounts.actors import SYSTEM, Actor, token_actor
from accounts.models import Membership, Organization, User
from accounts.services import authority
from accounts.services.audit import Action, record
from accounts.services.authority import lock_alone, manager_role
from accounts.services.budgets import budget_columns
from accounts.services.budgets import told as told_budget
from casola_site.core.budgets import Budget, plain
from casola_site.core.errors import (
    Conflict,
    InsufficientScope,
    InvalidRequest,
    NotFound,
    PermissionDenied,
)
from casola_site.core.ids import can_be_id
from casola_site.core.scopes import TENANT_SCOPES, Scope, closure, presets
from tokens import keys
from tokens.identity import Identity, invalidate, role_scopes
from tokens.models import ApiToken, ShownStatus, TokenStatus
from tokens.reach import Reach, make_reach

MAX_GRACE = timedelta(days=7)
CHANGEABLE = frozenset(
    {
        "name",
        "description",
        "scopes",
        "allowed_models",
        "allowed_ips",
        "expires_at",
        "budget_amount",
        "budget_period",
    }
)


class TokenNotFound(NotFound):
    """404."""

    message = "Token not found"


class TokenEnded(Conflict):
    """409: a revoked token stays as it is; an expired one gets no new secret."""

    def __init__(self, status: str) -> None:
        super().__init__(f"The token is {status}")


class NotYours(PermissionDenied):
    """403: a new secret would let the caller act as somebody else."""

    message = "Only the member whose token it is may rotate it"


class ScopeTooBroad(PermissionDenied):
    """403: the new token would reach further than its maker."""

    def __init__(self, scopes: Iterable[str]) -> None:
        super().__init__(f"You cannot grant {', '.join(sorted(scopes))}", code="insufficient_scope")


class LimitTooBroad(PermissionDenied):
    """403: the new token would escape a limit of the one that makes it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} may not reach further than this token's own", param=name)


class BudgetedMaker(PermissionDenied):
    """403: what a new token spent would not count against the budget of the one that makes it."""

    message = "A token with a budget makes no other tokens"


def within(
    minted_by: Identity,
    *,
    allowed_models: list[str] | None,
    allowed_ips: list[str] | None,
    expires_at: datetime | None,
) -> tuple[list[str] | None, list[str] | None, datetime | None]:
    """The three limits of a token that a token makes: inherited where absent, never wider.

    Raises LimitTooBroad.
    """
    mine = reach_of_identity(minted_by)
    if allowed_models is None and minted_by.allowed_models is not None:
        allowed_models = list(minted_by.allowed_models)
    if allowed_ips is None and minted_by.allowed_ips is not None:
        allowed_ips = list(minted_by.allowed_ips)
    expires_at = mine.until if expires_at is None else expires_at
    for name in mine.limits_passed(make_reach((), allowed_models, allowed_ips, expires_at)):
        raise LimitTooBroad(name)
    return allowed_models, allowed_ips, expires_at


def reach_of_identity(identity: Identity) -> Reach:
    """How far the caller reaches at this moment."""
    seconds = identity.expires_at
    until = None if seconds is None else datetime.fromtimestamp(seconds, tz=UTC)
    return make_reach(
        identity.scopes,
        identity.allowed_models,
        identity.allowed_ips,
        until,
        budget=identity.budget,
        payer=identity.token_pk,
    )


def reach_of(token: ApiToken) -> Reach:
    """How far the token's own columns let it reach."""
    return make_reach(
        token.scopes,
        token.allowed_models,
        token.allowed_ips,
        token.expires_at,
        budget=token.budget,
        payer=token.pk,
    )


def check_within(reach: Reach, caller: Identity) -> None:
    """Raise ScopeTooBroad or LimitTooBroad when it goes further than the caller."""
    mine = reach_of_identity(caller)
    if missing := mine.missing_scopes(reach):
        raise ScopeTooBroad(missing)
    for name in mine.limits_passed(reach):
        raise LimitTooBroad(name)


def scopes_of_preset(name: str, *, organization: Organization) -> list[str]:
    """The scopes behind the name. Raises InvalidRequest for an unknown one."""
    known = presets(is_system=organization.is_system)
    if name not in known:
        raise InvalidRequest(
            f"preset must be one of {', '.join(known)}", code="invalid_value", param="preset"
        )
    return [str(scope) for scope in known[name]]


def check_scopes(scopes: Iterable[str], *, organization: Organization) -> list[Scope]:
    """The scopes in order, without doubles. Raises InvalidRequest for unknown or foreign ones."""
    chosen: list[Scope] = []
    for word in scopes:
        if word not in Scope.__members__.values():
            raise InvalidRequest(
                f"There is no scope {word!r}", code="invalid_value", param="scopes"
            )
        scope = Scope(word)
        if scope not in TENANT_SCOPES and not organization.is_system:
            raise InvalidRequest(
                f"{scope} is for the system organization only", code="invalid_value", param="scopes"
            )
        if scope not in chosen:
            chosen.append(scope)
    if not chosen:
        raise InvalidRequest(
            "A token needs at least one scope", code="invalid_value", param="scopes"
        )
    return chosen


@transaction.atomic
def issue_token(  # noqa: PLR0913 - one for each column that a caller chooses
    *,
    organization: Organization,
    created_by: User | None,
    name: str,
    scopes: Iterable[str],
    now: datetime,
    granted_by: frozenset[Scope] | None = None,
    description: str = "",
    allowed_models: list[str] | None = None,
    allowed_ips: list[str] | None = None,
    expires_at: datetime | None = None,
    budget: Budget | None = None,
    by: Actor = SYSTEM,
) -> tuple[ApiToken, str]:
    """A new token and its secret, which is shown this once.

    Never broader than the creator's role nor than `granted_by`, the closure of the token that
    minted it. Raises InvalidRequest or ScopeTooBroad.
    """
    chosen = check_scopes(scopes, organization=organization)
    wanted = closure(chosen)
    for limit in (
        granted_by,
        role_scopes(organization, created_by.pk) if created_by is not None else None,
    ):
        if limit is not None and not wanted <= limit:
            raise ScopeTooBroad(wanted - limit)
    _check_expiry(expires_at, now)
    secret = keys.new_secret()
    budget_amount, budget_period = budget_columns(budget)
    token = ApiToken.objects.create(
        organization=organization,
        created_by=created_by,
        is_service_account=created_by is None,
        name=name,
        description=description,
        hash=keys.digest(secret),
        prefix=secret[: keys.SHOWN],
        last_four=secret[-4:],
        scopes=[str(scope) for scope in chosen],
        allowed_models=allowed_models,
        allowed_ips=allowed_ips,
        expires_at=expires_at,
        budget_amount=budget_amount,
        budget_period=budget_period,
        created_at=now,
    )
    told = {}
    if budget is not None:
        _follow_budget(token, now)
        told["budget"] = told_budget(budget)
    _note(token, Action.TOKEN_ISSUED, by, now, scopes=token.scopes, **told)
    return token, secret


def _check_expiry(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("The expiry is in the past", code="invalid_value", param="expires_at")


def _follow_budget(token: ApiToken, now: datetime) -> None:
    """The counter belongs to an app above this one."""
    follow = import_string(settings.BUDGET_CHANGED)
    follow(organization=token.organization, token=token, budget=token.budget, now=now)


def _renew(token: ApiToken) -> None:
    """After the commit, every cached Identity of the Organization is read again."""
    organization_id = token.organization.public_id
    transaction.on_commit(lambda: invalidate(organization_id))


def _note(
    token: ApiToken, action: Action, by: Actor, now: datetime, *, reason: str = "", **data: Any
) -> None:
    record(
        by=by,
        action=action,
        organization=token.organization,
        now=now,
        target=token.public_id,
        target_name=token.name,
        reason=reason,
        data={"shown": f"{token.prefix}…{token.last_four}", **data},
    )


def mint_token(
    *,
    minted_by: Identity,
    organization: Organization,
    allowed_models: list[str] | None,
    allowed_ips: list[str] | None,
    expires_at: datetime | None,
    service_account: bool | None = None,
    by: Actor | None = None,
    **fields: Any,
) -> tuple[ApiToken, str]:
    """`issue_token` for the holder of a token: in its user's name, within its scopes and limits.

    A service account makes only further service accounts, for it is nobody; Owners and Admins may
    make one too. Raises what issue_token does, LimitTooBroad, RoleTooLow or PermissionDenied.
    """
    by = by or token_actor(minted_by)
    if minted_by.budget is not None:
        raise BudgetedMaker
    if service_account is None:
        service_account = minted_by.is_service_account
    if minted_by.is_service_account and not service_account:
        raise PermissionDenied(
            "A service account makes only service accounts", param="service_account"
        )
    if service_account:
        if Scope.ADMIN_WRITE not in minted_by.scopes:
            raise InsufficientScope(Scope.ADMIN_WRITE)
        manager_role(by, organization)
    maker = None if service_account else User.objects.filter(pk=minted_by.user_pk).first()
    if maker is None and not service_account:  # deleted in this moment
        raise ScopeTooBroad(fields["scopes"])
    allowed_models, allowed_ips, expires_at = within(
        minted_by, allowed_models=allowed_models, allowed_ips=allowed_ips, expires_at=expires_at
    )
    return issue_token(
        organization=organization,
        created_by=maker,
        granted_by=minted_by.scopes,
        allowed_models=allowed_models,
        allowed_ips=allowed_ips,
        expires_at=expires_at,
        by=by,
        **fields,
    )


def find_token(*, organization_pk: int, token_id: str) -> ApiToken:
    """The tenant's token. Raises TokenNotFound."""
    if not can_be_id(token_id):
        raise TokenNotFound
    try:
        return ApiToken.objects.get(organization_id=organization_pk, public_id=token_id)
    except ApiToken.DoesNotExist:
        raise TokenNotFound from None


def _lock(token: ApiToken) -> ApiToken:
    return (
        ApiToken.objects.select_for_update(of=("self",))
        .select_related("organization", "created_by")
        .get(pk=token.pk)
    )


@transaction.atomic
def change_token(
    *, token: ApiToken, changes: dict[str, Any], caller: Identity, by: Actor, now: datetime
) -> ApiToken:
    """Write the columns in `changes` (those of CHANGEABLE, and `budget` for the two of it).

    They count from the next request on.

    Narrowing is always allowed. What reaches further than the token did must as a whole stay within
    the caller, and new scopes within the role of the member whose token it is. Raises TokenEnded,
    ScopeTooBroad, LimitTooBroad or InvalidRequest.
    """
    if "budget" in changes:
        lock_alone(token.organization)  # before the token: see usage.budgets
        amount, period = budget_columns(changes["budget"])
        changes = {**changes, "budget_amount": amount, "budget_period": period}
    token = _lock(token)
    if token.status == TokenStatus.REVOKED:
        raise TokenEnded(token.status)
    before = reach_of(token)
    old = {name: getattr(token, name) for name in CHANGEABLE & set(changes)}
    if "scopes" in changes:
        chosen = check_scopes(changes["scopes"], organization=token.organization)
        changes = {**changes, "scopes": [str(scope) for scope in chosen]}
    for name in old:
        setattr(token, name, changes[name])
    changed = sorted(name for name in old if getattr(token, name) != old[name])
    if not changed:
        return token
    if "expires_at" in changed:
        _check_expiry(token.expires_at, now)
    if "scopes" in changed and not token.is_service_account:
        role = role_scopes(token.organization, token.created_by_id)
        if missing := reach_of(token).scopes - role:
            raise ScopeTooBroad(missing)
    if not before.holds(reach_of(token)):
        check_within(reach_of(token), caller)
    token.save(update_fields=changed)
    if {"budget_amount", "budget_period"} & set(changed):
        _follow_budget(token, now)
    shown = {name: [_shown(old[name]), _shown(getattr(token, name))] for name in changed}
    _note(token, Action.TOKEN_CHANGED, by, now, changes=shown)
    _renew(token)
    return token


def _shown(value: Any) -> Any:
    if isinstance(value, datetime):
        return int(value.timestamp())
    return plain(value) if isinstance(value, Decimal) else value


@transaction.atomic
def rotate_token(
    *, token: ApiToken, grace: timedelta, caller: Identity, by: Actor, now: datetime
) -> tuple[ApiToken, str]:
    """A new secret, shown this once; the present one works for `grace` more, older ones end now.

    A member's token is rotated by that member only, and no token gets the secret of one that
    reaches further. Raises TokenEnded, NotYours, ScopeTooBroad, LimitTooBroad or InvalidRequest.
    """
    if not timedelta(0) <= grace <= MAX_GRACE:
        raise InvalidRequest(
            "grace_seconds is 0 to 604800", code="invalid_value", param="grace_seconds"
        )
    authority.lock(token.organization)  # before the token, as where its budget is changed
    token = _lock(token)
    status = token.shown_status(now)
    if status != ShownStatus.ACTIVE:
        raise TokenEnded(status)
    if not token.is_service_account and (
        caller.is_service_account or caller.user_pk != token.created_by_id
    ):
        raise NotYours
    reach = reach_of(token)
    if not token.is_service_account:
        reach = replace(
            reach, scopes=reach.scopes & role_scopes(token.organization, token.created_by_id)
        )
    # A secret in its grace ends sooner than its token, so it cannot win a lasting one back.
    check_within(reach, caller)
    secret = keys.new_secret()
    token.previous_hash = token.hash if grace else None
    token.previous_until = now + grace if grace else None
    token.hash = keys.digest(secret)
    token.prefix, token.last_four = secret[: keys.SHOWN], secret[-4:]
    token.rotated_at = now
    token.save(
        update_fields=[
            "hash", "previous_hash", "previous_until", "prefix", "last_four", "rotated_at",
        ]
    )  # fmt: skip
    _note(token, Action.TOKEN_ROTATED, by, now, grace_seconds=int(grace.total_seconds()))
    _renew(token)
    return token, secret


@transaction.atomic
def revoke_token(
    *, token: ApiToken, now: datetime, by: Actor = SYSTEM, reason: str = ""
) -> ApiToken:
    """Make the token worthless from the next request on; revoking twice changes nothing."""
    changed = ApiToken.objects.filter(pk=token.pk, status=TokenStatus.ACTIVE).update(
        status=TokenStatus.REVOKED, revoked_at=now
    )
    if changed:
        _renew(token)
        _note(token, Action.TOKEN_REVOKED, by, now, reason=reason)
    token.refresh_from_db()
    return token


def revoke_tokens_of_member(*, membership: Membership, by: Actor, now: datetime) -> int:
    """Revoke what the member made for themselves; service accounts stay. Returns how many."""
    tokens = ApiToken.objects.select_related("organization").filter(
        organization_id=membership.organization_id,
        created_by_id=membership.user_id,
        is_service_account=False,
        status=TokenStatus.ACTIVE,
    )
    for token in list(tokens):
        revoke_token(token=token, now=now, by=by)
    return len(tokens)
