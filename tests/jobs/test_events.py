"""Events are numbered without gaps for each Job."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from jobs.models import JobEvent
from jobs.services import add_events
from tests.factories.jobs import make_job

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


def sequence(job):
    return list(job.events.values_list("seq", "type"))


def test_each_job_counts_for_itself():
    first, second, now = make_job(), make_job(), timezone.now()

    add_events([(first.pk, "a", {})], at=now)
    add_events([(first.pk, "b", {}), (second.pk, "c", {"n": 1})], at=now)
    add_events([(second.pk, "d", {})], at=now)

    assert sequence(first) == [(1, "a"), (2, "b")]
    assert sequence(second) == [(1, "c"), (2, "d")]
    assert second.events.get(seq=1).data == {"n": 1}


def test_nothing_to_add_asks_nothing(django_assert_num_queries):
    with django_assert_num_queries(0):
        add_events([], at=timezone.now())


def test_two_events_cannot_have_one_number():
    job = make_job()
    JobEvent.objects.create(job=job, seq=1, type="created")

    with pytest.raises(IntegrityError), transaction.atomic():
        JobEvent.objects.create(job=job, seq=1, type="completed")
