"""What the organization routes answer. Who may call them is told in test_routes.py."""

from __future__ import annotations

import pytest
from django.utils import timezone

from accounts.models import Membership
from tests.accounts.world import ORG, World, call
from tests.factories.accounts import make_invite, make_member

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


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
