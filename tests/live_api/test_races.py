"""Invites and ownerships under concurrent requests to two web processes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from tests.live_api.test_tenancy import call

pytestmark = pytest.mark.slow

CROWD, ROUNDS = 50, 3
SET_UP = """
import json
from django.utils import timezone
from accounts.models import Membership, User
from accounts.services import create_organization, offer_transfer
from accounts.actors import user_actor
from tokens.services import issue_token

now = timezone.now()
serial = iter(range(10_000))

def person(row, role, scope):
    user = User.objects.create_user(f"race-{next(serial)}@example.com")
    Membership.objects.create(organization=row, user=user, role=role)
    _, secret = issue_token(organization=row, created_by=user, name="race", scopes=[scope], now=now)
    return [user.public_id, secret]

def organization(*roles):
    row, first = create_organization(name="Race", plan_code="unlimited",
        owner_email=f"race-{next(serial)}@example.com")
    wide = {"member": "user:write"}
    people = [person(row, role, wide.get(role, "admin:write")) for role in roles]
    Membership.objects.filter(organization=row, user=first).delete()
    return row, people

inviting, hosts = organization("owner")
crowd, _ = organization("owner")
races = {}
for name, roles in RACES.items():
    races[name] = []
    for _ in range(ROUNDS):
        row, people = organization(*roles)
        if "transfer" in name:
            offer_transfer(organization=row, member_id=people[-1][0], now=now,
                by=user_actor(User.objects.get(public_id=people[0][0])))
        watcher = issue_token(organization=row, created_by=None, name="watcher",
            scopes=["admin:read"], now=now)[1]
        races[name].append({"org": row.public_id, "people": people, "watcher": watcher})
print(json.dumps({"inviting": inviting.public_id, "host": hosts[0][1], "races": races,
    "crowd": [person(crowd, "member", "user:write") for _ in range(CROWD)]}))
"""
OWNERS = ("owner", "owner")
ACCEPT = ("POST", "/transfer/accept", None)


def demote(number: int) -> tuple[str, str, Any]:
    return "PATCH", f"/members/{{{number}}}", {"role": "admin"}


def remove(number: int) -> tuple[str, str, Any]:
    return "DELETE", f"/members/{{{number}}}", None


# The members' roles, and what each of them sends at the same moment. In a transfer the first one
# has offered their ownership to the last.
RACES: dict[str, tuple[tuple[str, ...], list[tuple[str, str, Any] | None]]] = {
    "each demotes oneself": (OWNERS, [demote(0), demote(1)]),
    "each demotes the other": (OWNERS, [demote(1), demote(0)]),
    "each leaves": (OWNERS, [remove(0), remove(1)]),
    "each removes the other": (OWNERS, [remove(1), remove(0)]),
    "one leaves, one is demoted": (OWNERS, [demote(1), remove(1)]),
    "three go at once": (("owner",) * 3, [remove(0), demote(2), demote(1)]),
    "transfer against leaving": (("owner", "member"), [remove(0), ACCEPT]),
    "transfer against demotion": (("owner", "member"), [demote(0), ACCEPT]),
    "transfer, and the other leaves": (("owner", "owner", "member"), [None, remove(1), ACCEPT]),
}


@pytest.fixture(scope="module")
def made(site) -> dict[str, Any]:
    races = {name: roles for name, (roles, _) in RACES.items()}
    code = f"RACES, ROUNDS, CROWD = {races!r}, {ROUNDS}, {CROWD}\n{SET_UP}"
    return json.loads(site.live.python(code).splitlines()[-1])


def at_once(works: list) -> list[Any]:
    """Call all of them in the same moment."""
    barrier = Barrier(len(works))

    def run(work) -> Any:
        barrier.wait(30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def test_fifty_accepts_of_a_single_use_invite_make_one_member(site, made):
    path = f"/api/organizations/{made['inviting']}"
    invite = call(site, made["host"], "POST", path + "/invites", {"role": "viewer"}).json()

    def accept(number: int):
        _, secret = made["crowd"][number]
        body = {"token": invite["token"]}
        return call(site, secret, "POST", "/api/invites/accept", body, site.urls[number % 2])

    answers = at_once([lambda n=n: accept(n) for n in range(CROWD)])

    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(404)) == (1, CROWD - 1), statuses
    members = call(site, made["host"], "GET", path + "/members").json()["members"]
    [joined] = [row for row in members if row["role"] == "viewer"]
    assert joined["id"] == made["crowd"][statuses.index(200)][0]
    assert len(members) == 2
    events = call(site, made["host"], "GET", path + "/audit?action=invite.accepted").json()
    assert [event["target"] for event in events["events"]] == [joined["id"]]
    [row] = call(site, made["host"], "GET", path + "/invites").json()["invites"]
    assert (row["uses"], row["status"]) == (1, "used")


@pytest.mark.parametrize("race", RACES)
def test_exactly_one_owner_survives(site, made, race):
    for number, it in enumerate(made["races"][race]):
        ids = [public_id for public_id, _ in it["people"]]

        def send(place: int, wish: tuple[str, str, Any], it=it, ids=ids, turn=number):
            method, path, body = wish
            path = f"/api/organizations/{it['org']}{path.format(*ids)}"
            url = site.urls[(place + turn) % 2]
            return call(site, it["people"][place][1], method, path, body, url).status_code

        wishes = [(place, wish) for place, wish in enumerate(RACES[race][1]) if wish]
        statuses = at_once([lambda p=p, w=w: send(p, w) for p, w in wishes])

        assert 200 in statuses
        assert set(statuses) <= {200, 401, 403, 404, 409}, statuses
        members = call(
            site, it["watcher"], "GET", f"/api/organizations/{it['org']}/members"
        ).json()["members"]
        owners = [row["id"] for row in members if row["role"] == "owner"]
        assert len(owners) == 1, (race, statuses, members)
