"""ApiTokens and the Identity that a request carries."""

from __future__ import annotations

from accounts.models import Organization
from tests.factories.accounts import make_organization
from tokens import keys
from tokens.identity import Identity
from tokens.models import ApiToken


def make_token(*, organization: Organization | None = None, **columns) -> tuple[ApiToken, str]:
    """A service account's token, unless `created_by` is given, with `user:write`, and its secret."""
    secret = keys.new_secret()
    columns.setdefault("is_service_account", columns.get("created_by") is None)
    token = ApiToken.objects.create(
        organization=organization or make_organization(),
        hash=keys.digest(secret),
        prefix=secret[: keys.SHOWN],
        last_four=secret[-4:],
        **{"name": "Test token", "scopes": ["user:write"], **columns},
    )
    return token, secret


def make_identity(**columns) -> Identity:
    """A caller who has no rows; its stamp is not compared."""
    return Identity(
        **{
            "token_pk": 1,
            "token_id": "tok_test",
            "organization_pk": 1,
            "organization_id": "org_test",
            "user_pk": None,
            "scopes": frozenset(),
            "allowed_models": None,
            "allowed_ips": None,
            "api_requests_per_minute": None,
            "job_submissions_per_minute": None,
            "max_queued_jobs": None,
            "max_running_jobs": None,
            "max_streams": None,
            "max_sockets": None,
            "storage_bytes": None,
            "plan": "Test",
            "expires_at": None,
            "stamp": "",
            **columns,
        }
    )
