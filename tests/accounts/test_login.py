"""Logging in and out, resetting, changing password and address, sessions; where `next` leads."""

from __future__ import annotations

import re

import pytest
from allauth.account.models import EmailAddress
from allauth.usersessions.models import UserSession
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session

from accounts.actors import user_actor
from accounts.models import AuditEvent, Organization, User
from accounts.services import InviteTerms, accept_invite, create_invite, create_organization
from accounts.sign_in.sessions import sweep_sessions
from casola_site.core.clock import now
from casola_site.core.doors import Door
from tests.accounts.doors import (
    PASSWORD,
    actions,
    browser,
    code_in,
    confirm,
    log_in,
    sign_up,
    signed_in_as,
    verified,
)
from tests.factories.accounts import make_member, make_organization
from usage.throttling import DOOR_RATES, Per

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
ADA, BOB, NEW = "ada@example.com", "bob@example.com", "ada@new.example.com"
OTHER = "another horse battery staple"


def reset(client, email, outbox, password=OTHER, **more):
    assert client.post("/password/reset", {"email": email, **more}).status_code == 302
    answer = client.post("/password/reset/code", {"code": code_in(outbox[-1]), **more})
    assert answer["Location"].startswith("/password/reset/new")
    return client.post(
        "/password/reset/new", {"password1": password, "password2": password, **more}
    )


def test_logging_in_and_out(mailoutbox):
    verified(browser(), ADA, mailoutbox)
    client = browser()

    assert log_in(client, " Ada@Example.com ")["Location"] == "/start"
    assert signed_in_as(client) == ADA
    assert client.get("/login")["Location"] == "/start"
    assert client.get("/logout").status_code == 200  # asks; only the form logs out
    assert signed_in_as(client) == ADA
    assert client.post("/logout")["Location"] == "/"

    assert signed_in_as(client) == ""
    assert actions()[-2:] == ["signed_in", "signed_out"]
    assert AuditEvent.objects.filter(action="user.signed_in").last().data == {
        "methods": ["password"]
    }


def test_a_wrong_password_and_an_unknown_address_look_alike(mailoutbox):
    user = verified(browser(), ADA, mailoutbox)
    answers = [
        log_in(browser(), email, "not the password").content.decode().replace(email, "@")
        for email in (ADA, "nobody@example.com")
    ]
    without = [re.sub(r'csrfmiddlewaretoken" value="\w+"', "", page) for page in answers]
    assert without[0] == without[1]
    assert "are not correct" in answers[0]
    event = AuditEvent.objects.get(action="user.sign_in_failed")
    assert (event.target, event.actor_kind, event.actor_id) == (user.public_id, "anyone", "")
    assert event.organization == Organization.objects.get(is_personal=True)
    assert event.data == {"step": "password"}


def test_an_unknown_address_costs_a_password_hash_too(monkeypatch):
    hashed = []
    monkeypatch.setattr(User, "set_password", lambda _user, password: hashed.append(password))
    log_in(browser(), "nobody@example.com", "a long password")
    assert hashed == ["a long password"]


def test_an_account_is_limited_per_address(mailoutbox, monkeypatch):
    monkeypatch.setitem(DOOR_RATES, Door.LOGIN, {Per.ADDRESS: "30/d", Per.PAIR: "5/d"})
    verified(browser(), ADA, mailoutbox)
    client = browser()
    statuses = [
        log_in(client, email, "wrong").status_code for email in [ADA, "ADA@example.com"] * 4
    ]
    assert statuses == [200] * 5 + [429] * 3
    assert log_in(client, "bob@example.com", "wrong").status_code == 200
    assert log_in(browser(), ADA)["Location"] == "/start"


def test_a_deactivated_user_is_out_and_stays_out(mailoutbox):
    client = browser()
    user = verified(client, ADA, mailoutbox)
    assert client.get("/settings/security").status_code == 200

    User.objects.filter(pk=user.pk).update(is_active=False)

    assert client.get("/settings/security")["Location"] == "/login?next=/settings/security"
    other = browser()
    assert log_in(other, ADA)["Location"] == "/login/inactive"
    assert other.get("/login/inactive").status_code == 200
    other.post("/password/reset", {"email": ADA})
    assert mailoutbox[-1].subject == "There is no account with this address"
    assert signed_in_as(other) == ""


def test_a_reset_signs_in_and_ends_other_sessions(mailoutbox):
    elsewhere, client = browser(), browser()
    verified(elsewhere, ADA, mailoutbox)

    assert reset(client, ADA, mailoutbox)["Location"] == "/start"

    assert signed_in_as(client) == ADA
    assert elsewhere.get("/settings/security").status_code == 302
    assert mailoutbox[-1].subject == "Your password was reset"
    assert log_in(browser(), ADA).status_code == 200
    assert log_in(browser(), ADA, OTHER)["Location"] == "/start"
    assert "password_reset" in actions()


def test_a_reset_looks_alike_for_known_and_unknown_addresses(mailoutbox):
    verified(browser(), ADA, mailoutbox)
    mailoutbox.clear()
    seen = []
    for email in (ADA, "nobody@example.com"):
        client = browser()
        answer = client.post("/password/reset", {"email": email})
        page = client.get("/password/reset/code").content.decode().replace(email, "@")
        wrong = [client.post("/password/reset/code", {"code": "WRONG1"}) for _ in range(5)]
        seen.append(
            (
                answer["Location"],
                page.split("csrfmiddlewaretoken", 1)[1][100:].replace(page[-80:], ""),
                [(one.status_code, one.headers.get("Location")) for one in wrong],
            )
        )
    assert seen[0][0] == seen[1][0] == "/password/reset/code"
    assert len(seen[0][1]) == len(seen[1][1])
    assert seen[0][2] == seen[1][2] == [(200, None)] * 4 + [(302, "/login")]
    assert [(mail.to, mail.subject) for mail in mailoutbox] == [
        ([ADA], "Your code for a new password"),
        (["nobody@example.com"], "There is no account with this address"),
    ]


def test_no_password_without_a_right_code(mailoutbox):
    verified(browser(), ADA, mailoutbox)
    client = browser()
    client.post("/password/reset", {"email": ADA})
    answer = client.post("/password/reset/new", {"password1": OTHER, "password2": OTHER})
    assert answer["Location"] == "/password/reset/code"
    assert log_in(browser(), ADA, OTHER).status_code == 200


@pytest.mark.parametrize("how", ["superuser", "owner"])
def test_users_that_commands_made_get_in_and_end_up_verified(how, mailoutbox):
    if how == "superuser":
        get_user_model().objects.create_superuser(ADA, PASSWORD)
    else:
        create_organization(name="Acme", plan_code="free", owner_email=ADA)
    client = browser()

    assert reset(client, ADA, mailoutbox)["Location"] == "/start"

    assert signed_in_as(client) == ADA
    user = User.objects.get(email=ADA)
    assert user.email_verified_at is not None
    assert Organization.objects.filter(is_personal=True, memberships__user=user).count() == 1
    assert EmailAddress.objects.filter(user=user, verified=True, primary=True).count() == 1


def test_a_superuser_gets_in_with_password_and_code(mailoutbox):
    get_user_model().objects.create_superuser(ADA, PASSWORD)
    client = browser()
    assert log_in(client, ADA)["Location"] == "/verify"
    assert client.post("/verify", {"code": code_in(mailoutbox[-1])})["Location"] == "/start"
    assert User.objects.get().email_verified_at is not None


def test_changing_the_password_ends_other_sessions(mailoutbox):
    elsewhere, client = browser(), browser()
    verified(elsewhere, ADA, mailoutbox)
    log_in(client, ADA)
    form = {"oldpassword": PASSWORD, "password1": OTHER, "password2": OTHER}

    wrong = client.post("/settings/security/password", {**form, "oldpassword": "x"})
    right = client.post("/settings/security/password", form)

    assert (wrong.status_code, right.status_code) == (200, 302)
    assert right["Location"] == "/settings/security"
    assert client.get("/settings/security").status_code == 200
    assert elsewhere.get("/settings/security").status_code == 302
    assert actions()[-1] == "password_changed"
    assert mailoutbox[-1].subject == "Your password was changed"


def test_sessions_are_listed_and_ended(mailoutbox):
    first, second, third = (browser(HTTP_USER_AGENT=f"Browser/{n}") for n in (1, 2, 3))
    verified(first, ADA, mailoutbox)
    log_in(second, ADA)
    log_in(third, ADA)
    page = first.get("/settings/security/sessions").content.decode()
    assert [page.count(f"Browser/{n}") for n in (1, 2, 3)] == [1, 1, 1]
    assert page.count('<span class="chip">this one</span>') == 1
    for client in (first, second, third):
        assert client.session.session_key not in page

    row = UserSession.objects.get(user_agent="Browser/2")
    first.post("/settings/security/sessions", {"end": row.pk})

    assert second.get("/settings/security").status_code == 302
    assert third.get("/settings/security").status_code == 200
    first.post("/settings/security/sessions", {"end": "others"})
    assert third.get("/settings/security").status_code == 302
    own = UserSession.objects.get()
    answer = first.post("/settings/security/sessions", {"end": own.pk})
    assert answer["Location"] == "/login"
    assert signed_in_as(first) == ""
    assert actions().count("sessions_ended") == 3


def test_nobody_ends_a_strangers_session(mailoutbox):
    client, stranger = browser(), browser()
    verified(client, ADA, mailoutbox)
    verified(stranger, BOB, mailoutbox)
    row = UserSession.objects.get(user__email=ADA)
    stranger.post("/settings/security/sessions", {"end": row.pk})
    assert client.get("/settings/security").status_code == 200
    assert "sessions_ended" not in actions()


def test_sessions_that_are_over_are_swept(mailoutbox):
    verified(browser(), ADA, mailoutbox)
    browser().post("/password/reset", {"email": ADA})
    assert Session.objects.count() == 2
    over = Session.objects.order_by("pk")[0]
    Session.objects.filter(pk=over.pk).update(expire_date=now())

    assert sweep_sessions(now()) == 1

    assert not Session.objects.filter(pk=over.pk).exists()
    assert Session.objects.count() == 1


def test_an_address_is_changed_with_a_code_mailed_to_the_new_one(mailoutbox):
    client = browser()
    user = verified(client, ADA, mailoutbox)
    before = user.email_verified_at

    answer = client.post("/settings/email", {"action_add": "1", "email": NEW})
    assert answer["Location"] == "/confirm/password?next=%2Fsettings%2Femail"
    answer = confirm(client, next="/settings/email")  # goes on with the form from before

    assert answer["Location"] == "/verify"
    assert (mailoutbox[-1].to, User.objects.get().email) == ([NEW], ADA)
    assert client.post("/verify", {"code": code_in(mailoutbox[-2])}).status_code == 200
    assert client.post("/verify", {"code": code_in(mailoutbox[-1])}).status_code == 302
    user.refresh_from_db()
    assert user.email == NEW
    assert user.email_verified_at > before
    address = EmailAddress.objects.get()
    assert (address.email, address.verified, address.primary) == (NEW, True, True)
    assert mailoutbox[-1].to == [ADA]
    assert mailoutbox[-1].subject == "Your address at Casola was changed"
    event = AuditEvent.objects.get(action="user.email_changed")
    assert event.data == {"old": ADA, "new": NEW}
    assert log_in(browser(), NEW)["Location"] == "/start"
    assert log_in(browser(), ADA).status_code == 200


def test_an_invite_follows_the_verified_address(mailoutbox):
    organization = make_organization()
    owner = make_member(organization=organization)
    _, token = create_invite(
        organization=organization,
        terms=InviteTerms(email=NEW),
        base_url="http://x",
        by=user_actor(owner),
        now=now(),
    )
    client = browser()
    verified(client, ADA, mailoutbox)
    confirm(client)
    client.post("/settings/email", {"action_add": "1", "email": NEW})
    client.post("/verify", {"code": code_in(mailoutbox[-1])})

    membership = accept_invite(token=token, user=User.objects.get(email=NEW), now=now())

    assert membership.organization == organization


def test_nobody_takes_an_address_that_is_taken(mailoutbox):
    client = browser()
    verified(browser(), BOB, mailoutbox)
    verified(client, ADA, mailoutbox)
    confirm(client)

    assert client.post("/settings/email", {"action_add": "1", "email": BOB}).status_code == 302

    client.post("/verify", {"code": code_in(mailoutbox[-1])})
    assert sorted(User.objects.values_list("email", flat=True)) == [ADA, BOB]


SAFE = "/join/csl_inv_x?a=1"
UNSAFE = [
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example/",
    "http://testserver/x",
    "javascript:alert(1)",
    "evil.example",
    "/\t/evil.example/",
    "/\n/evil.example/",
]


def test_next_survives_signing_up(mailoutbox):
    client = browser()
    page = client.get("/signup", {"next": SAFE}).content.decode()
    assert '<input type="hidden" name="next" value="/join/csl_inv_x?a=1">' in page
    assert "/login?next=%2Fjoin%2Fcsl_inv_x" in page
    sign_up(client, ADA, next=SAFE)
    assert client.post("/verify", {"code": code_in(mailoutbox[-1])})["Location"] == SAFE


def test_next_survives_logging_in_unverified_and_a_reset(mailoutbox):
    sign_up(browser(), ADA)
    client = browser()
    assert log_in(client, ADA, next=SAFE)["Location"] == "/verify"
    assert client.post("/verify", {"code": code_in(mailoutbox[-1])})["Location"] == SAFE
    assert reset(browser(), ADA, mailoutbox, next=SAFE)["Location"] == SAFE


@pytest.mark.parametrize("target", UNSAFE)
def test_next_leads_nowhere_else(target, mailoutbox):
    client = browser()
    sign_up(client, ADA, next=target)
    assert client.post("/verify", {"code": code_in(mailoutbox[-1])})["Location"] == "/start"
    assert log_in(browser(), ADA, next=target)["Location"] == "/start"
    assert client.get("/login", {"next": target})["Location"] == "/start"
    assert client.post("/logout", {"next": target})["Location"] == "/"


PAGES = ["/signup", "/login", "/password/reset", "/password/reset/done", "/login/inactive"]
OWN_PAGES = [
    "/settings/security",
    "/settings/security/password",
    "/settings/security/sessions",
    "/settings/security/app",
    "/settings/security/keys",
    "/settings/security/keys/add",
    "/settings/security/connections",
    "/settings/email",
    "/logout",
]


def test_pages_hold_to_the_strict_policy(mailoutbox):
    client = browser()
    anonymous = [browser().get(path) for path in PAGES]
    verified(client, ADA, mailoutbox)
    confirm(client)
    for answer in (*anonymous, *(client.get(path) for path in OWN_PAGES)):
        page = answer.content.decode()
        assert answer.status_code == 200, answer.request["PATH_INFO"]
        assert "unsafe" not in answer["Content-Security-Policy"]
        assert '<html lang="en"' in page
        assert "<h1>" in page
        assert " style=" not in page
        assert " onclick=" not in page
        assert 'href="http' not in page
        assert 'src="http' not in page
