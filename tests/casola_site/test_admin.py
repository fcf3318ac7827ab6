"""The admin: read-only, a fixed number of queries, and no secret anywhere."""

from __future__ import annotations

from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from allauth.usersessions.models import UserSession
from axes.models import AccessAttempt
from django.contrib import admin
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import IdempotencyKey, Invite, Membership, User
from casola_site.core.admin import ReadOnlyAdmin
from inference.models import ModelSpec, Node, Placement
from jobs.models import JobEvent, StoredFile
from tests.factories.accounts import make_invite, make_organization, make_transfer
from tests.factories.jobs import make_job, make_runner
from tests.factories.usage import make_budget
from tokens.services import issue_token
from usage.models import (
    BudgetAlert,
    BudgetReservation,
    Price,
    TotalsMark,
    UsageRecord,
    UsageTotal,
)
from usage.totals import roll_up

pytestmark = pytest.mark.django_db
OURS = ("accounts", "tokens", "usage", "jobs", "inference")
MODELS = [model for model in admin.site._registry if model._meta.app_label in OURS]
PROMPT = "a prompt of the tenant"


@pytest.fixture
def staff() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root@example.com", "a long password"))
    return client


def make_one_of_each(number: int) -> str:
    """A row of every model; returns the secrets of its token and its Invite."""
    organization = make_organization()
    user = User.objects.create_user(f"member-{number}@example.com")
    Membership.objects.create(organization=organization, user=user, role="owner")
    token, secret = issue_token(
        organization=organization,
        created_by=user,
        name="t",
        scopes=["user:write"],
        now=timezone.now(),
    )
    runner = make_runner(placement_id=f"plc_{number}")
    job = make_job(
        organization=organization,
        token=token,
        user=user,
        runner=runner,
        input={"text": PROMPT},
        result={"text": PROMPT},
    )
    for seq in (1, 2):
        JobEvent.objects.create(job=job, seq=seq, type="created")
    StoredFile.objects.create(
        organization=organization,
        job=job,
        name=f"2026/{number}.mp3",
        size_bytes=1,
        created_at=timezone.now(),
        expires_at=timezone.now(),
    )
    UsageRecord.objects.create(
        job_id=str(job.pk),
        organization=organization,
        token=token,
        user=user,
        model_id="test/echo",
        task="x",
        status="completed",
        created_at=timezone.now() - timedelta(hours=2),
    )
    make_budget(organization)
    counter = make_budget(token)
    BudgetReservation.objects.create(
        counter=counter, job_id=str(job.pk), amount=1, expires_at=timezone.now()
    )
    BudgetAlert.objects.create(
        counter=counter, period_start=timezone.now(), amount=1, threshold=50, spent=1
    )
    UsageTotal.objects.all().delete()
    TotalsMark.objects.all().delete()
    roll_up(now=timezone.now())
    spec = ModelSpec.objects.create(model_id=f"m{number}", engine="echo", source="")
    Placement.objects.create(spec=spec, node="n", device="cpu")
    Node.objects.create(name=f"n{number}", heartbeat_at=timezone.now())
    Price.objects.create(model_id="m", unit="prompt_tokens", amount=1)
    IdempotencyKey.objects.create(
        organization=organization, route="tokens", key=f"k{number}", body_hash="0" * 64
    )
    _, invite = make_invite(organization=organization, created_by=user)
    make_transfer(organization=organization)
    return f"{secret} {invite}"


def url(model: type, page: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def test_every_model_of_ours_is_registered_read_only():
    assert len(MODELS) >= 12
    for model in MODELS:
        site = admin.site._registry[model]
        assert isinstance(site, ReadOnlyAdmin), model
        assert not site.list_editable
        for inline in site.inlines:
            assert not inline.can_delete
            assert inline.extra == 0


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_pages_cost_the_same_at_one_and_three_rows(
    staff, model, django_assert_max_num_queries, django_assert_num_queries
):
    secrets = [make_one_of_each(1)]
    listing = url(model, "changelist")
    with django_assert_max_num_queries(16) as counted:
        first = staff.get(listing)
    secrets += [make_one_of_each(2), make_one_of_each(3)]
    with django_assert_num_queries(len(counted)):
        second = staff.get(listing)
    with django_assert_max_num_queries(16):
        found = staff.get(listing, {"q": "nothing like this"})
    with django_assert_max_num_queries(24):
        one = staff.get(url(model, "change", model._default_manager.order_by("-pk")[0].pk))
    for page in (first, second, found, one):
        assert page.status_code == 200
        text = page.content.decode()
        assert PROMPT not in text
        for secret in " ".join(secrets).split():
            assert secret not in text
            assert secret[-20:] not in text
        assert 'name="_save"' not in text


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_nothing_can_be_added_changed_or_deleted(staff, model):
    make_one_of_each(1)
    row = model._default_manager.order_by("-pk")[0]
    before = model._default_manager.filter(pk=row.pk).values().get()
    assert staff.get(url(model, "add")).status_code == 403
    assert staff.post(url(model, "add"), {}).status_code == 403
    assert staff.post(url(model, "change", row.pk), {"name": "x"}).status_code == 403
    assert staff.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    staff.post(
        url(model, "changelist"),
        {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"},
    )
    assert model._default_manager.filter(pk=row.pk).values().get() == before


def make_sign_in(number: int) -> list[str]:
    """Rows of what signs a User in; returns what must not be seen."""
    user = User.objects.create_user(f"person-{number}@example.com")
    secrets = [f"totp-secret-{number}", f"seed-{number}", f"{number}" * 32, f"extra-{number}"]
    EmailAddress.objects.create(user=user, email=user.email, verified=True, primary=True)
    Authenticator.objects.create(user=user, type="totp", data={"secret": secrets[0]})
    Authenticator.objects.create(user=user, type="recovery_codes", data={"seed": secrets[1]})
    UserSession.objects.create(user=user, ip="10.0.0.1", user_agent="x", session_key=secrets[2])
    SocialAccount.objects.create(
        user=user, provider="github", uid=str(number), extra_data={"x": secrets[3]}
    )
    AccessAttempt.objects.create(
        username=user.email,
        ip_address="10.0.0.1",
        user_agent=str(number),
        post_data=f"extra-{number}",
        failures_since_start=1,
    )
    return secrets


SIGN_IN = (EmailAddress, Authenticator, UserSession, SocialAccount, AccessAttempt)


@pytest.mark.parametrize("model", SIGN_IN, ids=lambda model: model.__name__)
def test_sign_in_shows_no_secret_and_costs_the_same_at_one_and_three_rows(
    staff, model, django_assert_max_num_queries, django_assert_num_queries
):
    assert isinstance(admin.site._registry[model], ReadOnlyAdmin)
    secrets = make_sign_in(1)
    with django_assert_max_num_queries(16) as counted:
        first = staff.get(url(model, "changelist"))
    secrets += [*make_sign_in(2), *make_sign_in(3)]
    with django_assert_num_queries(len(counted)):
        second = staff.get(url(model, "changelist"))
    row = model.objects.order_by("-pk")[0]
    one = staff.get(url(model, "change", row.pk))
    assert staff.post(url(model, "change", row.pk), {"email": "x@example.com"}).status_code == 403
    assert staff.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert model.objects.filter(pk=row.pk).exists()
    for page in (first, second, one):
        assert page.status_code == 200
        assert not [secret for secret in secrets if secret in page.content.decode()]


def test_libraries_pages_that_show_secrets_are_not_there():
    shown = {model._meta.label for model in admin.site._registry}
    hidden = {
        "account.EmailConfirmation",
        "socialaccount.SocialApp",
        "socialaccount.SocialToken",
        "axes.AccessLog",
        "axes.AccessFailureLog",
    }
    assert shown & hidden == set()


def test_a_pasted_secret_finds_its_token(staff):
    secrets = [make_one_of_each(number).split()[0] for number in range(3)]
    listing = reverse("admin:tokens_apitoken_changelist")
    for secret in secrets:
        for typed in (secret, f"  {secret} "):
            page = staff.get(listing, {"q": typed})
            assert [row.last_four for row in page.context["cl"].result_list] == [secret[-4:]]
    page = staff.get(listing, {"q": secrets[0][:-1] + "x"})
    assert list(page.context["cl"].result_list) == []


def test_the_hash_is_never_shown(staff):
    make_one_of_each(1)
    model = next(model for model in MODELS if model.__name__ == "ApiToken")
    token = model.objects.get()
    page = staff.get(url(model, "change", token.pk)).content.decode()
    assert token.hash not in page
    assert token.prefix in page


def test_an_invites_hash_is_never_shown(staff):
    make_one_of_each(1)
    invite = Invite.objects.get()
    page = staff.get(url(Invite, "change", invite.pk)).content.decode()
    assert invite.token_hash not in page
    assert invite.public_id in page


def test_a_jobs_page_shows_its_timeline(staff):
    make_one_of_each(1)
    event = JobEvent.objects.latest("pk")
    page = staff.get(url(type(event.job), "change", event.job_id)).content.decode()
    assert "event 2: created" in page


def test_the_admin_is_for_staff(client):
    assert client.get("/admin/jobs/job/").status_code == 302
    client.force_login(User.objects.create_user("a@example.com", "a long password"))
    for model in MODELS:
        assert client.get(url(model, "changelist")).status_code == 302
