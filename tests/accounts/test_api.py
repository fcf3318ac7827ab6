"""Every role × every organization route × own and foreign organization, over HTTP."""

from __future__ import annotations

import json

import pytest
from django.test import Client
from django.urls import get_resolver
from django.utils import timezone

from accounts.models import AuditEvent, Membership, Organization, Plan, Role
from tests.factories.accounts import make_invite, make_member, make_organization, make_transfer
from tests.factories.tokens import make_token

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]

# Member and Viewer tokens carry admin:write as well: the role, not the token, must hold them back.
CALLERS = ("owner", "admin", "member", "viewer", "disabled", "service account")
MANAGERS = ("owner", "admin", "service account")
ORG = "/api/organizations/{org}"
TOKENS = ORG + "/tokens"

# (method, path, body, callers that succeed, status for them). Everybody else gets 403; a disabled
# member's token gets 401; a foreign organization is 404 for whoever passes the scope.
TABLE = [
    ("GET", "/api/organizations", None, MANAGERS, 200),
    ("POST", "/api/organizations", {"name": "New"}, ("owner", "admin"), 201),
    ("GET", ORG, None, MANAGERS, 200),
    ("PATCH", ORG, {"name": "New"}, MANAGERS, 200),
    ("GET", ORG + "/members", None, MANAGERS, 200),
    ("PATCH", ORG + "/members/{member}", {"role": "viewer"}, MANAGERS, 200),
    ("PATCH", ORG + "/members/{member}", {"role": "owner"}, ("owner",), 200),
    ("PATCH", ORG + "/members/{other_owner}", {"role": "admin"}, ("owner",), 200),
    ("DELETE", ORG + "/members/{member}", None, MANAGERS, 200),
    ("DELETE", ORG + "/members/{other_owner}", None, ("owner",), 200),
    ("GET", ORG + "/transfer", None, MANAGERS, 200),
    ("DELETE", ORG + "/transfer", None, ("owner",), 200),
    ("POST", ORG + "/transfer", {"member_id": "{member}"}, ("owner",), 201),
    # user:write is enough, but nobody of these is the recipient
    ("POST", ORG + "/transfer/accept", None, (), 200),
    ("GET", ORG + "/invites", None, MANAGERS, 200),
    ("POST", ORG + "/invites", {"role": "viewer"}, MANAGERS, 201),
    ("POST", ORG + "/invites", {"role": "owner", "email": "a@example.com"}, ("owner",), 201),
    ("DELETE", ORG + "/invites/{invite}", None, MANAGERS, 200),
    ("POST", ORG + "/invites/{invite}/resend", None, MANAGERS, 200),
    ("GET", ORG + "/audit", None, MANAGERS, 200),
    ("GET", ORG + "/usage", None, MANAGERS, 200),
    ("GET", ORG + "/limits", None, MANAGERS, 200),
    ("POST", "/api/invites/accept", {"token": "{link}"}, ("owner", "admin", "member"), 200),
    ("GET", TOKENS, None, MANAGERS, 200),
    ("POST", TOKENS, {"name": "x", "scopes": ["user:read"]}, MANAGERS, 201),
    ("GET", TOKENS + "/{token}", None, MANAGERS, 200),
    ("POST", TOKENS, {"name": "x", "preset": "userFull", "service_account": True}, MANAGERS, 201),
    ("GET", TOKENS + "/presets", None, MANAGERS, 200),
    ("PATCH", TOKENS + "/{token}", {"scopes": ["admin:write"]}, MANAGERS, 200),
    ("PATCH", TOKENS + "/{owners_token}", {"name": "New"}, MANAGERS, 200),
    ("POST", TOKENS + "/{token}/rotate", {"grace_seconds": 60}, MANAGERS, 200),
    # a new secret of the Owner's would make its holder the Owner
    ("POST", TOKENS + "/{owners_token}/rotate", None, ("owner",), 200),
    ("DELETE", TOKENS + "/{token}", None, MANAGERS, 200),
]
IDS = [f"{method} {path} {body or ''}" for method, path, body, _, _ in TABLE]


def routes() -> set[tuple[str, str]]:
    """(method, path) of every route about Organizations, as the URLconf has them."""
    found = set()
    for resolver in get_resolver().url_patterns:
        if str(resolver.pattern) == "api/":
            for pattern in resolver.url_patterns:
                path = str(pattern.pattern)
                if path.startswith(("organizations", "invites")):
                    for method in pattern.callback.actions:
                        found.add((method.upper(), "/api/" + path))
    return found - {(method, path) for method, path in found if method == "HEAD"}


def test_the_table_holds_every_route():
    names = {
        "{org}": "<str:organization_id>",
        "{member}": "<str:member_id>",
        "{other_owner}": "<str:member_id>",
        "{invite}": "<str:invite_id>",
        "{token}": "<str:token_id>",
        "{owners_token}": "<str:token_id>",
    }
    listed = set()
    for method, path, *_ in TABLE:
        for short, full in names.items():
            path = path.replace(short, full)
        listed.add((method, path))
    assert listed == routes()


class World:
    """An organization with a member of each role, and what the paths name."""

    def __init__(self, *, with_transfer: bool = True) -> None:
        self.organization = make_organization()
        self.people, self.secrets = {}, {}
        for role in Role.values:
            self.people[role] = make_member(organization=self.organization, role=role)
            self.secrets[role] = self._token(created_by=self.people[role])
        self.secrets["service account"] = self._token()
        self.member = make_member(organization=self.organization, role=Role.MEMBER)
        self.other_owner = make_member(organization=self.organization)
        self.invite, _ = make_invite(organization=self.organization)
        _, self.link = make_invite(organization=make_organization())
        self.token, _ = make_token(organization=self.organization)
        self.owners_token, _ = make_token(
            organization=self.organization, created_by=self.people["owner"]
        )
        if with_transfer:
            make_transfer(organization=self.organization)

    def _token(self, **columns) -> str:
        scopes = ["admin:write"]
        return make_token(organization=self.organization, scopes=scopes, **columns)[1]

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


def call(secret, method, path, body=None, **headers):
    return Client(raise_request_exception=False).generic(
        method,
        path,
        data=json.dumps(body) if body is not None else "",
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}", **headers},
    )


def ask(world, target, caller, row, **headers):
    method, path, body, *_ = row
    filled = body and {
        key: target.fill(value) if isinstance(value, str) else value for key, value in body.items()
    }
    return call(world.secrets[caller], method, target.fill(path), filled, **headers)


def expected(row, caller) -> int:
    _, path, _, allowed, status = row
    if caller == "disabled":
        return 401
    if caller in allowed:
        return status
    if path.endswith("transfer/accept") and caller not in ("viewer", "service account"):
        return 404
    return 403


@pytest.fixture(autouse=True)
def first_plan(db):
    Plan.objects.get_or_create(code="free", defaults={"name": "Free"})


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_own(row, caller):
    world = World(with_transfer=row[:2] != ("POST", ORG + "/transfer"))

    answer = ask(world, world, caller, row)

    assert answer.status_code == expected(row, caller), answer.content
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) <= {"code", "message", "type", "param"}
    if row[0] != "GET" and answer.status_code >= 400:
        assert not AuditEvent.objects.exists()


FOREIGN = [row for row in TABLE if "{org}" in row[1]]


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(
    "row", FOREIGN, ids=[f"{row[0]} {row[1]} {row[2] or ''}" for row in FOREIGN]
)
def test_foreign(row, caller):
    """The same bytes as for an organization that does not exist, and nothing happens there."""
    mine, theirs = World(), World()
    before = snapshot(theirs)

    answer = ask(mine, theirs, caller, row)
    ghost = World.__new__(World)
    ghost.__dict__.update(theirs.__dict__, organization=Organization(public_id="org_ghost"))
    none = ask(mine, ghost, caller, row)

    passes = caller in MANAGERS or (caller == "member" and row[1].endswith("transfer/accept"))
    assert answer.status_code == (401 if caller == "disabled" else 404 if passes else 403)
    assert (answer.status_code, answer.content) == (none.status_code, none.content)
    if answer.status_code == 404:
        assert answer.json()["error"]["message"] == "Organization not found"
    assert snapshot(theirs) == before
    assert not AuditEvent.objects.exists()


def snapshot(world) -> list:
    organization = Organization.objects.get(pk=world.organization.pk)
    return [
        (organization.name, organization.slug),
        list(organization.memberships.order_by("pk").values()),
        list(organization.invites.order_by("pk").values()),
        list(organization.transfers.order_by("pk").values()),
        list(organization.tokens.order_by("pk").values("status", "name", "scopes", "hash")),
    ]


# -- what the answers hold ----------------------------------------------------------------------


@pytest.fixture
def world():
    return World(with_transfer=False)


def ok(answer, status=200):
    assert answer.status_code == status, answer.content
    return answer.json()


def test_an_invite_from_making_to_accepting(world):
    owner = world.secrets["owner"]
    path = world.fill(ORG + "/invites")
    body = {"role": "viewer", "multi_use": True, "max_uses": 2, "email": None}
    made = ok(call(owner, "POST", path, body, **{"Idempotency-Key": "k"}), 201)
    again = ok(call(owner, "POST", path, body, **{"Idempotency-Key": "k"}), 201)
    assert made["url"] == f"http://testserver/join/{made['token']}"
    assert again == {**made, "token": None, "url": None}
    assert made["invite"] | {"id": "", "created_at": 0, "expires_at": 0} == {
        "id": "", "email": None, "role": "viewer", "status": "open", "multi_use": True,
        "max_uses": 2, "uses": 0, "created_by": world.people["owner"].public_id,
        "created_at": 0, "expires_at": 0, "revoked_at": None, "mailed_at": None,
    }  # fmt: skip
    listed = call(owner, "GET", path)
    assert made["token"] not in listed.content.decode()
    assert [row["id"] for row in ok(listed)["invites"]] == [
        made["invite"]["id"], world.invite.public_id
    ]  # fmt: skip

    guest = World().secrets["member"]
    joined = ok(call(guest, "POST", "/api/invites/accept", {"token": made["token"]}))
    assert (joined["member"]["role"], joined["organization"]["id"]) == (
        "viewer", world.organization.public_id
    )  # fmt: skip
    assert ok(call(guest, "POST", "/api/invites/accept", {"token": made["token"]})) == joined
    revoked = ok(call(owner, "DELETE", f"{path}/{made['invite']['id']}"))["invite"]
    assert (revoked["status"], revoked["uses"]) == ("revoked", 1)
    late = World().secrets["member"]
    assert call(late, "POST", "/api/invites/accept", {"token": made["token"]}).status_code == 404


def test_a_transfer_from_offer_to_acceptance(world):
    owner, path = world.secrets["owner"], world.fill(ORG + "/transfer")
    taker = world.people["member"]
    body = {"member_id": taker.public_id}
    offered = ok(call(owner, "POST", path, body, **{"Idempotency-Key": "k"}), 201)
    assert ok(call(owner, "POST", path, body, **{"Idempotency-Key": "k"}), 201) == offered
    assert call(owner, "POST", path, body).status_code == 409
    assert ok(call(owner, "GET", path)) == offered
    accepted = ok(call(world.secrets["member"], "POST", path + "/accept"))["transfer"]
    assert (accepted["id"], accepted["status"]) == (offered["transfer"]["id"], "accepted")
    roles = dict(world.organization.memberships.values_list("user", "role"))
    assert (roles[taker.pk], roles[world.people["owner"].pk]) == ("owner", "admin")
    assert call(owner, "GET", path).status_code == 404


def test_the_last_owner_is_a_conflict(world):
    Membership.objects.filter(user=world.other_owner).delete()
    path = world.fill(ORG + "/members/") + world.people["owner"].public_id
    for method, body in (("PATCH", {"role": "admin"}), ("DELETE", None)):
        answer = call(world.secrets["owner"], method, path, body)
        assert (answer.status_code, answer["x-should-retry"]) == (409, "false")
        assert answer.json()["error"]["code"] == "conflict"


def test_pages_of_members(world):
    path = world.fill(ORG + "/members")
    seen, after = [], ""
    while True:
        shown = ok(call(world.secrets["admin"], "GET", f"{path}?limit=3{after}"))
        seen += [row["id"] for row in shown["members"]]
        if not shown["has_more"]:
            break
        after = f"&after={shown['next_after']}"
    assert len(seen) == len(set(seen)) == world.organization.memberships.count()
    foreign = World().member.public_id
    answers = [
        call(world.secrets["admin"], "GET", f"{path}?after={after}")
        for after in (foreign, "user_ghost")
    ]
    assert answers[0].status_code == 400
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize("path", ["/members", "/invites", "/audit"])
def test_a_longer_list_costs_no_more_queries(world, path, django_assert_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    secret, url = world.secrets["owner"], world.fill(ORG + path)
    call(secret, "GET", url)
    with CaptureQueriesContext(connection) as counted:
        call(secret, "GET", url)
        first = len(counted)
    assert first > 0
    for _ in range(3):
        make_member(organization=world.organization)
        make_invite(organization=world.organization, created_by=world.member)
        call(secret, "PATCH", world.fill(ORG), {"name": str(_)})
    call(secret, "GET", url)
    with django_assert_num_queries(first):
        call(secret, "GET", url)


def test_the_audit_tells_who_and_from_where_but_not_which_supporter(world):
    from accounts.actors import Actor, ActorKind
    from accounts.services import suspend_organization, unsuspend_organization

    staff = Actor(kind=ActorKind.STAFF, id="user_s", name="s@casola.example", ip="10.9.9.9")
    for service in (suspend_organization, unsuspend_organization):
        service(organization=world.organization, reason="why", by=staff, now=timezone.now())
    renamed = call(world.secrets["owner"], "PATCH", world.fill(ORG), {"name": "New"})
    answer = call(world.secrets["owner"], "GET", world.fill(ORG + "/audit"))
    events = ok(answer)["events"]
    assert [event["action"] for event in events] == [
        "organization.changed", "organization.unsuspended", "organization.suspended"
    ]  # fmt: skip
    assert events[0]["ip"] == "127.0.0.1"
    assert events[0]["request_id"] == renamed["x-request-id"]
    assert events[0]["actor"]["kind"] == "token"
    assert events[0]["on_behalf_of"] == world.people["owner"].public_id
    assert events[1]["actor"] == {"kind": "staff", "id": None, "name": "support"}
    assert "s@casola" not in answer.content.decode()
    assert "10.9.9.9" not in answer.content.decode()
    only = call(
        world.secrets["owner"], "GET", world.fill(ORG + "/audit?action=organization.changed")
    )
    assert len(ok(only)["events"]) == 1


def test_a_created_organization_is_not_opened_by_the_token(world):
    owner = world.secrets["owner"]
    made = ok(call(owner, "POST", "/api/organizations", {"name": "Second"}), 201)["organization"]
    assert (made["plan"], made["slug"], made["status"]) == ("free", "second", "active")
    assert call(owner, "GET", f"/api/organizations/{made['id']}").status_code == 404
    listed = ok(call(owner, "GET", "/api/organizations"))["organizations"]
    assert [row["id"] for row in listed] == [world.organization.public_id]


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("PATCH", ORG, {"name": 5}, "name"),
        ("PATCH", ORG, {"slug": "A b"}, "slug"),
        ("POST", "/api/organizations", {}, "name"),
        ("PATCH", ORG + "/members/{member}", {"role": "root"}, "role"),
        ("PATCH", ORG + "/members/{member}", {}, "role"),
        ("POST", ORG + "/invites", {"role": "member", "multi_use": "yes"}, "multi_use"),
        ("POST", ORG + "/invites", {"role": "member", "max_uses": 2}, "max_uses"),
        ("POST", ORG + "/invites", {"role": "member", "email": "x"}, "email"),
        ("POST", ORG + "/invites", {}, "role"),
        ("POST", ORG + "/transfer", {}, "member_id"),
        ("POST", "/api/invites/accept", {"token": 5}, "token"),
        ("GET", ORG + "/members?limit=0", None, "limit"),
    ],
)
def test_a_wrong_value_is_named(world, method, path, body, param):
    answer = call(world.secrets["owner"], method, world.fill(path), body)
    assert answer.status_code == 400, answer.content
    assert answer.json()["error"]["param"] == param
