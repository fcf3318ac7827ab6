"""Issuing and revoking tokens."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from accounts.actors import SYSTEM, Actor, token_actor
from accounts.models import Membership, Organization, User
from accounts.services.audit import Action, record
from casola_site.core.errors import InvalidRequest, NotFound, PermissionDenied
from casola_site.core.ids import can_be_id
from casola_site.core.scopes import TENANT_SCOPES, Scope, closure
from tokens import keys
from tokens.identity import Identity, invalidate, role_scopes
from tokens.models import ApiToken, TokenStatus


class TokenNotFound(NotFound):
    """404."""

    message = "Token not found"


class ScopeTooBroad(PermissionDenied):
    """403: the new token would reach further than its maker."""

    def __init__(self, scopes: Iterable[str]) -> None:
        super().__init__(f"You cannot grant {', '.join(sorted(scopes))}", code="insufficient_scope")


class LimitTooBroad(PermissionDenied):
    """403: the new token would escape a limit of the one that makes it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} may not reach further than this token's own", param=name)


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
    if minted_by.allowed_models is not None:
        allowed_models = list(
            minted_by.allowed_models if allowed_models is None else allowed_models
        )
        if not set(allowed_models) <= set(minted_by.allowed_models):
            raise LimitTooBroad("allowed_models")
    if minted_by.allowed_ips is not None:
        allowed_ips = list(minted_by.allowed_ips if allowed_ips is None else allowed_ips)
        if not all(_covered(network, minted_by.allowed_ips) for network in allowed_ips):
            raise LimitTooBroad("allowed_ips")
    if minted_by.expires_at is not None:
        until = datetime.fromtimestamp(minted_by.expires_at, tz=UTC)
        expires_at = until if expires_at is None else expires_at
        if expires_at > until:
            raise LimitTooBroad("expires_at")
    return allowed_models, allowed_ips, expires_at


def _covered(network: str, by: Iterable[str]) -> bool:
    inner = ipaddress.ip_network(network, strict=False)
    outers = (ipaddress.ip_network(text, strict=False) for text in by)
    return any(inner.version == outer.version and inner.subnet_of(outer) for outer in outers)


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
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("The expiry is in the past", code="invalid_value", param="expires_at")
    secret = keys.new_secret()
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
        created_at=now,
    )
    _note(token, Action.TOKEN_ISSUED, by, now, scopes=token.scopes)
    return token, secret


def _note(token: ApiToken, action: Action, by: Actor, now: datetime, **data: Any) -> None:
    record(
        by=by,
        action=action,
        organization=token.organization,
        now=now,
        target=token.public_id,
        target_name=token.name,
        data={"shown": f"{token.prefix}…{token.last_four}", **data},
    )


def mint_token(
    *,
    minted_by: Identity,
    organization: Organization,
    allowed_models: list[str] | None,
    allowed_ips: list[str] | None,
    expires_at: datetime | None,
    by: Actor | None = None,
    **fields: Any,
) -> tuple[ApiToken, str]:
    """`issue_token` for the holder of a token: in its user's name, within its scopes and limits.

    Raises what issue_token does, or LimitTooBroad.
    """
    allowed_models, allowed_ips, expires_at = within(
        minted_by, allowed_models=allowed_models, allowed_ips=allowed_ips, expires_at=expires_at
    )
    return issue_token(
        organization=organization,
        created_by=User.objects.filter(pk=minted_by.user_pk).first(),
        granted_by=minted_by.scopes,
        allowed_models=allowed_models,
        allowed_ips=allowed_ips,
        expires_at=expires_at,
        by=by or token_actor(minted_by),
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


@transaction.atomic
def revoke_token(*, token: ApiToken, now: datetime, by: Actor = SYSTEM) -> ApiToken:
    """Make the token worthless from the next request on; revoking twice changes nothing."""
    changed = ApiToken.objects.filter(pk=token.pk, status=TokenStatus.ACTIVE).update(
        status=TokenStatus.REVOKED, revoked_at=now
    )
    if changed:
        organization_id = token.organization.public_id
        transaction.on_commit(lambda: invalidate(organization_id))
        _note(token, Action.TOKEN_REVOKED, by, now)
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
