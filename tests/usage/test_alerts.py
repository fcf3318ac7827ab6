"""Alerts: once for each threshold, to the right people, and not lost when a process dies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from smtplib import SMTPException

import pytest
from django.core import mail
from django_q.models import OrmQ

from accounts.models import Role
from casola_site.core import ids
from tests.factories.accounts import make_member, make_organization
from tests.factories.tokens import make_token
from tests.factories.usage import make_budget, make_consumption
from tests.threads import at_once
from usage import alerts
from usage.models import BudgetAlert
from usage.reservations import OutOfBudget, refusals_told, reserve
from usage.services import record_usage

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def spend(organization, cents, token=None, now=NOW) -> None:
    prices = {"completion_tokens": ["0.01", 1]}
    record_usage(
        [
            make_consumption(
                organization,
                token_id=token and token.pk,
                units={"completion_tokens": cents},
                prices=prices,
                at=now,
            )
        ]
    )


def ask(organization, cents, now=NOW) -> None:
    with refusals_told(now):
        reserve(
            job_id=str(ids.job_id()),
            organization_id=organization.pk,
            token_id=None,
            ceiling=Decimal(cents) / 100,
            now=now,
            expires_at=now,
        )


def told() -> list[tuple[int, bool]]:
    rows = BudgetAlert.objects.order_by("pk").values_list("threshold", "is_refusal")
    return list(rows)


def test_each_threshold_is_told_once_in_a_period():
    organization = make_organization()
    make_budget(organization, "1", "daily", now=NOW)
    for cents, expected in ((49, []), (1, [50]), (29, [50]), (1, [50, 80]), (5, [50, 80])):
        spend(organization, cents)
        assert [threshold for threshold, _ in told()] == expected
    spend(organization, 15)
    assert told() == [(50, False), (80, False), (100, False)]
    with pytest.raises(OutOfBudget):
        ask(organization, 1)
    assert len(told()) == 3
    spend(organization, 85, now=NOW + timedelta(days=1))
    assert [threshold for threshold, _ in told()] == [50, 80, 100, 50, 80]


def test_the_first_refusal_counts_as_a_hundred_percent():
    organization = make_organization()
    make_budget(organization, "1", now=NOW)
    spend(organization, 70)
    for _ in range(3):
        with pytest.raises(OutOfBudget):
            ask(organization, 31)
    assert told() == [(50, False), (80, True), (100, True)]


def test_a_request_larger_than_the_whole_budget_tells_nothing():
    organization = make_organization()
    make_budget(organization, "1", now=NOW)
    with pytest.raises(OutOfBudget):
        ask(organization, 101)
    assert told() == []


def test_a_new_limit_is_told_of_anew_and_an_old_one_is_not():
    organization = make_organization()
    make_budget(organization, "1", now=NOW)
    spend(organization, 60)
    make_budget(organization, "10", now=NOW)
    spend(organization, 1)
    assert [threshold for threshold, _ in told()] == [50]
    make_budget(organization, "1", now=NOW)
    spend(organization, 1)
    assert [threshold for threshold, _ in told()] == [50]
    make_budget(organization, "10", now=NOW)
    spend(organization, 440)
    assert [threshold for threshold, _ in told()] == [50, 50]


def test_owners_and_admins_get_the_mail(django_capture_on_commit_callbacks):
    organization = make_organization(name="Acme\nLabs")
    people = {role: make_member(organization=organization, role=role) for role in Role}
    away = make_member(organization=organization, role=Role.ADMIN)
    away.is_active = False
    away.save()
    counter = make_budget(organization, "2.5", "weekly", now=NOW)
    with django_capture_on_commit_callbacks(execute=True):
        spend(organization, 210)
    assert OrmQ.objects.count() == 1  # enqueued after the commit

    assert alerts.mail_alerts(counter_id=counter.pk, now=NOW) is True
    assert alerts.mail_alerts(counter_id=counter.pk, now=NOW + timedelta(hours=1)) is False

    [message] = mail.outbox
    assert sorted(message.recipients()) == sorted(
        people[role].email for role in (Role.OWNER, Role.ADMIN)
    )
    assert message.to == []
    assert message.subject == "80 % of the budget of Acme Labs is used"
    assert "has a budget of 2.50 USD per week. 2.10 USD of it are spent." in message.body
    assert "starts afresh on 30 November 2026 at 00:00 UTC" in message.body
    assert not BudgetAlert.objects.filter(mailed_at=None).exists()


def test_a_tokens_member_is_told_as_well():
    organization = make_organization()
    owner = make_member(organization=organization)
    member = make_member(organization=organization, role=Role.MEMBER)
    mine, _ = make_token(organization=organization, created_by=member, name="CI")
    service, _ = make_token(organization=organization, is_service_account=True)
    expected = {mine: {owner.email, member.email}, service: {owner.email}}
    for token, addresses in expected.items():
        counter = make_budget(token, "1", now=NOW)
        spend(organization, 100, token)
        mail.outbox.clear()
        assert alerts.mail_alerts(counter_id=counter.pk, now=NOW)
        assert set(mail.outbox[0].recipients()) == addresses
        assert mail.outbox[0].subject.startswith(f"100 % of the budget of token {token.name} (")
        assert "refused from now on" in mail.outbox[0].body


def test_what_was_not_mailed_is_tried_again(monkeypatch):
    organization = make_organization()
    make_member(organization=organization)
    counter = make_budget(organization, "1", now=NOW)
    spend(organization, 55)
    OrmQ.objects.all().delete()  # the process died after its commit
    assert alerts.enqueue_unsent(NOW) == 0  # the one under way has a minute
    assert alerts.enqueue_unsent(NOW + timedelta(minutes=2)) == 1
    assert OrmQ.objects.count() == 1

    def broken(_message):
        raise SMTPException("no")

    later = NOW + timedelta(minutes=2)
    with monkeypatch.context() as patch:
        patch.setattr("django.core.mail.EmailMessage.send", broken)
        assert alerts.mail_alerts(counter_id=counter.pk, now=later) is False
    assert alerts.enqueue_unsent(later + timedelta(minutes=9)) == 0
    assert alerts.enqueue_unsent(later + timedelta(minutes=11)) == 1
    assert alerts.mail_alerts(counter_id=counter.pk, now=later + timedelta(minutes=11)) is True
    assert alerts.enqueue_unsent(later + timedelta(minutes=30)) == 0
    assert len(mail.outbox) == 1


@pytest.mark.django_db(transaction=True)
def test_of_many_that_mail_one_does():
    organization = make_organization()
    make_member(organization=organization)
    counter = make_budget(organization, "1", now=NOW)
    from django.db import transaction

    with transaction.atomic():
        spend(organization, 100)
    mailed = at_once([partial(alerts.mail_alerts, counter_id=counter.pk, now=NOW)] * 6)
    assert sorted(mailed) == [False] * 5 + [True]
    assert len(mail.outbox) == 1
