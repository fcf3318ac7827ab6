"""The limits answer: what each limit is, and how much of it is used."""

from __future__ import annotations

import asyncio
import time

import pytest
from django.test import Client

from casola_site.core import redis
from tests.factories.accounts import make_organization, make_plan
from tests.factories.jobs import make_job, make_runner, make_running_job
from tests.factories.tokens import make_identity, make_token
from usage import slots as module
from usage.limits import RateClass
from usage.slots import Slots
from usage.throttling import admit

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
CAPS = {
    "api_requests_per_minute": 60,
    "job_submissions_per_minute": 10,
    "max_running_jobs": 2,
    "max_queued_jobs": 100,
    "max_streams": 1,
    "max_sockets": 3,
    "storage_bytes": 10**9,
}


def limits(organization) -> dict[str, dict]:
    """The answer's entries by name."""
    _, secret = make_token(organization=organization, scopes=["admin:read"])
    answer = Client().get(
        f"/api/organizations/{organization.public_id}/limits",
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert answer.status_code == 200, answer.content
    found = answer.json()["limits"]
    assert (found["organization_id"], found["plan"]) == (
        organization.public_id,
        organization.plan.code,
    )
    assert {entry.pop("scope") for entry in found["data"]} == {"organization"}
    return {entry.pop("name"): entry for entry in found["data"]}


def used(found) -> dict[str, int | None]:
    return {name: entry["used"] for name, entry in found.items()}


def test_every_limit_with_its_value_and_use():
    organization = make_organization(plan=make_plan(**CAPS))
    for _ in range(3):
        make_job(organization=organization)
    make_running_job(runner=make_runner(), organization=organization)
    make_job(organization=organization, status="completed")
    make_job()
    identity = make_identity(organization_id=organization.public_id, job_submissions_per_minute=10)
    for _ in range(4):
        admit(identity, RateClass.JOB_SUBMISSION)

    before = time.time()
    found = limits(organization)

    def at_this_moment(value, used):
        return {"value": value, "used": used, "period": None, "resets_at": None}

    resets = [found[name].pop("resets_at") for name in ("api_request", "job_submission")]
    assert found == {
        "api_request": {"value": 60, "used": 1, "period": "minute"},  # this very request
        "job_submission": {"value": 10, "used": 4, "period": "minute"},
        "running_requests": at_this_moment(2, 0),
        "streams": at_this_moment(1, 0),
        "waiting_requests": at_this_moment(100, 0),
        "sockets": at_this_moment(3, 0),
        "running_jobs": at_this_moment(2, 1),
        "queued_jobs": at_this_moment(100, 3),
        "storage_bytes": at_this_moment(10**9, 0),
    }
    assert all(before + 55 < moment < time.time() + 62 for moment in resets)


def test_requests_in_flight_and_in_line_are_counted_while_their_lease_runs(monkeypatch):
    monkeypatch.setattr(module, "LEASE_SECONDS", 1.5)
    redis.client().set("casola:slots:began", 0)
    organization = make_organization(plan=make_plan(**CAPS))
    identity = make_identity(
        organization_id=organization.public_id, max_running_jobs=2, max_streams=1
    )

    async def scenario():
        process = Slots()
        tasks = [
            asyncio.create_task(
                process.take(identity, job_id=f"j{number}", stream=stream, wait_seconds=9)
            )
            for number, stream in enumerate([True, False, False, True, False])
        ]
        await asyncio.wait(tasks, timeout=0.5)
        for desk in process.desks.values():
            desk.all.clear()  # as if the process had been killed
        for task in tasks:
            task.cancel()
        await process.close()
        await redis.async_client().aclose()

    asyncio.run(scenario())

    found = used(limits(organization))
    assert [found[n] for n in ("running_requests", "streams", "waiting_requests")] == [2, 1, 3]
    time.sleep(1.6)
    found = used(limits(organization))
    assert [found[n] for n in ("running_requests", "streams", "waiting_requests")] == [0, 0, 0]


def test_without_limits_only_jobs_are_counted():
    organization = make_organization()
    make_job(organization=organization)

    found = limits(organization)

    assert {entry["value"] for entry in found.values()} == {None}
    assert {name for name, number in used(found).items() if number is not None} == {
        "running_jobs",
        "queued_jobs",
        "storage_bytes",
    }
    assert (found["running_jobs"]["used"], found["queued_jobs"]["used"]) == (0, 1)


def test_without_redis_the_limits_are_shown_all_the_same(own_redis):
    organization = make_organization(plan=make_plan(**CAPS))
    own_redis.stop()

    found = limits(organization)

    assert {name: entry["value"] for name, entry in found.items()} == {
        "api_request": 60,
        "job_submission": 10,
        "running_requests": 2,
        "streams": 1,
        "waiting_requests": 100,
        "sockets": 3,
        "running_jobs": 2,
        "queued_jobs": 100,
        "storage_bytes": 10**9,
    }
    assert {name for name, number in used(found).items() if number is None} == {
        "api_request",
        "job_submission",
        "running_requests",
        "streams",
        "waiting_requests",
        "sockets",
    }
