"""The database itself refuses to change how a Job ended."""

from __future__ import annotations

import json

import pytest
from django.db import IntegrityError, connection, transaction

from jobs.enums import TERMINAL, JobStatus
from jobs.models import Job
from tests.factories.jobs import make_job

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]


def update(job, column, value) -> None:
    key = job.pk if connection.vendor == "postgresql" else job.pk.hex
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE jobs_job SET {column} = %s WHERE id = %s", [value, key])
        assert cursor.rowcount == 1


@pytest.mark.parametrize("old", TERMINAL)
@pytest.mark.parametrize("new", JobStatus.values)
def test_the_status_of_a_terminal_job_stays(old, new):
    job = make_job(status=old)
    if old == new:
        update(job, "status", new)
        return

    with pytest.raises(IntegrityError, match="a terminal job cannot change"), transaction.atomic():
        update(job, "status", new)

    assert Job.objects.get().status == old


@pytest.mark.parametrize("status", TERMINAL)
def test_the_units_of_a_terminal_job_stay(status):
    job = make_job(status=status, units={"images": 1})

    with pytest.raises(IntegrityError, match="a terminal job cannot change"), transaction.atomic():
        update(job, "units", json.dumps({"images": 2}))

    assert Job.objects.get().units == {"images": 1}


@pytest.mark.parametrize("status", TERMINAL)
def test_retention_may_clear_payloads(status):
    job = make_job(status=status, units={"images": 1}, result={"data": []}, error={"code": "x"})

    for column in ("input", "result", "error"):
        update(job, column, None)

    job.refresh_from_db()
    assert (job.input, job.result, job.error) == (None, None, None)


def test_a_job_that_goes_on_may_change():
    job = make_job(status="processing")

    update(job, "units", json.dumps({"images": 1}))
    update(job, "status", "completed")

    assert Job.objects.get().status == "completed"


def test_an_unknown_status_is_refused():
    job = make_job()
    with pytest.raises(IntegrityError), transaction.atomic():
        update(job, "status", "done")
