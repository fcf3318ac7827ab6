"""`Idempotency-Key`: the work is done once, the answer is given as often as asked."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.idempotency import answer_once, body_hash
from accounts.models import IdempotencyKey
from casola_site.core.errors import Conflict, InvalidRequest, QueueFull
from jobs.models import Job
from tests.factories.accounts import make_organization
from tests.factories.jobs import make_job
from tests.threads import at_once

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
START = timezone.now()


def ask(organization, *, key="k", body=None, route="jobs", now=START, **options):
    def make():
        return 201, {"id": str(make_job(organization=organization).pk), "secret": "s"}

    return answer_once(
        organization=organization,
        route=route,
        key=key,
        body={"a": 1} if body is None else body,
        now=now,
        **{"make": make, **options},
    )


def test_the_same_body_gets_the_same_answer():
    organization = make_organization()

    first = ask(organization, body={"a": 1, "b": [1, 2]})
    again = ask(organization, body={"b": [1, 2], "a": 1}, now=START + timedelta(hours=23))

    assert first == again
    assert first[0] == 201
    assert Job.objects.count() == 1


@pytest.mark.parametrize("body", [{}, {"a": 2}, {"a": 1.0}, {"a": "1"}, {"a": True}, {"A": 1}])
def test_another_body_is_a_conflict(body):
    organization = make_organization()
    ask(organization, body={"a": 1})

    with pytest.raises(Conflict) as refused:
        ask(organization, body=body)

    assert refused.value.headers == {"x-should-retry": "false"}
    assert Job.objects.count() == 1


def test_without_a_key_each_request_counts():
    organization = make_organization()
    assert ask(organization, key=None) != ask(organization, key=None)
    assert Job.objects.count() == 2
    assert not IdempotencyKey.objects.exists()


def test_keys_belong_to_an_organization_and_a_route():
    organization = make_organization()

    ask(organization)
    ask(organization, route="tokens")
    ask(organization, key="K")
    ask(make_organization())

    assert Job.objects.count() == 4


def test_a_secret_is_not_kept():
    organization = make_organization()

    def hide(answer):
        return {**answer, "secret": None}

    first = ask(organization, hide=hide)
    again = ask(organization, hide=hide)

    assert first[1]["secret"] == "s"
    assert again == (201, {**first[1], "secret": None})


def test_a_key_is_forgotten_after_a_day():
    organization = make_organization()
    first = ask(organization)

    assert ask(organization, now=START + timedelta(hours=24)) == first
    later = ask(organization, body={"b": 2}, now=START + timedelta(hours=24, seconds=1))

    assert later != first
    assert IdempotencyKey.objects.count() == 1


def test_what_failed_is_not_kept():
    organization = make_organization()

    def refuse():
        make_job(organization=organization)
        raise QueueFull(1, plan="Test")

    with pytest.raises(QueueFull):
        ask(organization, make=refuse)

    assert not Job.objects.exists()
    assert ask(organization)[0] == 201


def test_an_answer_that_is_not_there_yet_is_a_conflict():
    organization = make_organization()
    IdempotencyKey.objects.create(
        organization=organization, route="jobs", key="k", body_hash=body_hash({"a": 1})
    )

    with pytest.raises(Conflict, match="still in progress"):
        ask(organization)


@pytest.mark.parametrize("key", ["x" * 255, "a b", "é" * 255, "0", "'; DROP TABLE jobs_job; --"])
def test_any_printable_key_will_do(key):
    organization = make_organization()
    assert ask(organization, key=key) == ask(organization, key=key)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x00", "a\nb", "\t", "\x7f", "\ud800", "\u200b"])
def test_an_odd_key_is_refused(key):
    with pytest.raises(InvalidRequest) as refused:
        ask(make_organization(), key=key)
    assert refused.value.status == 400
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_expired", [False, True])
def test_parallel_twins_get_one_answer(is_expired):
    organization = make_organization()
    if is_expired:
        IdempotencyKey.objects.create(
            organization=organization,
            route="jobs",
            key="k",
            body_hash="old",
            created_at=START - timedelta(hours=25),
        )

    answers = at_once([lambda: ask(organization)] * 8)

    assert [answer for answer in answers if isinstance(answer, Exception)] == []
    assert len({answer["id"] for _, answer in answers}) == 1
    assert Job.objects.count() == IdempotencyKey.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_parallel_twins_with_different_bodies():
    organization = make_organization()

    answers = at_once([lambda n=n: ask(organization, body={"n": n}) for n in range(8)])

    assert sum(isinstance(answer, Conflict) for answer in answers) == 7
    assert sum(isinstance(answer, tuple) for answer in answers) == 1
    assert Job.objects.count() == 1
