"""The admin's door: axes locks it per account and address, staff clear the lock."""

from __future__ import annotations

from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.utils import timezone

from accounts.models import AuditEvent, User
from tests.accounts.doors import PASSWORD, actions, browser, code_in, log_in, signed_in_as, verified

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
ROOT = "root@example.com"


@pytest.fixture
def root(mailoutbox) -> User:
    """A superuser with a verified address."""
    verified(browser(), ROOT, mailoutbox)
    User.objects.filter(email=ROOT).update(is_staff=True, is_superuser=True)
    return User.objects.get(email=ROOT)


def knock(client, password: str = PASSWORD, email: str = ROOT, **more: str):
    return client.post("/admin/login/", {"username": email, "password": password, **more})


def test_staff_enter_with_their_password(root):
    client = browser()
    assert client.get("/admin/")["Location"] == "/admin/login/?next=/admin/"
    assert client.get("/admin/login/").status_code == 200
    answer = knock(client, email="Root@Example.com", next="/admin/accounts/user/")
    assert answer["Location"] == "/admin/accounts/user/"
    assert client.get("/admin/accounts/user/").status_code == 200
    assert client.get("/admin/login/")["Location"] == "/admin/"
    assert client.get("/admin/password_change/")["Location"] == "/settings/security/password"
    assert actions()[-1] == "signed_in"


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", ""])
def test_next_leads_nowhere_else(root, target):
    assert knock(browser(), next=target)["Location"] == "/admin/"


def test_an_unverified_superuser_is_asked_for_the_mailed_code(mailoutbox):
    User.objects.create_superuser(ROOT, PASSWORD)
    client = browser()
    assert knock(client)["Location"] == "/verify"
    assert client.get("/admin/").status_code == 302
    assert client.post("/verify", {"code": code_in(mailoutbox[-1])})["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_others_do_not_enter(mailoutbox):
    verified(browser(), "ada@example.com", mailoutbox)
    client = browser()
    assert knock(client, email="ada@example.com").status_code == 200
    assert signed_in_as(client) == ""


def test_staff_enter_in_place_of_whoever_may_not(root, mailoutbox):
    client = browser()
    verified(client, "ada@example.com", mailoutbox)
    assert knock(client)["Location"] == "/admin/"
    assert signed_in_as(client) == ROOT


def test_five_wrong_passwords_lock_the_door_for_account_and_address(root):
    client = browser()
    answers = [knock(client, "wrong") for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert answers[-1]["Retry-After"] == "900"
    assert "Too many wrong passwords" in answers[-1].content.decode()
    assert knock(client).status_code == 429  # even with the right one
    assert signed_in_as(client) == ""
    # Another browser at that address is refused, the account elsewhere is not.
    same = client.defaults["REMOTE_ADDR"]
    assert knock(browser(REMOTE_ADDR=same, HTTP_USER_AGENT="Other")).status_code == 429
    assert knock(browser())["Location"] == "/admin/"
    event = AuditEvent.objects.get(action="user.locked_out")
    assert (event.target, event.actor_kind, event.ip) == (root.public_id, "anyone", same)
    assert actions().count("sign_in_failed") >= 5


def test_the_lock_ends_by_itself(root):
    client = browser()
    for _ in range(5):
        knock(client, "wrong")
    assert knock(client).status_code == 429
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=16))
    assert knock(client)["Location"] == "/admin/"


def test_staff_clear_a_lock(root):
    locked, client = browser(), browser()
    for _ in range(5):
        knock(locked, "wrong")
    knock(client)
    attempt = AccessAttempt.objects.get()
    listing = "/admin/axes/accessattempt/"
    page = client.get(listing).content.decode()
    assert ROOT in page
    assert "wrong" not in client.get(f"{listing}{attempt.pk}/change/").content.decode()

    client.post(listing, {"action": "clear", "_selected_action": [attempt.pk]})

    assert AccessAttempt.objects.count() == 0
    event = AuditEvent.objects.get(action="user.lock_cleared")
    assert (event.actor_kind, event.actor_id) == ("staff", root.public_id)
    assert event.data == {"address": locked.defaults["REMOTE_ADDR"]}
    assert knock(locked)["Location"] == "/admin/"


def test_a_colleague_without_the_permission_clears_nothing(root, mailoutbox):
    verified(browser(), "ada@example.com", mailoutbox)
    User.objects.filter(email="ada@example.com").update(is_staff=True)
    locked, client = browser(), browser()
    for _ in range(5):
        knock(locked, "wrong")
    knock(client, email="ada@example.com")
    form = {"action": "clear", "_selected_action": [AccessAttempt.objects.get().pk]}
    client.post("/admin/axes/accessattempt/", form)
    assert AccessAttempt.objects.count() == 1


def test_axes_counts_at_the_admins_door_alone(root):
    client = browser()
    for _ in range(4):
        log_in(client, ROOT, "wrong")
    assert AccessAttempt.objects.count() == 0
    assert knock(client)["Location"] == "/admin/"


def test_passwords_are_not_kept(root):
    knock(browser(), "a mistyped secret")
    row = AccessAttempt.objects.get()
    assert "a mistyped secret" not in f"{row.post_data} {row.get_data}"
    assert (row.username, row.failures_since_start) == (ROOT, 1)
