"""Support staff suspend, unsuspend and change plans: with a reason, a page and an audit row each."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEvent, Plan, User
from tests.factories.accounts import make_invite, make_member, make_organization, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


@pytest.fixture
def organization():
    Plan.objects.get_or_create(code="pro", defaults={"name": "Pro"})
    return make_organization(name="Acme")


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root@example.com", "a long password"))
    return client


def url(organization, action) -> str:
    return reverse(f"admin:accounts_organization_{action}", args=[organization.pk])


def test_suspending_asks_first_and_tells_the_audit(staff, organization):
    page = staff.get(url(organization, "suspend"))
    assert page.status_code == 200
    assert "its tokens open nothing" in page.content.decode()
    organization.refresh_from_db()
    assert organization.status == "active"

    done = staff.post(url(organization, "suspend"), {"reason": "abuse"}, REMOTE_ADDR="10.0.0.1")

    assert done.status_code == 302
    organization.refresh_from_db()
    assert (organization.status, organization.suspended_reason) == ("suspended", "abuse")
    event = AuditEvent.objects.get()
    assert (event.action, event.actor_kind, event.actor_name, event.reason, event.ip) == (
        "organization.suspended", "staff", "root@example.com", "abuse", "10.0.0.1"
    )  # fmt: skip
    assert event.request_id == done["x-request-id"]
    staff.post(url(organization, "unsuspend"), {"reason": "settled"})
    organization.refresh_from_db()
    assert organization.status == "active"


def test_another_plan(staff, organization):
    done = staff.post(url(organization, "plan"), {"plan_code": "pro", "reason": "paid"})
    assert done.status_code == 302
    organization.refresh_from_db()
    assert organization.plan.code == "pro"
    assert AuditEvent.objects.get().data["new"] == "pro"


@pytest.mark.parametrize("form", [{}, {"reason": " "}, {"reason": "x" * 501}, {"reason": "a\tb"}])
@pytest.mark.parametrize("action", ["suspend", "plan"])
def test_without_a_reason_nothing_happens(staff, organization, action, form):
    before = (organization.status, organization.plan_id)
    answer = staff.post(url(organization, action), {"plan_code": "pro", **form})
    assert answer.status_code == 200
    assert "errorlist" in answer.content.decode()
    organization.refresh_from_db()
    assert (organization.status, organization.plan_id) == before
    assert not AuditEvent.objects.exists()


def test_an_unknown_plan_is_a_forms_error(staff, organization):
    answer = staff.post(url(organization, "plan"), {"plan_code": "gold", "reason": "x"})
    assert (answer.status_code, AuditEvent.objects.count()) == (200, 0)


@pytest.mark.parametrize("action", ["suspend", "unsuspend", "plan"])
def test_it_takes_staff_with_the_permission(organization, action):
    client = Client()
    form = {"plan_code": "pro", "reason": "x"}
    assert client.post(url(organization, action), form).status_code == 302
    client.force_login(make_member(organization=organization))
    assert client.post(url(organization, action), form).status_code == 302
    looker = make_user(is_staff=True)
    looker.user_permissions.add(Permission.objects.get(codename="view_organization"))
    client.force_login(looker)
    assert client.post(url(organization, action), form).status_code == 403
    page = reverse("admin:accounts_organization_change", args=[organization.pk])
    assert "Change plan" not in client.get(page).content.decode()
    organization.refresh_from_db()
    assert (organization.status, AuditEvent.objects.count()) == ("active", 0)


def test_a_form_of_another_site_does_nothing(organization):
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root@example.com", "a long password"))
    assert client.post(url(organization, "suspend"), {"reason": "x"}).status_code == 403
    assert not AuditEvent.objects.exists()


def test_the_organizations_page_shows_members_invites_and_audit(staff, organization):
    member = make_member(organization=organization)
    invite, token = make_invite(organization=organization, email="guest@example.com")
    staff.post(url(organization, "suspend"), {"reason": "because of this"})
    foreign, _ = make_invite(organization=make_organization(), email="foreign@example.com")

    page = reverse("admin:accounts_organization_change", args=[organization.pk])
    text = staff.get(page).content.decode()

    for shown in (member.email, "guest@example.com", "because of this", "Unsuspend", "Change plan"):
        assert shown in text
    for hidden in (token, invite.token_hash, foreign.email):
        assert hidden not in text


def test_a_missing_organization_is_404(staff):
    assert staff.get("/admin/accounts/organization/999999/suspend/").status_code == 404
