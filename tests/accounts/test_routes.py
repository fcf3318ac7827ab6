"""Every role and scope × every organization route × own, foreign and unknown organization.

What a successful call leaves in the audit is told by the same table.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
from django.db import transaction
from django.urls import get_resolver

from accounts.models import AuditEvent, Organization, Plan
from tests.accounts.world import CALLERS, ORG, Caller, World, call

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]

TOKENS, MEMBERS, INVITES = ORG + "/tokens", ORG + "/members", ORG + "/invites"
TRANSFER = ORG + "/transfer"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
SERVICE = None
OWNER, ADMINS = ("owner",), ("owner", "admin")
MANAGERS = (*ADMINS, SERVICE)
NOBODY = ()


class Row(NamedTuple):
    """A request; of those whose scope is enough, whom it serves, and what it leaves in the audit.

    `scope` is that of the method unless it is named. The others are answered with `refusal`.
    """

    method: str
    path: str
    body: dict[str, Any] | None = None
    serves: tuple[str | None, ...] = MANAGERS
    status: int = 200
    events: tuple[str, ...] = ()
    scope: str = ""
    refusal: int = 403

    @property
    def needed(self) -> str:
        """The scope."""
        return self.scope or ("admin:read" if self.method == "GET" else "admin:write")

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.body or ''}"


BUDGET = {"amount": "5", "period": "monthly"}
NEW = {"name": "x", "scopes": ["user:read"]}
ROBOT = {"name": "x", "preset": "userFull", "service_account": True}
TO_OWNER = {"role": "owner", "email": "a@example.com"}
ACCEPTED = ("transfer.accepted", "member.role_changed", "member.role_changed")
# One line makes a route known to every test here.
TABLE = [
    Row("GET", "/api/organizations"),
    Row("POST", "/api/organizations", {"name": "New"}, ADMINS, 201, ("organization.created",)),
    Row("GET", ORG),
    Row("PATCH", ORG, {"name": "New"}, MANAGERS, 200, ("organization.changed",)),
    Row("GET", MEMBERS),
    Row("PATCH", MEMBERS + "/{member}", {"role": "viewer"}, events=("member.role_changed",)),
    Row("PATCH", MEMBERS + "/{member}", {"role": "owner"}, OWNER, 200, ("member.role_changed",)),
    Row("PATCH", MEMBERS + "/{other_owner}", {"role": "admin"}, OWNER, 200, ("member.role_changed",)),
    Row("DELETE", MEMBERS + "/{member}", events=("member.removed",)),
    Row("DELETE", MEMBERS + "/{other_owner}", None, OWNER, 200, ("member.removed",)),
    Row("GET", TRANSFER),
    Row("DELETE", TRANSFER, None, OWNER, 200, ("transfer.cancelled",)),
    Row("POST", TRANSFER, {"member_id": "{member}"}, OWNER, 201, ("transfer.offered",)),
    # Offered to the world's Member; who is not a person is told so, others find no offer.
    Row("POST", TRANSFER + "/accept", None, ("member",), 200, ACCEPTED, "user:write", 404),
    Row("GET", INVITES),
    Row("POST", INVITES, {"role": "viewer"}, MANAGERS, 201, ("invite.created",)),
    Row("POST", INVITES, TO_OWNER, OWNER, 201, ("invite.created",)),
    Row("DELETE", INVITES + "/{invite}", events=("invite.revoked",)),
    Row("POST", INVITES + "/{invite}/resend", events=("invite.resent",)),
    Row("GET", ORG + "/audit"),
    Row("GET", ORG + "/usage"),
    Row("GET", ORG + "/limits"),
    Row("GET", ORG + "/budget"),
    Row("PUT", ORG + "/budget", BUDGET, events=("organization.budget_changed",)),
    Row("DELETE", ORG + "/budget"),  # there is none
    Row(
        "POST", "/api/invites/accept", {"token": "{link}"}, (*ADMINS, "member"), 200,
        ("invite.accepted",), "user:write",
    ),
    Row("GET", TOKENS),
    Row("POST", TOKENS, NEW, MANAGERS, 201, ("token.issued",)),
    Row("POST", TOKENS, ROBOT, MANAGERS, 201, ("token.issued",)),
    Row("GET", TOKENS + "/presets"),
    Row("GET", TOKENS + "/{token}"),
    Row("PATCH", TOKENS + "/{token}", {"scopes": ["admin:write"]}, events=("token.changed",)),
    Row("PATCH", TOKENS + "/{owners_token}", {"name": "New"}, events=("token.changed",)),
    Row("POST", TOKENS + "/{token}/rotate", {"grace_seconds": 60}, events=("token.rotated",)),
    # A new secret of the Owner's would make its holder the Owner.
    Row("POST", TOKENS + "/{owners_token}/rotate", None, OWNER, 200, ("token.rotated",)),
    Row("DELETE", TOKENS + "/{token}", events=("token.revoked",)),
]  # fmt: skip


def route_of(path: str) -> str:
    """A path of the table as the URLconf writes it."""
    names = {"org": "organization_id", "other_owner": "member_id", "owners_token": "token_id"}

    def full(found: re.Match) -> str:
        return f"<str:{names.get(found[1], found[1] + '_id')}>"

    return re.sub(r"{(\w+)}", full, path)


def routes() -> dict[str, set[str]]:
    """Methods by path of every route about Organizations, as the URLconf has them."""
    found: dict[str, set[str]] = {}
    for resolver in get_resolver().url_patterns:
        if str(resolver.pattern) != "api/":
            continue
        for pattern in resolver.url_patterns:
            path = str(pattern.pattern)
            if path.startswith(("organizations", "invites")):
                methods = found.setdefault("/api/" + path, set())
                methods |= {method.upper() for method in pattern.callback.actions} - {"HEAD"}
    return found


def test_the_table_holds_every_route():
    listed: dict[str, set[str]] = {}
    for row in TABLE:
        listed.setdefault(route_of(row.path), set()).add(row.method)
    assert listed == routes()


@pytest.fixture(autouse=True)
def first_plan(db):
    Plan.objects.get_or_create(code="free", defaults={"name": "Free"})


def world_for(row: Row) -> World:
    return World(with_transfer=(row.method, row.path) != ("POST", TRANSFER))


def ask(mine: World, target: World, caller: Caller, row: Row, method: str = ""):
    """Send the row's request with a token of `mine` and the ids of `target`."""
    body = row.body and {
        key: target.fill(value) if isinstance(value, str) else value
        for key, value in row.body.items()
    }
    secret = mine.tokens[caller][1]
    return call(secret, method or row.method, target.fill(row.path), body)


def expected(row: Row, caller: Caller) -> int:
    if not caller.scopes:
        return 401
    if row.needed not in caller.scopes:
        return 403
    if caller.role in row.serves:
        return row.status
    return 403 if caller.role is SERVICE else row.refusal


def check_audit(world: World, caller: Caller, row: Row, answer: Any) -> None:
    """Exactly the row's events, each with who, for whom, from where and in which request."""
    token, _ = world.tokens[caller]
    member = None if caller.role is None else world.people[caller.role]
    events = list(AuditEvent.objects.order_by("pk"))
    assert tuple(event.action for event in events) == row.events
    for event in events:
        told = (event.actor_kind, event.actor_id, event.on_behalf_of, event.ip, event.request_id)
        assert told == (
            "token",
            token.public_id,
            member.public_id if member else "",
            "127.0.0.1",
            answer["x-request-id"],
        )
        assert event.actor_name == (member.email if member else "service account")
        assert event.target
        where = {"organization.created": None, "invite.accepted": world.inviting.pk}
        wanted = where.get(event.action, world.organization.pk)
        assert wanted is None or event.organization_id == wanted


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_own(row):
    world = world_for(row)
    for caller in CALLERS:
        with transaction.atomic():
            answer = ask(world, world, caller, row)
            assert answer.status_code == expected(row, caller), (str(caller), answer.content)
            if answer.status_code < 400:
                check_audit(world, caller, row, answer)
            else:
                error = answer.json()["error"]
                assert {"code", "message", "type"} <= set(error) <= {*error, "param"}
                if row.needed not in caller.scopes and caller.scopes:
                    assert error["code"] == "insufficient_scope"
                    assert row.needed in error["message"]
                assert not AuditEvent.objects.exists()
            transaction.set_rollback(True)


FOREIGN = [row for row in TABLE if "{org}" in row.path]
# Each role at its widest, and service accounts of each scope.
WIDEST = [caller for caller in CALLERS if caller.role is SERVICE or caller.scope == "admin:write"]


def seen(answer: Any) -> tuple[Any, ...]:
    """All of an answer but the id of its request."""
    headers = {name: value for name, value in answer.items() if name != "x-request-id"}
    return answer.status_code, headers, answer.content


@pytest.mark.parametrize("row", FOREIGN, ids=str)
def test_foreign_and_unknown(row):
    """A foreign organization answers byte for byte like none, and nothing happens there."""
    mine, theirs = World(), World()
    before = snapshot(theirs)
    for caller in WIDEST:
        foreign = ask(mine, theirs, caller, row)
        unknown = ask(mine, theirs.renamed("org_0000000000000000000000"), caller, row)
        wanted = 404 if row.needed in caller.scopes else 403 if caller.scopes else 401
        assert foreign.status_code == wanted, (str(caller), foreign.content)
        assert seen(foreign) == seen(unknown)
        if wanted == 404:
            assert foreign.json()["error"]["message"] == "Organization not found"
    assert snapshot(theirs) == before
    assert not AuditEvent.objects.exists()


NESTED = [row for row in TABLE if re.search(r"{(?!org)\w+}", row.path)]


@pytest.mark.parametrize("row", NESTED, ids=str)
def test_what_is_another_organizations_is_not_found_under_ones_own(row):
    """Ids of another organization's members, invites and tokens are like ids of nothing."""
    mine, theirs = World(), World()
    before = snapshot(theirs)
    ghost = re.sub(r"{(?!org)\w+}", "nothing_0000000000000000000000", row.path)
    for caller in WIDEST:
        foreign = ask(mine, theirs.renamed(mine.organization.public_id), caller, row)
        unknown = ask(mine, mine, caller, row._replace(path=ghost))
        if row.needed in caller.scopes:
            assert foreign.status_code == 404, (str(caller), foreign.content)
        assert seen(foreign) == seen(unknown)
    assert snapshot(theirs) == before
    assert not AuditEvent.objects.exists()


def snapshot(world: World) -> list:
    organization = Organization.objects.get(pk=world.organization.pk)
    return [
        (organization.name, organization.slug),
        list(organization.memberships.order_by("pk").values()),
        list(organization.invites.order_by("pk").values()),
        list(organization.transfers.order_by("pk").values()),
        list(organization.tokens.order_by("pk").values("status", "name", "scopes", "hash")),
    ]


@pytest.mark.parametrize("path", sorted({row.path for row in TABLE}))
def test_other_methods(path):
    """HEAD is GET without a body; what a route does not declare is 405 for all who are known."""
    world = World()
    declared = routes()[route_of(path)]
    for method in set(METHODS) - declared:
        for caller in (Caller("owner", "admin:write"), Caller("disabled", "admin:write")):
            answer = ask(world, world, caller, Row(method, path, {}))
            if method == "HEAD" and "GET" in declared:
                assert answer.status_code == expected(Row("GET", path), caller)
            else:
                assert answer.status_code == (405 if caller.scopes else 401), (method, caller)
                assert set(answer["allow"].split(", ")) >= declared if caller.scopes else True
            assert not AuditEvent.objects.exists()
