"""What the commands that issue a token share."""

from __future__ import annotations

import json
from collections.abc import Iterable

from accounts.models import Organization, User
from tokens.models import ApiToken


def split_scopes(words: Iterable[str]) -> list[str]:
    """Scopes may be separated by spaces or by commas."""
    return [scope for word in words for scope in word.split(",") if scope]


def issued(organization: Organization, token: ApiToken, secret: str, owner: User | None) -> str:
    """The JSON line that shows a secret, the only time that it is shown."""
    return json.dumps(
        {
            "organization_id": organization.public_id,
            "token_id": token.public_id,
            "secret": secret,
            "owner_email": owner.email if owner else None,
        }
    )
