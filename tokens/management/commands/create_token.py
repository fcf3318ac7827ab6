"""`manage.py create_token`: another token for an Organization."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import Membership, Organization, Role
from casola_site.core.clock import now
from casola_site.core.errors import ApiError
from casola_site.core.scopes import Scope
from tokens.services import issue_token


class Command(BaseCommand):
    """Prints one JSON object as its last line."""

    help = "Create an API token for an organization, on behalf of its owner"

    def add_arguments(self, parser: CommandParser) -> None:
        """Organization, scopes and a name."""
        parser.add_argument("--organization", required=True, help="org_… or slug")
        parser.add_argument("--scopes", nargs="+", default=[str(Scope.USER_WRITE)])
        parser.add_argument("--name", default="Token from the command line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Issue it."""
        wanted = options["organization"]
        organization = (
            Organization.objects.filter(public_id=wanted).first()
            or Organization.objects.filter(slug=wanted).first()
        )
        if organization is None:
            raise CommandError(f"There is no organization {wanted!r}")
        owner = (
            Membership.objects.select_related("user")
            .filter(organization=organization, role=Role.OWNER)
            .order_by("pk")
            .first()
        )
        scopes = [scope for word in options["scopes"] for scope in word.split(",") if scope]
        try:
            token, secret = issue_token(
                organization=organization,
                created_by=owner.user if owner else None,
                name=options["name"],
                scopes=scopes,
                now=now(),
            )
        except ApiError as error:
            raise CommandError(error.message) from None
        answer = {
            "organization_id": organization.public_id,
            "token_id": token.public_id,
            "secret": secret,
            "owner_email": owner.user.email if owner else None,
        }
        self.stdout.write(json.dumps(answer))
