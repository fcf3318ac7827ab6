"""The audit: written with the change or not at all, and never changed afterwards."""

from __future__ import annotations

import pytest
from django.db import Error, connection, transaction
from django.test import RequestFactory
from django.utils import timezone

from accounts.actors import SYSTEM, Actor, ActorKind, actor_of, staff_actor, token_actor, user_actor
from accounts.models import AuditEvent, AuditIsAppendOnly
from accounts.services import record
from tests.factories.accounts import make_member, make_organization, make_user
from tests.factories.tokens import make_identity, make_token
from tokens.services import issue_token, mint_token, revoke_token

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = timezone.now()


def write(by=SYSTEM, **columns):
    with transaction.atomic():
        return record(by=by, action="test.done", organization=None, now=NOW, **columns)


@pytest.mark.parametrize("how", ["save", "delete", "update", "bulk", "all", "update_or_create"])
def test_a_row_cannot_be_changed_through_the_models(how):
    event = write(data={"old": 1})
    event.reason = "another"
    rows = AuditEvent.objects.filter(pk=event.pk)
    with pytest.raises(AuditIsAppendOnly), transaction.atomic():
        {
            "save": event.save,
            "delete": event.delete,
            "update": lambda: rows.update(reason="another"),
            "bulk": lambda: AuditEvent.objects.bulk_update([event], ["reason"]),
            "all": AuditEvent.objects.all().delete,
            "update_or_create": lambda: AuditEvent.objects.update_or_create(
                pk=event.pk, defaults={"reason": "another"}
            ),
        }[how]()
    assert AuditEvent.objects.values_list("reason", "data").get() == ("", {"old": 1})


def raw(sql: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)


def test_nor_in_the_database():
    write()
    with pytest.raises(Error, match="append-only"):
        raw("UPDATE accounts_auditevent SET reason = 'another'")
    if connection.vendor == "postgresql":
        with pytest.raises(Error, match="append-only"):
            raw("DELETE FROM accounts_auditevent")
    assert AuditEvent.objects.get().reason == ""


def test_a_row_belongs_to_a_transaction():
    with transaction.atomic():
        record(by=SYSTEM, action="x", organization=None, now=NOW)
        transaction.set_rollback(True)
    assert not AuditEvent.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_outside_of_one_there_is_no_row():
    with pytest.raises(transaction.TransactionManagementError):
        record(by=SYSTEM, action="x", organization=None, now=NOW)


def test_it_outlives_what_it_speaks_of():
    organization = make_organization()
    user = make_member(organization=organization)
    with transaction.atomic():
        record(by=user_actor(user), action="x", organization=organization, now=NOW)
    user.delete()
    organization.delete()
    row = AuditEvent.objects.get()
    assert (row.actor_id, row.actor_name) == (user.public_id, user.email)


# -- who ----------------------------------------------------------------------------------------


def columns(event):
    return event.actor_kind, event.actor_id, event.actor_name, event.on_behalf_of


def test_who_did_it():
    organization = make_organization()
    user = make_member(organization=organization)
    mine = make_identity(token_id="tok_1", user_pk=user.pk)
    robot = make_identity(token_id="tok_2", user_pk=user.pk, is_service_account=True)
    assert columns(write(SYSTEM)) == ("system", "", "system", "")
    assert columns(write(user_actor(user))) == ("user", user.public_id, user.email, "")
    assert columns(write(token_actor(mine))) == ("token", "tok_1", user.email, user.public_id)
    assert columns(write(token_actor(robot))) == ("token", "tok_2", "service account", "")
    assert not token_actor(robot).is_person


def test_where_from(settings):
    user = make_user()
    request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="9.9.9.9")
    request.request_id, request.user = "r" * 32, user
    for actor, kind in ((actor_of(request), "user"), (staff_actor(request), "staff")):
        event = write(actor)
        assert (event.actor_kind, event.ip, event.request_id) == (kind, "10.0.0.1", "r" * 32)
    request.auth = make_identity(token_id="tok_1")
    assert actor_of(request).kind == ActorKind.TOKEN


def test_long_texts_are_cut_not_refused():
    event = write(Actor(kind=ActorKind.USER, request_id="r" * 500), target_name="n" * 500)
    assert (len(event.request_id), len(event.target_name)) == (64, 254)


# -- tokens -------------------------------------------------------------------------------------


def test_issuing_and_revoking_a_token_is_told():
    organization = make_organization()
    user = make_member(organization=organization)
    token, secret = issue_token(
        organization=organization,
        created_by=user,
        name="first",
        scopes=["user:write"],
        now=NOW,
        by=user_actor(user),
    )
    for _ in range(2):
        revoke_token(token=token, now=NOW, by=user_actor(user))

    rows = AuditEvent.objects.order_by("pk")
    assert [(row.action, row.target, row.actor_id) for row in rows] == [
        ("token.issued", token.public_id, user.public_id),
        ("token.revoked", token.public_id, user.public_id),
    ]
    shown = f"{token.prefix}…{token.last_four}"
    assert rows[0].data == {"shown": shown, "scopes": ["user:write"]}
    assert secret not in str(list(rows.values()))


def test_a_minted_token_names_its_minter():
    organization = make_organization()
    user = make_member(organization=organization)
    parent, _ = make_token(organization=organization, created_by=user)
    minter = make_identity(
        token_id=parent.public_id, user_pk=user.pk, scopes=frozenset({"user:read"})
    )
    mint_token(
        minted_by=minter,
        organization=organization,
        allowed_models=None,
        allowed_ips=None,
        expires_at=None,
        name="child",
        scopes=["user:read"],
        now=NOW,
    )
    event = AuditEvent.objects.get()
    assert (event.actor_id, event.on_behalf_of) == (parent.public_id, user.public_id)
