"""`manage.py create_token`: another token for an Organization."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import Membership, Organization, Role
from casola_site.core.clock import now
from casola_site.core.errors import ApiError
from casola_site.core.scopes import Scope
from tokens.management.issuing import issued, split_scopes
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
        scopes = split_scopes(options["scopes"])
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
        self.stdout.write(issued(organization, token, secret, owner.user if owner else None))
