"""GET /api/jobs: filters, pages that lose nothing, and a plan that never sorts or scans the table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test import Client

from jobs.models import Job
from jobs.selectors import JobFilter, list_jobs
from tests.factories.accounts import make_organization
from tests.factories.jobs import MODEL, QUEUE, TASK, ghost_id, make_job
from tests.factories.tokens import make_token

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
START = datetime(2026, 3, 1, tzinfo=UTC)
PATH = "/api/jobs"


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def organization():
    return make_organization()


@pytest.fixture
def ask(organization):
    _, secret = make_token(organization=organization, scopes=["user:read"])

    def ask(**params):
        return Client().get(PATH, params, headers={"Authorization": f"Bearer {secret}"})

    return ask


def shown(answer) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [job["id"] for job in answer.json()["jobs"]]


def walk(ask, **params) -> list[str]:
    seen: list[str] = []
    while True:
        answer = ask(**params)
        seen += shown(answer)
        params["after"] = answer.json()["next_after"]
        assert answer.json()["has_more"] == (params["after"] is not None)
        if params["after"] is None:
            return seen


def test_each_filter_and_all_together(organization, ask):
    wanted = {"status": "failed", "model_id": "a/b", "task": "openai/score", "created_at": at(5)}
    job = make_job(organization=organization, **wanted)
    others = [
        make_job(organization=organization, **{**wanted, **changed})
        for changed in (
            {"status": "completed"},
            {"model_id": "a/c"},
            {"task": "openai/rerank"},
            {"created_at": at(4)},
            {"created_at": at(6)},
        )
    ]
    make_job(**wanted)
    second = int(at(5).timestamp())
    everything = {
        "status": "failed",
        "model_id": "a/b",
        "task": "openai/score",
        "created_after": second,
        "created_before": second + 1,
    }

    assert shown(ask(**everything)) == [str(job.pk)]
    for name, left_out in zip(everything, others, strict=True):
        assert str(left_out.pk) not in shown(ask(**{name: everything[name]}))
    assert len(shown(ask())) == 6


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_hold_every_job_once_although_statuses_change(organization, ask, order):
    jobs = [make_job(organization=organization, created_at=at(n // 3)) for n in range(8)]
    ordered = sorted(jobs, key=lambda job: (job.created_at, job.pk), reverse=order == "desc")
    expected = [str(job.pk) for job in ordered]

    assert walk(ask, limit=3, order=order) == expected
    assert walk(ask, limit=1, order=order, status="pending") == expected

    first = ask(limit=2, order=order, status="pending")
    Job.objects.filter(pk=first.json()["next_after"]).update(status="completed")
    rest = ask(limit=100, order=order, status="pending", after=first.json()["next_after"])
    assert shown(first) + shown(rest) == expected


def test_what_a_job_in_the_list_shows(organization, ask):
    made = make_job(
        organization=organization,
        status="completed",
        metadata={"run": "7"},
        units={"images": 1},
        result={"data": "large"},
        created_at=at(0),
        completed_at=at(1),
        expires_at=at(2),
    )

    (job,) = ask().json()["jobs"]

    begun = int(START.timestamp())
    assert job == {
        "id": str(made.pk),
        "queue_id": made.queue_id,
        "model_id": made.model_id,
        "task": made.task,
        "status": "completed",
        "progress": 0.0,
        "error": None,
        "usage": {"images": 1},
        "attempts": 0,
        "priority": 0,
        "metadata": {"run": "7"},
        "created_at": begun,
        "started_at": None,
        "completed_at": begun + 1,
        "deadline_at": None,
        "expires_at": begun + 2,
        "data_deleted_at": None,
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "done"),
        ("status", ""),
        ("model_id", ""),
        ("model_id", "x" * 201),
        ("task", "x" * 61),
        ("created_after", "yesterday"),
        ("created_after", "-1"),
        ("created_before", "9" * 12),
        ("created_before", "1.5"),
        ("limit", "0"),
        ("order", "newest"),
        ("after", "nothing"),
        pytest.param("after", ghost_id(), id="after-ghost"),
    ],
)
def test_an_odd_parameter_is_named(ask, name, value):
    answer = ask(**{name: value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", name)


def test_a_strangers_job_is_no_anchor(ask):
    assert ask(after=str(make_job().pk)).status_code == 400


def test_a_longer_list_costs_no_more_queries(organization, ask, django_assert_max_num_queries):
    make_job(organization=organization)
    ask()
    with django_assert_max_num_queries(4) as short:
        ask()
    for _ in range(3):
        make_job(organization=organization)
    with django_assert_max_num_queries(4) as long:
        ask()
    assert len(short) == len(long)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (JobFilter(), "job_newest"),
        (JobFilter(status="failed"), "job_by_status"),
        (JobFilter(model_id="a/b"), "job_by_model"),
        (JobFilter(task="openai/score"), "job_by_task"),
        (JobFilter(created_after=START, created_before=START), "job_newest"),
    ],
)
def test_a_page_is_read_from_an_index_in_its_order(organization, wanted, index):
    Job.objects.bulk_create(
        Job(
            organization=organization,
            model_id="a/b" if number % 500 == 0 else MODEL,
            queue_id=QUEUE,
            task="openai/score" if number % 500 == 1 else TASK,
            status="failed" if number % 500 == 2 else "completed",
            created_at=at(number),
        )
        for number in range(2_000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE jobs_job")

    rows = list_jobs(organization_id=organization.pk, wanted=wanted)
    plan = rows.filter(created_at__lte=at(1_500)).order_by("-created_at", "-pk")[:21].explain()

    assert index in plan, plan
    assert "Sort" not in plan, plan
    assert "TEMP B-TREE" not in plan, plan
