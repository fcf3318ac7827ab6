"""Changing and rotating tokens: never broader than who asks, and true from the next request on."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import AuditEvent, Role, User
from casola_site.core.errors import ApiError, AuthenticationFailed
from casola_site.core.scopes import Scope, closure
from tests.factories.accounts import make_member, make_organization, make_user
from tests.factories.tokens import make_token
from tests.threads import at_once
from tokens import identity, keys
from tokens.authentication import check_address
from tokens.identity import role_scopes
from tokens.models import ApiToken
from tokens.reach import make_reach
from tokens.services import (
    change_token,
    mint_token,
    reach_of,
    reach_of_identity,
    revoke_token,
    rotate_token,
    token_actor,
)

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


def load(secret):
    """The caller, read afresh."""
    return identity._read(keys.digest(secret), "")


def works(secret) -> bool:
    """Whether the next request with it is let in, caches and all."""
    digest = keys.digest(secret)
    try:
        found = identity.cached(digest)
        if found is None or found.stamp != identity.stamps.current(found.organization_id):
            identity.load(digest)
    except AuthenticationFailed:
        return False
    return True


class Office:
    """An organization's Owner, their token, and the routes."""

    def __init__(self, **columns) -> None:
        self.organization = make_organization(**columns)
        self.owner = make_member(organization=self.organization)
        self.own, self.secret = self.token(created_by=self.owner, scopes=["admin:write"])
        self.base = f"/api/organizations/{self.organization.public_id}/tokens"

    def token(self, **columns):
        return make_token(organization=self.organization, **columns)

    def ask(self, method, path="", body=None, secret=None, **headers):
        return Client(raise_request_exception=False).generic(
            method,
            self.base + path,
            data=json.dumps(body) if body is not None else "",
            content_type="application/json",
            headers={"Authorization": f"Bearer {secret or self.secret}", **headers},
        )

    def rotate(self, token, secret=None, **body):
        return self.ask("POST", f"/{token.public_id}/rotate", body, secret)

    def patch(self, token, secret=None, **body):
        return self.ask("PATCH", f"/{token.public_id}", body, secret)


@pytest.fixture
def office():
    return Office()


@pytest.fixture
def committed(django_capture_on_commit_callbacks):
    """Runs what waits for the commit."""
    return lambda: django_capture_on_commit_callbacks(execute=True)


# -- change -------------------------------------------------------------------------------------


def test_each_field_changes_and_is_told(office):
    token, _ = office.token(name="old", allowed_models=["a"], expires_at=None)
    until = int(timezone.now().timestamp()) + 3600
    body = {
        "name": "new", "description": "text", "scopes": ["user:read"], "allowed_models": ["a", "b"],
        "allowed_ips": ["10.0.0.0/8"], "expires_at": until,
    }  # fmt: skip

    answer = office.patch(token, **body)

    assert answer.status_code == 200, answer.content
    assert body.items() <= answer.json()["token"].items()
    assert body.items() <= office.ask("GET", f"/{token.public_id}").json()["token"].items()
    event = AuditEvent.objects.get()
    assert (event.action, event.target, event.actor_id) == (
        "token.changed", token.public_id, office.own.public_id
    )  # fmt: skip
    assert event.data["changes"]["name"] == ["old", "new"]
    assert event.data["changes"]["expires_at"] == [None, until]
    assert set(event.data["changes"]) == set(body)


def test_what_is_absent_or_the_same_stays(office):
    token, _ = office.token(name="old", description="kept", allowed_models=["a"])
    for body in ({}, {"name": "old"}, {"name": None}, {"status": "revoked", "hash": "x"}):
        answer = office.patch(token, **body)
        assert answer.status_code == 200
        shown = answer.json()["token"]
        assert (shown["name"], shown["description"]) == ("old", "kept")
        assert (shown["allowed_models"], shown["status"]) == (["a"], "active")
    assert not AuditEvent.objects.exists()


def test_null_lifts_a_limit(office):
    soon = timezone.now() + timedelta(hours=1)
    token, _ = office.token(allowed_models=["a"], allowed_ips=["10.0.0.1"], expires_at=soon)
    lifted = {"allowed_models": None, "allowed_ips": None, "expires_at": None}
    shown = office.patch(token, **lifted).json()["token"]
    assert lifted.items() <= shown.items()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"description": "x" * 501}, "description"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": ["system:read"]}, "scopes"),
        ({"preset": "nothing"}, "preset"),
        ({"preset": "worker"}, "preset"),
        ({"preset": "userFull", "scopes": ["user:read"]}, "preset"),
        ({"allowed_ips": ["here"]}, "allowed_ips"),
        ({"allowed_models": "a"}, "allowed_models"),
        ({"expires_at": 1}, "expires_at"),
        ({"expires_at": 9_999_999_999, "expires_in_days": 1}, "expires_at"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_changes(office, body, param):
    token, _ = office.token()
    before = ApiToken.objects.filter(pk=token.pk).values().get()
    answer = office.patch(token, **body)
    assert answer.status_code == 400, answer.content
    assert answer.json()["error"]["param"] == param
    assert ApiToken.objects.filter(pk=token.pk).values().get() == before


def test_a_revoked_token_stays_as_it_is_and_an_expired_one_can_be_prolonged(office):
    now = timezone.now()
    gone, _ = office.token(status="revoked", revoked_at=now)
    over, secret = office.token(expires_at=now - timedelta(seconds=1))
    assert office.patch(gone, name="x").status_code == 409
    assert office.rotate(gone).status_code == office.rotate(over).status_code == 409
    listed = {row["id"]: row["status"] for row in office.ask("GET").json()["tokens"]}
    assert listed == {
        gone.public_id: "revoked", over.public_id: "expired", office.own.public_id: "active"
    }  # fmt: skip
    assert not works(secret)
    assert office.patch(over, expires_in_days=1).json()["token"]["status"] == "active"
    assert works(secret)


def test_a_limited_token_cannot_widen_itself_or_others_but_may_narrow(office):
    models = {"allowed_models": ["a"], "scopes": ["admin:write"], "created_by": office.owner}
    narrow, secret = office.token(**models)
    other, _ = office.token(allowed_models=["b"])
    for token, body in (
        (narrow, {"allowed_models": None}),
        (narrow, {"allowed_models": ["a", "b"]}),
        (other, {"allowed_models": None}),
        (other, {"allowed_models": ["b", "c"]}),
        (other, {"scopes": ["admin:write"]}),
    ):
        answer = office.patch(token, secret, **body)
        assert answer.status_code == 403, body
    assert office.patch(other, secret, allowed_models=[]).status_code == 200
    assert office.patch(other, secret, name="x", scopes=["user:read"]).status_code == 200


def test_scopes_stay_within_the_role_of_the_member(office):
    member = make_member(organization=office.organization, role=Role.MEMBER)
    token, _ = office.token(created_by=member, scopes=["user:read"])
    assert office.patch(token, scopes=["user:write"]).status_code == 200
    answer = office.patch(token, scopes=["admin:read"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope")


def test_a_change_counts_from_the_next_request_on(office, committed):
    token, secret = office.token()
    assert works(secret)
    stamp = identity.cached(keys.digest(secret)).stamp
    with committed():
        office.patch(token, scopes=["user:read"], allowed_ips=["10.0.0.1"])
    assert works(secret)
    found = identity.cached(keys.digest(secret))
    assert found.stamp != stamp
    assert found.scopes == {"user:read"}
    with pytest.raises(AuthenticationFailed):
        check_address(found, "127.0.0.1")


# -- rotate -------------------------------------------------------------------------------------


def test_without_grace_the_old_secret_ends_at_once(office, committed):
    token, secret = office.token()
    assert works(secret)
    with committed():
        answer = office.rotate(token).json()
    assert not works(secret)
    assert works(answer["secret"])
    assert answer["token"]["last_four"] == answer["secret"][-4:]
    assert answer["token"]["previous_secret_until"] is None
    row = ApiToken.objects.values().get(pk=token.pk)
    assert not any(answer["secret"] in str(value) for value in row.values())
    assert AuditEvent.objects.get().action == "token.rotated"
    assert answer["secret"][11:] not in str(AuditEvent.objects.values().get())


def test_both_work_until_the_grace_ends_and_a_frozen_clock_tells(office, committed, monkeypatch):
    import time

    token, old = office.token()
    with committed():
        answer = office.rotate(token, grace_seconds=60).json()
    assert works(old)
    assert works(answer["secret"])
    until = ApiToken.objects.get(pk=token.pk).previous_until
    for seconds, expected in ((-0.1, True), (0, False), (5, False)):
        moment = until + timedelta(seconds=seconds)
        monkeypatch.setattr(timezone, "now", lambda moment=moment: moment)
        monkeypatch.setattr(time, "time", lambda moment=moment: moment.timestamp())
        assert works(old) is expected
        assert works(answer["secret"])


def test_a_second_rotation_ends_the_first_secret(office, committed):
    token, first = office.token()
    with committed():
        second = office.rotate(token, grace_seconds=600).json()["secret"]
    with committed():
        third = office.rotate(token, grace_seconds=600).json()["secret"]
    assert [works(secret) for secret in (first, second, third)] == [False, True, True]


def test_revoking_ends_both_secrets(office, committed):
    token, old = office.token()
    with committed():
        new = office.rotate(token, grace_seconds=600).json()["secret"]
    assert works(old)
    assert works(new)
    with committed():
        revoke_token(token=token, now=timezone.now())
    assert not works(old)
    assert not works(new)


def test_a_secret_in_its_grace_cannot_win_a_lasting_one(office, committed):
    with committed():
        office.rotate(office.own, grace_seconds=600)
    assert office.rotate(office.own, office.secret).status_code == 403
    made = office.ask("POST", "", {"name": "x", "scopes": ["user:read"]}).json()
    until = int(ApiToken.objects.get(pk=office.own.pk).previous_until.timestamp())
    assert made["token"]["expires_at"] == until


def test_a_token_rotates_itself_also_with_an_expiry(office):
    soon = timezone.now() + timedelta(hours=1)
    token, secret = office.token(created_by=office.owner, scopes=["admin:write"], expires_at=soon)
    answer = office.rotate(token, secret, grace_seconds=5)
    assert answer.status_code == 200, answer.content


def test_no_narrower_token_gets_the_secret(office):
    _, secret = office.token(created_by=office.owner, scopes=["admin:write"], allowed_models=["a"])
    assert office.rotate(office.own, secret).status_code == 403
    free, _ = office.token()
    assert office.rotate(free, secret).status_code == 403
    same, _ = office.token(allowed_models=["a"])
    assert office.rotate(same, secret).status_code == 200


def test_a_service_account_cannot_become_a_person(office):
    _, secret = office.token(scopes=["admin:write"])
    _, of_owner = office.token(
        scopes=["admin:write"], created_by=office.owner, is_service_account=True
    )
    for service in (secret, of_owner):
        assert office.rotate(office.own, service).status_code == 403
        made = office.ask("POST", "", {"name": "x", "preset": "adminFull"}, service)
        assert made.status_code == 201
        shown = made.json()["token"]
        assert (shown["service_account"], shown["created_by"]) == (True, None)
        body = {"name": "x", "scopes": ["user:read"], "service_account": False}
        assert office.ask("POST", "", body, service).status_code == 403


@pytest.mark.parametrize("grace", [-1, 604_801, "5", 1.5, True])
def test_an_odd_grace(office, grace):
    answer = office.rotate(office.own, grace_seconds=grace)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "grace_seconds")


def test_an_idempotency_key_rotates_once_and_shows_the_secret_once(office):
    token, _ = office.token()
    other, _ = office.token()

    def rotate(row, **body):
        return office.ask("POST", f"/{row.public_id}/rotate", body, **{"Idempotency-Key": "k"})

    first, again = rotate(token, grace_seconds=5), rotate(token, grace_seconds=5)
    assert again.json() == {**first.json(), "secret": None}
    assert ApiToken.objects.get(pk=token.pk).hash == keys.digest(first.json()["secret"])
    assert rotate(token, grace_seconds=6).status_code == 409
    assert rotate(other, grace_seconds=5).json()["secret"] is not None


@pytest.mark.django_db(transaction=True)
def test_rotations_at_once_leave_two_secrets():
    office = Office()
    token, _ = office.token()
    caller = load(office.secret)

    def rotate():
        return rotate_token(
            token=token,
            grace=timedelta(hours=1),
            caller=caller,
            by=token_actor(caller),
            now=timezone.now(),
        )[1]

    secrets = at_once([rotate] * 4)

    assert sum(works(secret) for secret in secrets) == 2
    assert AuditEvent.objects.filter(action="token.rotated").count() == 4


# -- presets and service accounts -----------------------------------------------------------------


def test_presets_are_listed_and_taken(office):
    listed = office.ask("GET", "/presets").json()["presets"]
    assert [row["name"] for row in listed] == [
        "userReadOnly", "userFull", "adminReadOnly", "adminFull"
    ]  # fmt: skip
    for row in listed:
        made = office.ask("POST", "", {"name": "x", "preset": row["name"]}).json()
        assert made["token"]["scopes"] == row["scopes"]


def test_some_presets_are_the_system_organizations():
    office = Office(is_system=True)
    _, secret = office.token(scopes=["system:write", "worker:write"], created_by=office.owner)
    listed = office.ask("GET", "/presets").json()["presets"]
    assert [row["name"] for row in listed][4:] == ["worker", "systemReadOnly", "systemFull"]
    for row in listed:
        body = {"name": "x", "preset": row["name"], "service_account": True}
        assert office.ask("POST", "", body, secret).status_code == 201, row
    assert office.ask("POST", "", {"name": "x", "preset": "worker"}).status_code == 403


# -- never broader ------------------------------------------------------------------------------

MODELS = st.none() | st.lists(st.sampled_from("abc"), max_size=3, unique=True)
IPS = st.none() | st.lists(
    st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "::/0", "::1"]),
    max_size=2,
    unique=True,
)
NOW = timezone.now()
ENDS = st.none() | st.integers(1, 4).map(lambda hours: NOW + timedelta(hours=hours))
SCOPES = st.lists(st.sampled_from(list(Scope)), min_size=1, max_size=3, unique=True)
LIMITS = {"allowed_models": MODELS, "allowed_ips": IPS, "expires_at": ENDS}
COLUMNS = st.fixed_dictionaries({"scopes": SCOPES, **LIMITS})
CHANGES = st.fixed_dictionaries({}, optional={"scopes": SCOPES, **LIMITS})
ROLES = st.sampled_from(Role.values)


@pytest.mark.parametrize("is_system", [False, True])
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    minter=COLUMNS, role=ROLES, wanted=COLUMNS, target=COLUMNS, target_role=ROLES,
    changes=CHANGES, service=st.booleans(), asks_service=st.none() | st.booleans(),
)  # fmt: skip
def test_minted_or_changed_never_broader(
    is_system, minter, role, wanted, target, target_role, changes, service, asks_service
):
    office = Office(is_system=is_system)
    person = None if service else make_member(organization=office.organization, role=role)
    _, secret = office.token(created_by=person, **minter)
    try:
        caller = load(secret)
    except AuthenticationFailed:
        return
    reach = reach_of_identity(caller)
    with contextlib.suppress(ApiError):
        made, _ = mint_token(
            minted_by=caller,
            organization=office.organization,
            name="x",
            now=NOW,
            service_account=asks_service,
            **wanted,
        )
        assert reach.holds(reach_of(made))
        assert made.created_by_id == (None if made.is_service_account else caller.user_pk)
        assert made.is_service_account or not service
        assert not made.is_service_account or Scope.ADMIN_WRITE in caller.scopes
    other = make_member(organization=office.organization, role=target_role)
    token, _ = office.token(created_by=other, **target)
    before = reach_of(token)
    arguments = {"caller": caller, "by": token_actor(caller), "now": NOW}
    with contextlib.suppress(ApiError):
        changed = change_token(token=token, changes=changes, **arguments)
        after = reach_of(ApiToken.objects.get(pk=changed.pk))
        assert before.holds(after) or reach.holds(after)
        if after.scopes != before.scopes:
            assert after.scopes <= role_scopes(office.organization, other.pk)
    for row in (office.token(**target)[0], token):
        with contextlib.suppress(ApiError):
            _, new = rotate_token(token=row, grace=timedelta(0), **arguments)
            assert reach.holds(reach_of_identity(load(new)))
            assert load(new).is_service_account or load(new).user_pk == caller.user_pk


def reach_from(scopes, allowed_models, allowed_ips, expires_at):
    return make_reach(scopes, allowed_models, allowed_ips, expires_at)


@given(one=COLUMNS, other=COLUMNS, third=COLUMNS)
def test_reaches_are_ordered(one, other, third):
    a, b, c = (reach_from(**columns) for columns in (one, other, third))
    assert a.holds(a)
    assert not (a.holds(b) and b.holds(c)) or a.holds(c)
    assert make_reach(Scope, None, None, None).holds(a)
    assert not a.holds(replace(a, models=None)) or a.models is None
    assert a.scopes == closure(one["scopes"])


# -- the support console ------------------------------------------------------------------------


def test_support_staff_revoke_with_a_reason(office, client):
    token, secret = office.token()
    office.rotate(token, grace_seconds=600)
    token.refresh_from_db()
    client.force_login(User.objects.create_superuser("root@example.com", "a long password"))
    url = reverse("admin:tokens_apitoken_revoke", args=[token.pk])
    change = reverse("admin:tokens_apitoken_change", args=[token.pk])
    assert url in client.get(change).content.decode()
    page = client.get(url).content.decode()
    for hidden in (secret, token.hash, token.previous_hash):
        assert hidden not in page + client.get(change).content.decode()
    assert "errorlist" in client.post(url, {"reason": " "}).content.decode()
    token.refresh_from_db()
    assert token.status == "active"

    assert client.post(url, {"reason": "leaked"}).status_code == 302

    token.refresh_from_db()
    assert token.status == "revoked"
    event = AuditEvent.objects.latest("pk")
    assert (event.action, event.actor_kind, event.reason) == ("token.revoked", "staff", "leaked")
    assert url not in client.get(change).content.decode()
    listing = reverse("admin:tokens_apitoken_changelist")
    found = client.get(listing, {"q": secret}).context["cl"].result_list
    assert [row.pk for row in found] == [token.pk]


def test_revoking_in_the_console_takes_the_permission(office, client):
    looker = make_user(is_staff=True)
    looker.user_permissions.add(Permission.objects.get(codename="view_apitoken"))
    client.force_login(looker)
    url = reverse("admin:tokens_apitoken_revoke", args=[office.own.pk])
    assert client.post(url, {"reason": "x"}).status_code == 403
    change = reverse("admin:tokens_apitoken_change", args=[office.own.pk])
    assert url not in client.get(change).content.decode()
    office.own.refresh_from_db()
    assert office.own.status == "active"
