"""The second factor: app, recovery codes and keys, at login and at the admin's door."""

from __future__ import annotations

import re
import time

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value

from accounts.models import AuditEvent, Plan, User
from casola_site.core.doors import Door
from tests.accounts.doors import (
    PASSWORD,
    actions,
    browser,
    code_in,
    confirm,
    log_in,
    signed_in_as,
    verified,
)
from tests.accounts.soft_key import SoftKey
from usage.throttling import DOOR_RATES, Per

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
ADA = "ada@example.com"
SECURITY = "/settings/security"


def app_code(secret: str, steps: int = 0) -> str:
    """What an authenticator app shows, now or some steps of 30 seconds from now."""
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + steps))


def with_app(client, outbox, email: str = ADA) -> tuple[User, str, list[str]]:
    """A User who has set up an app, its secret, and the recovery codes."""
    user = verified(client, email, outbox)
    confirm(client)
    page = client.get(f"{SECURITY}/app").content.decode()
    secret = re.search(r'<code class="code">(\w+)</code>', page)[1]
    assert 'src="data:image/svg+xml' in page
    answer = client.post(f"{SECURITY}/app", {"code": app_code(secret, -1)})
    assert answer["Location"] == f"{SECURITY}/recovery-codes"
    page = client.get(answer["Location"]).content.decode()
    return user, secret, re.findall(r"<li><code>(\d+)</code></li>", page)


@pytest.mark.django_db(transaction=True)  # mail and audit come after the commit
def test_an_app_is_set_up_and_asked_for(mailoutbox):
    Plan.objects.get_or_create(code="free", defaults={"name": "Free"})
    first = browser()
    _, secret, codes = with_app(first, mailoutbox)
    assert len(codes) == len(set(codes)) == 10
    assert mailoutbox[-1].subject == "An authenticator app was turned on"
    client = browser()

    assert log_in(client, ADA, next="/join/x")["Location"] == "/login/code"
    assert signed_in_as(client) == ""
    assert client.get(SECURITY).status_code == 302
    page = client.get("/login/code").content.decode()
    assert 'autocomplete="one-time-code"' in page
    assert "<noscript>" in page
    wrong = client.post("/login/code", {"code": "000000"})
    assert wrong.status_code == 200
    assert "Incorrect code" in wrong.content.decode()
    right = client.post("/login/code", {"code": app_code(secret)})

    assert right["Location"] == "/join/x"
    assert signed_in_as(client) == ADA
    assert AuditEvent.objects.filter(action="user.signed_in").last().data == {
        "methods": ["password", "totp"]
    }
    failed = AuditEvent.objects.get(action="user.sign_in_failed")
    assert (failed.data, failed.actor_kind) == ({"step": "second factor"}, "anyone")
    assert actions().count("mfa_added") == 2  # the app and the recovery codes


def test_an_apps_code_works_once(mailoutbox):
    _, secret, _ = with_app(browser(), mailoutbox)
    one, two, code = browser(), browser(), app_code(secret)
    for client in (one, two):
        log_in(client, ADA)
    assert one.post("/login/code", {"code": code}).status_code == 302
    assert two.post("/login/code", {"code": code}).status_code == 200
    assert (signed_in_as(one), signed_in_as(two)) == (ADA, "")


def test_an_apps_code_works_once_while_redis_is_away(mailoutbox, own_redis, settings):
    _, secret, _ = with_app(browser(), mailoutbox)
    away = {"LOCATION": own_redis.url}
    settings.CACHES = {
        name: {**cache, **away} if name != "local" else cache
        for name, cache in settings.CACHES.items()
    }
    own_redis.stop()
    one, two, code = browser(), browser(), app_code(secret, 1)
    for client in (one, two):
        assert log_in(client, ADA)["Location"] == "/login/code"
    assert one.post("/login/code", {"code": code}).status_code == 302
    assert two.post("/login/code", {"code": code}).status_code == 200


def test_a_recovery_code_works_once(mailoutbox):
    _, _, codes = with_app(browser(), mailoutbox)
    one, two = browser(), browser()
    for client in (one, two):
        log_in(client, ADA)
    assert one.post("/login/code", {"code": codes[0]}).status_code == 302
    assert two.post("/login/code", {"code": codes[0]}).status_code == 200
    page = one.get(SECURITY).content.decode()
    assert "9 unused" in page


def test_recovery_codes_are_downloaded_and_made_anew(mailoutbox):
    client = browser()
    _, _, codes = with_app(client, mailoutbox)
    answer = client.get(f"{SECURITY}/recovery-codes/download")
    assert answer["Content-Disposition"] == 'attachment; filename="recovery-codes.txt"'
    assert answer.content.decode().split()[-10:] == codes

    assert client.post(f"{SECURITY}/recovery-codes/new").status_code == 302

    fresh = client.get(f"{SECURITY}/recovery-codes/download").content.decode().split()[-10:]
    assert set(fresh) & set(codes) == set()
    other = browser()
    log_in(other, ADA)
    assert other.post("/login/code", {"code": codes[0]}).status_code == 200
    assert other.post("/login/code", {"code": fresh[0]}).status_code == 302


def test_codes_are_not_shown_without_asking_again(mailoutbox):
    _, secret, codes = with_app(browser(), mailoutbox)
    client = browser()
    log_in(client, ADA)
    client.post("/login/code", {"code": app_code(secret)})
    page = client.get(f"{SECURITY}/recovery-codes")
    assert page.status_code == 302 or codes[0] not in page.content.decode()
    download = client.get(f"{SECURITY}/recovery-codes/download")
    assert download.status_code in (302, 403)


def test_guessing_codes_is_limited_per_account_whatever_the_address(mailoutbox, monkeypatch):
    with_app(browser(), mailoutbox)
    monkeypatch.setitem(DOOR_RATES, Door.SECOND_FACTOR, {Per.ACCOUNT: "5/d"})
    statuses = []
    for _ in range(7):
        client = browser()
        log_in(client, ADA)
        statuses.append(client.post("/login/code", {"code": "000000"}).status_code)
    assert statuses == [200] * 5 + [429] * 2


def test_turning_the_app_off(mailoutbox):
    client = browser()
    with_app(client, mailoutbox)
    assert client.post(f"{SECURITY}/app/off").status_code == 302
    assert Authenticator.objects.count() == 0
    assert actions().count("mfa_removed") == 2
    assert log_in(browser(), ADA)["Location"] == "/start"


def test_a_reset_does_not_get_around_it(mailoutbox):
    _, secret, _ = with_app(browser(), mailoutbox)
    client = browser()
    client.post("/password/reset", {"email": ADA})
    client.post("/password/reset/code", {"code": code_in(mailoutbox[-1])})
    form = {"password1": PASSWORD, "password2": PASSWORD, "next": "/join/x"}
    assert client.post("/password/reset/new", form)["Location"] == "/login/code"
    assert signed_in_as(client) == ""
    assert client.post("/login/code", {"code": app_code(secret)})["Location"] == "/join/x"


def test_secrets_are_encrypted_in_the_database(mailoutbox):
    _, secret, codes = with_app(browser(), mailoutbox)
    stored = str(list(Authenticator.objects.values_list("data", flat=True)))
    assert secret not in stored
    assert not [code for code in codes if code in stored]


def test_a_key_is_registered_and_signs_in(mailoutbox):
    at = {"SERVER_NAME": "localhost"}  # elsewhere browsers want https
    client, key = browser(**at), SoftKey("http://localhost")
    verified(client, ADA, mailoutbox)
    confirm(client)
    page = client.get(f"{SECURITY}/keys/add")
    options = page.context["js_data"]["creation_options"]
    answer = client.post(
        f"{SECURITY}/keys/add", {"name": "My key", "credential": key.create(options)}
    )
    assert answer.status_code == 302, answer.context["form"].errors
    assert "My key" in client.get(f"{SECURITY}/keys").content.decode()

    other = browser(**at)
    assert log_in(other, ADA)["Location"] == "/login/code"
    options = other.get("/login/code").context["js_data"]["request_options"]
    answer = other.post("/login/code", {"credential": key.get(options)})

    assert answer["Location"] == "/start"
    assert signed_in_as(other) == ADA
    pk = Authenticator.objects.get(type="webauthn").pk
    client.post(f"{SECURITY}/keys/{pk}", {"name": "Old key"})
    assert "Old key" in client.get(f"{SECURITY}/keys").content.decode()
    assert client.post(f"{SECURITY}/keys/{pk}/remove").status_code == 302
    assert log_in(browser(), ADA)["Location"] == "/start"


def test_the_admins_door_asks_for_it(mailoutbox):
    user, secret, _ = with_app(browser(), mailoutbox)
    User.objects.filter(pk=user.pk).update(is_staff=True, is_superuser=True)
    client = browser()

    answer = client.post("/admin/login/", {"username": ADA, "password": PASSWORD})

    assert answer["Location"] == "/login/code"
    assert client.get("/admin/").status_code == 302
    assert client.post("/login/code", {"code": app_code(secret)})["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_under_another_secret_key_no_code_fits(mailoutbox, settings):
    _, secret, codes = with_app(browser(), mailoutbox)
    settings.SECRET_KEY = "another secret key of fifty characters or a few more"
    for code in (app_code(secret), app_code(""), codes[0]):
        client = browser()
        log_in(client, ADA)
        answer = client.post("/login/code", {"code": code})
        assert answer.status_code == 200
        assert "Incorrect code" in answer.content.decode()
        assert signed_in_as(client) == ""


def test_recovery_codes_shown_under_another_secret_key_can_be_used(mailoutbox, settings):
    user, _, codes = with_app(browser(), mailoutbox)
    settings.SECRET_KEY = "another secret key of fifty characters or a few more"
    row = Authenticator.objects.get(user=user, type=Authenticator.Type.RECOVERY_CODES)
    shown = row.wrap().get_unused_codes()
    assert shown == row.wrap().get_unused_codes()
    assert set(shown) & set(codes) == set()
    client = browser()
    log_in(client, ADA)
    assert client.post("/login/code", {"code": shown[0]}).status_code == 302
    assert signed_in_as(client) == ADA
