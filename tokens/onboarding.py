"""The token that waits for a new member: made once, its secret shown once."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import IntegrityError, transaction

from accounts.actors import Actor
from accounts.models import Membership
from casola_site.core.scopes import Scope
from tokens.identity import member_identity
from tokens.models import ApiToken, ShownStatus
from tokens.selectors import onboarding_token
from tokens.services import issue_token, rotate_token

WORKS_FOR = timedelta(days=180)
NAME = "First key"
SCOPES = (Scope.USER_READ, Scope.USER_WRITE)
Shown = tuple[ApiToken, str]


def make_first_key(*, membership: Membership, by: Actor, now: datetime) -> Shown | None:
    """The member's onboarding token and its secret; None when it was made before.

    Of requests that come at once one makes it: the database holds one for each member. Raises
    ScopeTooBroad for a role that does not reach `user:write`.
    """
    if onboarding_token(membership) is not None:
        return None
    try:
        with transaction.atomic():
            token, secret = issue_token(
                organization=membership.organization,
                created_by=membership.user,
                name=NAME,
                scopes=SCOPES,
                expires_at=now + WORKS_FOR,
                now=now,
                by=by,
            )
            ApiToken.objects.filter(pk=token.pk).update(is_onboarding=True)
    except IntegrityError:
        return None
    return token, secret


@transaction.atomic
def replace_first_key(*, membership: Membership, by: Actor, now: datetime) -> Shown:
    """A new secret for it, the old one ending now; a new token when it has ended.

    Raises what `make_first_key` does.
    """
    token = onboarding_token(membership)
    if token is not None and token.shown_status(now) == ShownStatus.ACTIVE:
        caller = member_identity(membership)
        return rotate_token(token=token, grace=timedelta(0), caller=caller, by=by, now=now)
    if token is not None:
        ApiToken.objects.filter(pk=token.pk).update(is_onboarding=False)
    made = make_first_key(membership=membership, by=by, now=now)
    if made is None:  # somebody made it in this moment
        return replace_first_key(membership=membership, by=by, now=now)
    return made
