"""An organization with callers of every kind, and the requests that they send."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from django.http import HttpResponseBase
from django.test import Client

from accounts.models import Organization, Role
from casola_site.core.scopes import closure
from tests.factories.accounts import make_invite, make_member, make_organization, make_transfer
from tests.factories.tokens import make_token

ORG = "/api/organizations/{org}"
SCOPES = ("user:read", "user:write", "admin:read", "admin:write")
OF_ROLE = {
    Role.OWNER: closure(["admin:write"]),
    Role.ADMIN: closure(["admin:write"]),
    Role.MEMBER: closure(["user:write"]),
    Role.VIEWER: closure(["user:read"]),
    Role.DISABLED: closure([]),
}


class Caller(NamedTuple):
    """A token: the role of its member (None: a service account) and the scope it was given."""

    role: str | None
    scope: str

    @property
    def scopes(self) -> frozenset[str]:
        """What it reaches: never more than the role does."""
        given = closure([self.scope])
        return given if self.role is None else given & OF_ROLE[Role(self.role)]

    def __str__(self) -> str:
        return f"{self.role or 'service account'} {self.scope}"


# A wider token than its member's role must be worth what the role is worth, so all have a wide one.
CALLERS = [
    *[Caller(role, scope) for role in ("owner", None) for scope in SCOPES],
    *[Caller("admin", scope) for scope in ("admin:read", "admin:write")],
    *[Caller("member", scope) for scope in ("user:write", "admin:write")],
    *[Caller("viewer", scope) for scope in ("user:read", "admin:write")],
    Caller("disabled", "admin:write"),
]


class World:
    """An organization, a token of each Caller, and what the paths name."""

    def __init__(self, *, with_transfer: bool = True) -> None:
        self.organization = make_organization()
        self.people = {
            role: make_member(organization=self.organization, role=role) for role in Role.values
        }
        self.tokens = {caller: self._token(caller) for caller in CALLERS}
        self.secrets = {role: self.tokens[Caller(role, "admin:write")][1] for role in Role.values}
        self.member = make_member(organization=self.organization, role=Role.MEMBER)
        self.other_owner = make_member(organization=self.organization)
        self.invite, _ = make_invite(organization=self.organization)
        self.inviting = make_organization()
        _, self.link = make_invite(organization=self.inviting)
        self.token, _ = make_token(organization=self.organization)
        self.owners_token, _ = make_token(
            organization=self.organization, created_by=self.people["owner"]
        )
        if with_transfer:
            make_transfer(organization=self.organization, to_user=self.people["member"])

    def _token(self, caller: Caller) -> tuple[Any, str]:
        owner = None if caller.role is None else self.people[caller.role]
        return make_token(organization=self.organization, created_by=owner, scopes=[caller.scope])

    def fill(self, text: str) -> str:
        """Put this world's ids into a path or a value."""
        return text.format(
            org=self.organization.public_id,
            member=self.member.public_id,
            other_owner=self.other_owner.public_id,
            invite=self.invite.public_id,
            token=self.token.public_id,
            owners_token=self.owners_token.public_id,
            link=self.link,
        )

    def renamed(self, public_id: str) -> World:
        """The same under another organization's id."""
        other = World.__new__(World)
        other.__dict__.update(self.__dict__, organization=Organization(public_id=public_id))
        return other


def call(secret: str, method: str, path: str, body: Any = None, **headers: str) -> HttpResponseBase:
    """The answer to one request."""
    return Client(raise_request_exception=False).generic(
        method,
        path,
        data=json.dumps(body) if body is not None else "",
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}", **headers},
    )
