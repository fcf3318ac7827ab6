"""`manage.py create_organization`: an Organization, its Owner and a first token."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from accounts.services import create_organization
from casola_site.core.clock import now
from casola_site.core.errors import ApiError
from casola_site.core.scopes import Scope
from tokens.management.issuing import issued, split_scopes
from tokens.services import issue_token


class Command(BaseCommand):
    """Prints one JSON object as its last line."""

    help = "Create an organization with its owner and a first API token"

    def add_arguments(self, parser: CommandParser) -> None:
        """Name, plan, owner and scopes."""
        parser.add_argument("--name", required=True)
        parser.add_argument("--plan", default="free")
        parser.add_argument("--owner-email", required=True)
        parser.add_argument("--scopes", nargs="+", default=[str(Scope.ADMIN_WRITE)])

    def handle(self, *args: Any, **options: Any) -> None:
        """Create all three or nothing."""
        scopes = split_scopes(options["scopes"])
        try:
            with transaction.atomic():
                organization, owner = create_organization(
                    name=options["name"],
                    plan_code=options["plan"],
                    owner_email=options["owner_email"],
                )
                token, secret = issue_token(
                    organization=organization,
                    created_by=owner,
                    name="First token",
                    scopes=scopes,
                    now=now(),
                )
        except ApiError as error:
            raise CommandError(error.message) from None
        self.stdout.write(issued(organization, token, secret, owner))
