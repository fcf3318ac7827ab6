"""The Organization named in a path must be the credential's own."""

from __future__ import annotations

from typing import Any

from casola_site.core.errors import NotFound


class OrganizationNotFound(NotFound):
    """404, the same for a foreign Organization and for none."""

    message = "Organization not found"


def check_organization(identity: Any, organization_id: str) -> None:
    """Raise OrganizationNotFound unless the path names the token's own Organization."""
    if organization_id != identity.organization_id:
        raise OrganizationNotFound
