"""`manage.py ensure_demo`: the demo organization, its key and the shipped models; idempotent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from accounts.models import Membership, Organization, Role
from accounts.services import create_organization
from casola_site.core.clock import now
from casola_site.core.scopes import Scope
from inference.catalog import ensure_catalog
from tokens import keys
from tokens.models import ApiToken, TokenStatus
from tokens.services import issue_token

DEMO_EMAIL = "demo@localhost.localdomain"


def key_file() -> Path:
    """Where the demo organization's secret is kept (mode 0600)."""
    return Path(settings.VAR_DIR) / "demo-key"


def stored_key(organization: Organization) -> str | None:
    """The kept secret, when it still opens the organization."""
    path = key_file()
    secret = path.read_text().strip() if path.is_file() else ""
    if not keys.is_well_formed(secret):
        return None
    token = ApiToken.objects.filter(
        hash=keys.digest(secret), organization=organization, status=TokenStatus.ACTIVE
    )
    return secret if token.exists() else None


class Command(BaseCommand):
    """See the module's text."""

    help = "Create the demo organization, its API key and the shipped models, when missing"

    def handle(self, *args: Any, **options: Any) -> None:
        """Create what is missing."""
        ensure_catalog()
        membership = (
            Membership.objects.select_related("organization", "user")
            .filter(user__email=DEMO_EMAIL, role=Role.OWNER)
            .order_by("pk")
            .first()
        )
        if membership is None:
            organization, owner = create_organization(
                name="Demo", plan_code="unlimited", owner_email=DEMO_EMAIL
            )
        else:
            organization, owner = membership.organization, membership.user
        if stored_key(organization) is None:
            _, secret = issue_token(
                organization=organization,
                created_by=owner,
                name="Demo key",
                scopes=[Scope.ADMIN_WRITE],
                now=now(),
            )
            path = key_file()
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secret + "\n")
