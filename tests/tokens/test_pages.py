"""The token pages: a secret is shown once, a member manages their own, managers see all."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone

from accounts.models import AuditEvent, IdempotencyKey, Membership, Role
from casola_site.core.budgets import Budget, BudgetPeriod
from tests.factories.accounts import make_organization
from tests.factories.tokens import make_token
from tests.factories.usage import make_budget, make_consumption
from tests.pages import Page, secrets_in, visitor
from tokens import keys
from tokens.identity import load
from tokens.models import ApiToken, TokenStatus
from usage.services import record_usage

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NEW = "/settings/tokens/new"
FORM = {
    "name": "Website",
    "scopes": ["user:read", "user:write"],
    "expires": "90",
    "budget_period": "monthly",
}
CHANGE = {"name": "x", "scopes": ["user:read"], "expires": "keep", "budget_period": "monthly"}


@pytest.fixture
def member():
    return visitor(Role.MEMBER)


def once(client, path=NEW) -> str:
    return Page(client.get(path).content.decode()).fields["once"]


def make(client, **fields):
    return client.post(NEW, {**FORM, "once": once(client), **fields})


# -- making -----------------------------------------------------------------------------------


def test_a_token_is_made_and_its_secret_works(member):
    response = make(member, description="of the site")

    (secret,) = secrets_in(response.content.decode())
    token = ApiToken.objects.get()
    assert response.status_code == 201
    assert "no-store" in response["Cache-Control"]
    assert token.hash == keys.digest(secret)
    assert (token.name, token.description, token.scopes) == (
        "Website",
        "of the site",
        ["user:read", "user:write"],
    )
    assert (token.created_by, token.is_service_account) == (member.user, False)
    assert abs(token.expires_at - timezone.now() - timedelta(days=90)) < timedelta(minutes=5)
    assert load(token.hash).scopes == {"user:read", "user:write"}
    event = AuditEvent.objects.get(action="token.issued")
    assert (event.actor_id, event.ip) == (member.user.public_id, "127.0.0.1")


def test_a_secret_is_never_shown_again(member):
    form = {**FORM, "once": once(member)}
    (secret,) = secrets_in(member.post(NEW, form).content.decode())
    token = ApiToken.objects.get()

    again = member.post(NEW, form)

    assert again.status_code == 201
    assert "Its secret was shown already" in again.content.decode()
    assert ApiToken.objects.count() == 1
    pages = [NEW, "/settings/tokens", f"/settings/tokens/{token.public_id}", "/usage"]
    for text in [again.content.decode(), *(member.get(path).content.decode() for path in pages)]:
        assert secrets_in(text) == set()
    kept = [str(row.answer) for row in IdempotencyKey.objects.all()]
    kept += [str(row.get_decoded()) for row in Session.objects.all()]
    kept += [str(cookie) for cookie in member.cookies.values()]
    assert all(secret not in text for text in kept)


def test_a_form_changed_and_sent_again_is_refused(member):
    form = {**FORM, "once": once(member)}
    member.post(NEW, form)

    response = member.post(NEW, {**form, "name": "Other"})

    assert (response.status_code, ApiToken.objects.count()) == (400, 1)


def test_lists_and_no_expiry(member):
    make(
        member,
        expires="never",
        allowed_models=" Qwen/Qwen3.5-4B \n\nother/model",
        allowed_ips="203.0.113.0/24\r\n2001:db8::1",
    )

    token = ApiToken.objects.get()
    assert token.expires_at is None
    assert token.allowed_models == ["Qwen/Qwen3.5-4B", "other/model"]
    assert token.allowed_ips == ["203.0.113.0/24", "2001:db8::1"]


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": ""}, "name", "This field is required."),
        ({"name": "x" * 121}, "name", "at most 120 characters"),
        ({"scopes": []}, "scopes", "This field is required."),
        ({"scopes": ["admin:write"]}, "scopes", "is not one of the available choices"),
        ({"scopes": ["nonsense"]}, "scopes", "is not one of the available choices"),
        ({"expires": "1000"}, "expires", "is not one of the available choices"),
        ({"allowed_ips": "10.0.0.0/8\nnonsense"}, "allowed_ips", "“nonsense” is no IP address"),
        ({"allowed_models": "m\n" * 101}, "allowed_models", "At most 100 lines"),
        ({"allowed_models": "m" * 201}, "allowed_models", "At most 100 lines of 200"),
    ],
)
def test_what_is_wrong_shows_at_its_field(member, fields, field, words):
    response = make(member, **fields)

    page = Page(response.content.decode())
    assert response.status_code == 400
    assert words in page.text
    assert f"#id_{field}" in page.addresses
    assert f"id_{field}" in page.ids
    assert ApiToken.objects.count() == 0


@pytest.mark.parametrize(
    ("role", "offered"),
    [
        (Role.VIEWER, ["user:read"]),
        (Role.MEMBER, ["user:read", "user:write"]),
        (Role.ADMIN, ["user:read", "user:write", "admin:read", "admin:write"]),
    ],
)
def test_a_role_is_offered_what_it_reaches(role, offered):
    form = visitor(role).get(NEW).context["form"]

    assert [value for value, _ in form.fields["scopes"].choices] == offered
    assert ("service_account" in form.fields) == (role == Role.ADMIN)


def test_a_viewer_makes_a_token_that_reads():
    viewer = visitor(Role.VIEWER)

    assert make(viewer, scopes=["user:read"]).status_code == 201
    assert make(viewer, scopes=["user:write"]).status_code == 400


def test_a_service_account_is_nobodys():
    admin = visitor(Role.ADMIN)

    assert make(admin, service_account="on").status_code == 201

    token = ApiToken.objects.get()
    assert (token.is_service_account, token.created_by) == (True, None)


def test_a_member_makes_no_service_account(member):
    make(member, service_account="on")

    assert ApiToken.objects.get().is_service_account is False


# -- budgets ----------------------------------------------------------------------------------


def test_a_token_with_a_budget_shows_what_is_spent(member):
    make(member, budget_amount="2.50", budget_period="daily")
    token = ApiToken.objects.get()
    record_usage(
        [
            make_consumption(
                member.organization,
                token_id=token.pk,
                units={"completion_tokens": 1},
                prices={"completion_tokens": ["0.5", 1]},
            )
        ]
    )
    make_budget(token, "2.50", "daily")

    page = member.get("/settings/tokens").content.decode()

    assert token.budget == Budget(Decimal("2.5"), BudgetPeriod.DAILY)
    for words in ("0.50 / 2.50", 'value="20"', "starts afresh"):
        assert words in page


def test_a_budget_is_changed_and_lifted(member):
    token, _ = make_token(organization=member.organization, created_by=member.user)
    path = f"/settings/tokens/{token.public_id}"
    form = {"name": "x", "scopes": ["user:write"], "expires": "keep", "budget_period": "weekly"}

    member.post(path, {**form, "budget_amount": "7"})
    token.refresh_from_db()
    given = token.budget
    member.post(path, {**form, "budget_amount": ""})
    token.refresh_from_db()

    assert given == Budget(Decimal(7), BudgetPeriod.WEEKLY)
    assert token.budget is None


@pytest.mark.parametrize("amount", ["0", "-1", "0.0000001", "1000000001", "much"])
def test_a_budget_that_cannot_be(member, amount):
    response = make(member, budget_amount=amount)

    assert response.status_code == 400
    assert "id_budget_amount_error" in Page(response.content.decode()).ids


# -- seeing -----------------------------------------------------------------------------------


def test_a_member_sees_their_own_and_managers_all(member):
    own, _ = make_token(organization=member.organization, created_by=member.user, name="Own")
    service, _ = make_token(organization=member.organization, name="Service")
    make_token(organization=make_organization(), created_by=member.user, name="Elsewhere")
    admin = visitor(Role.ADMIN, member.organization)

    assert [row[0] for row in member.get("/settings/tokens").context["rows"]] == [own]
    rows = admin.get("/settings/tokens").context["rows"]
    assert {row[0] for row in rows} == {own, service}
    assert member.get(f"/settings/tokens/{service.public_id}").status_code == 404
    assert admin.get(f"/settings/tokens/{own.public_id}").status_code == 200


def test_the_list_says_what_each_is(member):
    past = timezone.now() - timedelta(days=1)
    make_token(
        organization=member.organization, created_by=member.user, name="Old", expires_at=past
    )
    make_token(
        organization=member.organization,
        created_by=member.user,
        name="Gone",
        status=TokenStatus.REVOKED,
    )

    shown = member.get("/settings/tokens").context["rows"]
    with_ended = member.get("/settings/tokens?ended=1").context["rows"]

    assert [(token.name, str(status)) for token, status, _ in shown] == [("Old", "expired")]
    assert [(token.name, str(status)) for token, status, _ in with_ended] == [
        ("Gone", "revoked"),
        ("Old", "expired"),
    ]


def test_the_list_asks_as_much_for_one_row_as_for_three(django_assert_num_queries):
    admin = visitor(Role.ADMIN)
    make_budget(make_token(organization=admin.organization, created_by=admin.user)[0])
    admin.get("/settings/tokens")

    for _ in range(2):
        with django_assert_num_queries(7):
            admin.get("/settings/tokens")
        make_token(organization=admin.organization, created_by=visitor(Role.MEMBER).user)
        make_budget(make_token(organization=admin.organization)[0])


# -- changing ---------------------------------------------------------------------------------


def test_a_token_is_changed(member):
    token, _ = make_token(
        organization=member.organization, created_by=member.user, allowed_ips=["10.0.0.1"]
    )
    path = f"/settings/tokens/{token.public_id}"
    form = {**CHANGE, "name": "Renamed", "allowed_ips": ""}

    response = member.post(path, form)

    assert (response.status_code, response["Location"]) == (302, path)
    token.refresh_from_db()
    assert (token.name, token.scopes, token.expires_at, token.allowed_ips) == (
        "Renamed",
        ["user:read"],
        None,
        None,
    )


def test_a_lowered_role_grants_nothing_back(member):
    token, _ = make_token(
        organization=member.organization, created_by=member.user, scopes=["user:read"]
    )
    Membership.objects.filter(user=member.user).update(role=Role.VIEWER)

    response = member.post(
        f"/settings/tokens/{token.public_id}",
        {**CHANGE, "scopes": ["user:write"]},
    )

    assert response.status_code == 400
    token.refresh_from_db()
    assert token.scopes == ["user:read"]


def test_an_admin_neither_changes_nor_rotates_a_members_token(member):
    token, _ = make_token(organization=member.organization, created_by=member.user)
    admin = visitor(Role.ADMIN, member.organization)
    path = f"/settings/tokens/{token.public_id}"

    page = admin.get(path).content.decode()
    changed = admin.post(path, CHANGE)
    rotated = admin.post(f"{path}/rotate", {"grace": "0", "once": "x"})

    assert f"Only {member.user.email} can change or rotate this token" in page
    assert (changed.status_code, rotated.status_code) == (403, 403)
    assert "Only the member whose token it is may rotate it" in rotated.content.decode()
    assert ApiToken.objects.get(pk=token.pk).hash == token.hash


# -- rotating ---------------------------------------------------------------------------------


def test_rotating_shows_the_new_secret_once(member):
    token, old = make_token(organization=member.organization, created_by=member.user)
    path = f"/settings/tokens/{token.public_id}"
    form = {"grace": "3600", "once": once(member, path)}

    first = member.post(f"{path}/rotate", form)
    again = member.post(f"{path}/rotate", form)

    (new,) = secrets_in(first.content.decode())
    assert new != old
    assert secrets_in(again.content.decode()) == set()
    token.refresh_from_db()
    assert token.hash == keys.digest(new)
    assert token.previous_hash == keys.digest(old)
    assert AuditEvent.objects.filter(action="token.rotated").count() == 1


@pytest.mark.parametrize("fields", [{"grace": "1"}, {"grace": ""}, {"once": ""}])
def test_a_rotation_that_makes_no_sense(member, fields):
    token, _ = make_token(organization=member.organization, created_by=member.user)

    response = member.post(
        f"/settings/tokens/{token.public_id}/rotate", {"grace": "0", "once": "x", **fields}
    )

    assert response.status_code == 400
    assert ApiToken.objects.get().hash == token.hash


def test_a_revoked_token_stays_as_it_is(member):
    token, _ = make_token(
        organization=member.organization, created_by=member.user, status=TokenStatus.REVOKED
    )
    path = f"/settings/tokens/{token.public_id}"

    changed = member.post(path, CHANGE)
    rotated = member.post(f"{path}/rotate", {"grace": "0", "once": "x"})

    for response in (changed, rotated):
        assert response.status_code == 400
        assert "The token is revoked" in response.content.decode()


# -- revoking ---------------------------------------------------------------------------------


def test_revoking_asks_for_the_name(member):
    token, _ = make_token(organization=member.organization, created_by=member.user, name="Website")
    path = f"/settings/tokens/{token.public_id}/revoke"

    wrong = member.post(path, {"confirm": "Webseite"})
    done = member.post(path, {"confirm": "website"})

    assert wrong.status_code == 400
    assert "This is not “Website”." in wrong.content.decode()
    assert (done.status_code, done["Location"]) == (302, "/settings/tokens")
    assert ApiToken.objects.get().status == TokenStatus.REVOKED


def test_an_admin_revokes_anybodys(member):
    token, _ = make_token(organization=member.organization, created_by=member.user)
    admin = visitor(Role.ADMIN, member.organization)

    admin.post(f"/settings/tokens/{token.public_id}/revoke", {"confirm": token.name})

    assert ApiToken.objects.get().status == TokenStatus.REVOKED
    page = member.get(f"/settings/tokens/{token.public_id}").content.decode()
    assert "/rotate" not in page
    assert "/revoke" not in page


# -- the file ---------------------------------------------------------------------------------


def test_the_file_holds_the_secret_that_was_sent(member):
    secret = keys.new_secret()

    response = member.post("/settings/tokens/env", {"secret": secret})

    assert response["Content-Disposition"] == 'attachment; filename="casola.env"'
    assert "no-store" in response["Cache-Control"]
    assert response.content.decode() == (
        f"CASOLA_API_KEY={secret}\nCASOLA_BASE_URL=http://testserver/openai/v1\n"
    )


@pytest.mark.parametrize("secret", ["", "csl_sk_nonsense", "x\nPATH=/tmp"])
def test_the_file_holds_nothing_else(member, secret):
    response = member.post("/settings/tokens/env", {"secret": secret})

    assert response.status_code == 400
    assert response["Content-Type"].startswith("text/html")


def test_the_short_address_leads_there(member):
    assert member.get("/tokens")["Location"] == "/settings/tokens"
