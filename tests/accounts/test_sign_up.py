"""Signing up: two fields, a mailed code, a personal organization; the same for known addresses."""

from __future__ import annotations

import ipaddress
import re
from smtplib import SMTPServerDisconnected

import pytest
from allauth.account.models import EmailAddress

from accounts.models import AuditEvent, Membership, Organization, Role, User
from accounts.sign_in import forms
from casola_site.core.doors import Door
from tests.accounts.doors import (
    PASSWORD,
    actions,
    browser,
    code_in,
    log_in,
    sign_up,
    signed_in_as,
    verified,
)
from tests.factories.accounts import make_user
from usage.throttling import DOOR_RATES, Per

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
ADA = "ada@example.com"


def plain(page) -> str:
    """The page's text without what is different on each."""
    return re.sub(r'value="[^"]{40,}"', "", page.content.decode())


def test_signing_up_with_the_mailed_code(mailoutbox):
    client = browser()
    form = client.get("/signup").content.decode()
    assert form.partition("</main>")[0].count("<input") == 3  # the third is against forgery
    assert '<button class="button primary" type="submit">Sign up</button>' in form
    assert 'autocomplete="email"' in form
    assert 'autocomplete="new-password"' in form

    answer = sign_up(client, "Ada@Example.com")

    assert (answer.status_code, answer["Location"]) == (302, "/verify")
    assert signed_in_as(client) == ""
    user = User.objects.get()
    assert (user.email, user.email_verified_at) == (ADA, None)
    assert Organization.objects.filter(is_personal=True).count() == 0
    page = client.get("/verify").content.decode()
    assert ADA in page
    assert 'autocomplete="one-time-code"' in page
    (mail,) = mailoutbox
    assert (mail.to, mail.subject) == ([ADA], "Your code for Casola")
    assert code_in(mail) not in page

    answer = client.post("/verify", {"code": code_in(mail)})

    assert (answer.status_code, answer["Location"]) == (302, "/start")
    assert signed_in_as(client) == ADA
    user.refresh_from_db()
    assert user.email_verified_at is not None
    organization = Organization.objects.get(is_personal=True)
    assert Membership.objects.get(user=user, organization=organization).role == Role.OWNER
    assert user.current_organization == organization
    assert actions() == ["signed_up", "email_verified", "signed_in"]
    event = AuditEvent.objects.get(action="user.signed_in")
    assert (event.organization, event.actor_id, event.actor_kind) == (
        organization,
        user.public_id,
        "user",
    )
    assert event.ip.startswith("10.")
    assert event.request_id
    assert event.data == {"methods": []}
    assert AuditEvent.objects.get(action="organization.created").actor_id == user.public_id


def test_the_session_key_is_new_after_signing_in(mailoutbox):
    client = browser()
    sign_up(client, ADA)
    before = client.session.session_key
    client.post("/verify", {"code": code_in(mailoutbox[-1])})
    assert client.session.session_key != before


def test_wrong_codes_end_the_attempt_and_the_password_starts_another(mailoutbox):
    client = browser()
    sign_up(client, ADA)

    answers = [client.post("/verify", {"code": "WRONG1"}) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 302]
    assert "Incorrect code" in answers[0].content.decode()
    assert answers[-1]["Location"] == "/login"
    assert client.post("/verify", {"code": code_in(mailoutbox[-1])})["Location"] == "/login"
    assert signed_in_as(client) == ""
    assert log_in(client, ADA)["Location"] == "/verify"
    client.post("/verify", {"code": code_in(mailoutbox[-1])})
    assert signed_in_as(client) == ADA


def test_a_new_code_replaces_the_old_one_three_times(mailoutbox):
    client = browser()
    sign_up(client, ADA)
    first = code_in(mailoutbox[-1])

    for _ in range(4):
        client.post("/verify", {"action": "resend"})

    assert len(mailoutbox) == 4
    assert client.post("/verify", {"code": first}).status_code == 200
    assert client.post("/verify", {"code": code_in(mailoutbox[-1])})["Location"] == "/start"


def test_a_known_address_gets_the_same_answer_and_another_mail(mailoutbox):
    make_user(email=ADA)
    known, unknown = browser(), browser()

    pages = [
        (sign_up(client, email), client.get("/verify"), client.post("/verify", {"code": "WRONG1"}))
        for client, email in ((known, ADA), (unknown, "bob@example.com"))
    ]

    (one, two) = (
        [
            (page.status_code, page.headers.get("Location"), plain(page).replace(email, "@"))
            for page in row
        ]
        for row, email in zip(pages, (ADA, "bob@example.com"), strict=True)
    )
    assert one == two
    assert [(mail.to, mail.subject) for mail in mailoutbox] == [
        ([ADA], "You have an account at Casola already"),
        (["bob@example.com"], "Your code for Casola"),
    ]
    assert User.objects.count() == 2
    # Nor do more wrong codes or new ones tell.
    for client in (known, unknown):
        rest = [client.post("/verify", {"code": "WRONG1"}) for _ in range(3)]
        assert [answer.status_code for answer in rest] == [200, 200, 200]
        assert client.post("/verify", {"action": "resend"}).status_code == 302
        assert client.post("/verify", {"code": "WRONG1"})["Location"] == "/login"


def test_a_known_address_costs_a_password_hash_too(mailoutbox, monkeypatch):
    make_user(email=ADA)
    hashed = []
    monkeypatch.setattr(forms, "make_password", hashed.append)
    sign_up(browser(), ADA)
    assert hashed == [PASSWORD]


def test_an_unverified_address_that_somebody_squats_on_comes_back_by_reset(mailoutbox):
    squatter, owner = browser(), browser()
    sign_up(squatter, ADA, "the squatter's own")
    sign_up(owner, ADA)
    assert mailoutbox[-1].subject == "You have an account at Casola already"

    owner.post("/password/reset", {"email": ADA})
    owner.post("/password/reset/code", {"code": code_in(mailoutbox[-1])})
    owner.post("/password/reset/new", {"password1": PASSWORD, "password2": PASSWORD})

    assert signed_in_as(owner) == ADA
    assert User.objects.get().email_verified_at is not None
    assert log_in(squatter, ADA, "the squatter's own")["Location"] == "/verify"
    assert log_in(browser(), ADA, "the squatter's own").status_code == 200
    assert signed_in_as(squatter) == ""


@pytest.mark.parametrize("password", ["short", "password123", "1234567890123", "ada@example.com"])
def test_weak_passwords_are_refused(password, mailoutbox):
    answer = sign_up(browser(), ADA, password)
    page = answer.content.decode()
    assert answer.status_code == 200
    assert 'aria-describedby="form-errors"' in page
    assert 'aria-invalid="true"' in page
    assert mailoutbox == []
    assert User.objects.count() == 0


def test_a_mail_server_that_is_away_does_not_fail_the_page(monkeypatch, mailoutbox):
    def away(*arguments, **options):
        raise SMTPServerDisconnected

    monkeypatch.setattr("django.core.mail.EmailMultiAlternatives.send", away)
    client = browser()
    assert sign_up(client, ADA)["Location"] == "/verify"
    monkeypatch.undo()
    client.post("/verify", {"action": "resend"})
    assert client.post("/verify", {"code": code_in(mailoutbox[-1])})["Location"] == "/start"


def test_two_who_sign_up_with_one_address_at_once(mailoutbox, monkeypatch):
    """The form found the address free; when it saves, somebody else has it."""
    real = forms.forms.SignupForm.save

    def save(form, request):
        make_user(email=ADA)
        return real(form, request)

    monkeypatch.setattr(forms.forms.SignupForm, "save", save)
    client = browser()
    assert sign_up(client, ADA)["Location"] == "/verify"
    assert mailoutbox[-1].subject == "You have an account at Casola already"


def test_signing_up_is_limited_by_address(monkeypatch, mailoutbox):
    monkeypatch.setitem(DOOR_RATES, Door.SIGN_UP, {Per.ADDRESS: "2/d"})
    address = browser().defaults["REMOTE_ADDR"]
    answers = [
        sign_up(browser(REMOTE_ADDR=address), f"user-{number}@example.com") for number in range(3)
    ]
    assert [answer.status_code for answer in answers] == [302, 302, 429]
    assert 1 <= int(answers[-1]["Retry-After"]) <= 86400
    assert "Too many attempts" in answers[-1].content.decode()
    assert len(mailoutbox) == User.objects.count() == 2
    assert sign_up(browser(), "user-9@example.com").status_code == 302


def test_five_may_sign_up_within_an_hour(settings):
    assert settings.SIGNUP_RATE == "5/h"
    assert DOOR_RATES[Door.SIGN_UP] == {Per.ADDRESS: "5/h"}


def test_the_address_is_what_a_trusted_proxy_says(monkeypatch, settings, mailoutbox):
    monkeypatch.setitem(DOOR_RATES, Door.SIGN_UP, {Per.ADDRESS: "1/d"})
    proxy = browser().defaults["REMOTE_ADDR"]
    callers = [browser().defaults["REMOTE_ADDR"] for _ in range(2)]
    settings.TRUSTED_PROXIES = [ipaddress.ip_network(proxy)]
    statuses = [
        sign_up(
            browser(REMOTE_ADDR=proxy, HTTP_X_FORWARDED_FOR=f"1.2.3.4, {caller}"),
            f"user-{number}@example.com",
        ).status_code
        for number, caller in enumerate([callers[0], callers[1], callers[0]])
    ]
    assert statuses == [302, 302, 429]
    assert AuditEvent.objects.filter(ip__in=callers, action="user.signed_up").count() == 2


LOCAL = {"REMOTE_ADDR": "127.0.0.1", "SERVER_NAME": "localhost"}


def test_at_the_machine_itself_the_page_shows_the_code(mailoutbox):
    client = browser(**LOCAL)
    sign_up(client, ADA)
    page = client.get("/verify").content.decode()
    code = code_in(mailoutbox[-1])
    assert f'<strong class="code">{code}</strong>' in page
    assert "EMAIL_URL" in page
    assert code not in browser(**LOCAL).get("/verify", follow=True).content.decode()
    assert client.post("/verify", {"code": code})["Location"] == "/start"


def test_at_the_machine_itself_a_known_address_has_no_code_to_show(mailoutbox):
    make_user(email=ADA)
    client = browser(**LOCAL)
    assert sign_up(client, ADA)["Location"] == "/verify"
    page = client.get("/verify").content.decode()
    assert "an account with this address already" in page
    assert 'class="code"' not in page


def test_at_the_machine_itself_sign_ups_are_not_counted(monkeypatch, mailoutbox):
    monkeypatch.setitem(DOOR_RATES, Door.SIGN_UP, {Per.ADDRESS: "1/d"})
    answers = [sign_up(browser(**LOCAL), f"user-{n}@example.com") for n in range(4)]
    assert [answer.status_code for answer in answers] == [302] * 4


def test_at_the_machine_itself_reset_codes_are_in_the_terminal_only(mailoutbox):
    verified(browser(), ADA, mailoutbox)
    client = browser(**LOCAL)
    client.post("/password/reset", {"email": ADA})
    page = client.get("/password/reset/code").content.decode()
    assert code_in(mailoutbox[-1]) not in page
    assert "In the server's terminal" in page


@pytest.mark.parametrize(
    ("setting", "extra"),
    [
        ({"MAIL_SERVER": True}, {}),
        ({"HOST": "0.0.0.0"}, {}),
        ({"PUBLIC_URL": "https://casola.example.com"}, {}),
        ({"TRUSTED_PROXIES": [ipaddress.ip_network("127.0.0.1")]}, {}),
        ({}, {"REMOTE_ADDR": "10.1.2.3"}),
        ({}, {"SERVER_NAME": "testserver"}),
        ({}, {"HTTP_X_FORWARDED_FOR": "127.0.0.1"}),
        ({}, {"HTTP_X_FORWARDED_HOST": "localhost"}),
        ({}, {"HTTP_X_REAL_IP": "127.0.0.1"}),
        ({}, {"HTTP_VIA": "1.1 proxy"}),
        ({}, {"HTTP_FORWARDED": "for=127.0.0.1"}),
    ],
)
def test_anywhere_else_no_page_shows_a_code(setting, extra, settings, mailoutbox, monkeypatch):
    for door in (Door.SIGN_UP, Door.RESET):
        monkeypatch.setitem(DOOR_RATES, door, {Per.ADDRESS: "1000/m"})
    for name, value in setting.items():
        setattr(settings, name, value)
    client = browser(**{**LOCAL, **extra})
    assert sign_up(client, ADA)["Location"] == "/verify"
    assert code_in(mailoutbox[-1]) not in client.get("/verify").content.decode()
    client.post("/verify", {"code": code_in(mailoutbox[-1])})
    client.post("/logout")
    client.post("/password/reset", {"email": ADA})
    assert mailoutbox[-1].subject == "Your code for a new password"
    page = client.get("/password/reset/code").content.decode()
    assert code_in(mailoutbox[-1]) not in page


def test_the_verified_address_is_the_users_address(mailoutbox):
    user = verified(browser(), ADA, mailoutbox)
    address = EmailAddress.objects.get()
    assert (address.email, address.user, address.verified, address.primary) == (
        ADA,
        user,
        True,
        True,
    )
