"""GET /api/jobs/{id}/events where no event loop serves it: what there is, from where the reader stood."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from django.test import Client

from jobs.models import JobEvent
from jobs.selectors import Told, events_after, last_seq
from jobs.services import add_events, cancel_job
from tests.factories.accounts import make_organization
from tests.factories.jobs import ghost_id, make_job
from tests.factories.tokens import make_token

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = datetime(2026, 3, 1, tzinfo=UTC)
PROGRESS = {"progress": 0.5, "message": "half"}


@pytest.fixture
def organization():
    return make_organization()


@pytest.fixture
def get(organization):
    _, secret = make_token(organization=organization, scopes=["user:read"])

    def get(job_id, method="GET", query="", **headers):
        path = f"/api/jobs/{job_id}/events{query}"
        headers = {"Authorization": f"Bearer {secret}", **headers}
        return Client().generic(method, path, headers=headers)

    return get


@pytest.fixture
def job(organization):
    job = make_job(organization=organization, units={"images": 1})
    add_events([(job.pk, "created", {})], at=NOW)
    add_events([(job.pk, "claimed", {"attempt": 1})], at=NOW)
    add_events([(job.pk, "progress", PROGRESS)], at=NOW)
    return cancel_job(job=job, prices={}, now=NOW)


def test_every_event_in_order_and_then_the_end(get, job):
    answer = get(job.pk)

    assert (answer.status_code, answer["content-type"]) == (200, "text/event-stream")
    opening, *blocks, end = answer.content.decode().split("\n\n")
    assert (opening, end) == ("retry: 1000", "")
    events = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    assert [(event["id"], event["event"]) for event in events] == [
        ("1", "created"),
        ("2", "claimed"),
        ("3", "progress"),
        ("4", "cancelled"),
    ]
    common = {"id": str(job.pk), "at": int(NOW.timestamp())}
    assert [json.loads(event["data"]) for event in events] == [
        {**common, "seq": 1, "type": "created", "status": "pending", "data": {}},
        {**common, "seq": 2, "type": "claimed", "status": "processing", "data": {"attempt": 1}},
        {**common, "seq": 3, "type": "progress", "status": "processing", "data": PROGRESS},
        {
            **common,
            "seq": 4,
            "type": "cancelled",
            "status": "cancelled",
            "data": {},
            "result": None,
            "error": None,
            "usage": {"images": 1},
        },
    ]


def test_a_reader_goes_on_where_it_stood(get, job):
    def ids(answer):
        lines = answer.content.decode().split("\n")
        return [int(line[4:]) for line in lines if line.startswith("id: ")]

    assert ids(get(job.pk, **{"Last-Event-ID": "2"})) == [3, 4]
    assert ids(get(job.pk, query="?after=3")) == [4]
    assert ids(get(job.pk, query="?after=1", **{"Last-Event-ID": "3"})) == [4]
    assert ids(get(job.pk, query="?after=4")) == []
    assert ids(get(job.pk, query="?after=")) == [1, 2, 3, 4]


def test_a_job_that_goes_on_is_told_so_far(get, organization):
    job = make_job(organization=organization)
    JobEvent.objects.create(job=job, seq=1, type="created", at=NOW)
    assert get(job.pk).content.count(b"data: ") == 1
    head = get(job.pk, "HEAD")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("value", ["x", "-1", "5", "1e1", "9" * 30])
def test_an_id_of_no_event_is_refused(get, job, value):
    for query, headers, param in (
        ("", {"Last-Event-ID": value}, "Last-Event-ID"),
        (f"?after={value}", {}, "after"),
    ):
        answer = get(job.pk, query=query, **headers)
        assert answer.status_code == 400
        assert answer.json()["error"] == {
            "code": "invalid_value",
            "message": f"{param} must be the id of an event of this job",
            "type": "invalid_request_error",
            "param": param,
        }


def test_strangers_ghosts_and_odd_ids_are_the_same(get):
    for job_id in (make_job().pk, ghost_id(), "odd"):
        answer = get(job_id)
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "Job not found")


def test_a_token_without_the_scope_sees_nothing(organization, job):
    _, secret = make_token(organization=organization, scopes=["worker:read"])
    answer = Client().get(
        f"/api/jobs/{job.pk}/events", headers={"Authorization": f"Bearer {secret}"}
    )
    assert answer.status_code == 403


def test_an_interactive_requests_end_is_its_first_event(organization):
    ended = make_job(
        organization=organization, lane="interactive", status="completed", completed_at=NOW
    )
    assert last_seq(ended) == 1
    assert events_after([(ended.pk, 0)]) == {ended.pk: [Told(1, "completed", NOW, {}, ended)]}
    assert events_after([(ended.pk, 1)]) == {}


def test_many_jobs_are_read_at_once(django_assert_num_queries, job):
    others = [make_job() for _ in range(5)]
    add_events([(other.pk, "created", {}) for other in others], at=NOW)
    positions = [(job.pk, 3), *((other.pk, 0) for other in others)]

    with django_assert_num_queries(3):
        found = events_after(positions)

    assert {pk: [told.seq for told in events] for pk, events in found.items()} == {
        job.pk: [4],
        **{other.pk: [1] for other in others},
    }
