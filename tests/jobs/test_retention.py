"""The data of a Job goes with its Plan's hours or on demand; the Job and its usage stay."""

from __future__ import annotations

from datetime import timedelta
from io import BytesIO

import pytest
from django.test import Client
from django.utils import timezone

from casola_site.core import outputs
from jobs.enums import TERMINAL
from jobs.files import KeptFile, stored_bytes
from jobs.models import Job, StoredFile
from jobs.retention import JobNotFinished, delete_data, delete_expired
from jobs.services import add_events, cancel_job, claim_jobs, finish_jobs
from jobs.submission import Wishes, submit_job
from tests.factories.accounts import make_organization, make_plan
from tests.factories.jobs import (
    MODEL,
    QUEUE,
    TASK,
    ghost_id,
    make_job,
    make_outcome,
    make_runner,
    make_submitter,
)
from tests.factories.tokens import make_token
from usage.models import UsageRecord

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = timezone.now()


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def organization():
    return make_organization(plan=make_plan(retention_hours=48))


def stored(attempt: int = 1) -> KeptFile:
    name = outputs.new_name(organization_id=1, attempt=attempt, extension="png", now=NOW)
    size = outputs.write(name, BytesIO(b"12345"))
    return KeptFile(name, size, NOW, NOW + timedelta(days=30))


def completed(organization) -> Job:
    """A Job with everything that a Job can hold: it has been uploaded to, run and completed."""
    job = submit_job(
        submitter=make_submitter(organization),
        model_id=MODEL,
        queue_id=QUEUE,
        task=TASK,
        payload={"prompt": "private"},
        wishes=Wishes(metadata={"who": "private"}),
        uploads=[stored()],
        now=NOW,
    )
    runner = make_runner()
    (claimed,) = claim_jobs(runner_id=runner.pk, queue_id=QUEUE, free=1, now=NOW)
    add_events([(job.pk, "progress", {"progress": 0.5, "message": "half"})], at=NOW)
    file = stored(2)
    result = {"data": [{"url": outputs.address(file.name, now=NOW)}]}
    finish_jobs([make_outcome(claimed, result=result, files=(file,))])
    job.refresh_from_db()
    return job


def call(method: str, path: str, organization, scope: str = "user:write"):
    _, secret = make_token(organization=organization, scopes=[scope])
    return Client().generic(method, path, headers={"Authorization": f"Bearer {secret}"})


def test_the_end_of_a_job_says_until_when_its_data_is_kept(organization):
    done = completed(organization)
    cancelled = cancel_job(job=make_job(organization=organization), prices={}, now=NOW)

    assert done.expires_at == done.completed_at + timedelta(hours=48)
    assert cancelled.expires_at == NOW + timedelta(hours=48)
    assert make_job().expires_at is None


def test_deleting_takes_the_data_and_leaves_the_job(
    organization, django_capture_on_commit_callbacks
):
    job = completed(organization)
    names = list(StoredFile.objects.values_list("name", flat=True))
    assert stored_bytes(organization_id=organization.pk, now=NOW) == 10
    before = UsageRecord.objects.get(job_id=str(job.pk)).amount

    with django_capture_on_commit_callbacks(execute=True):
        deleted = delete_data(job=job, now=NOW)

    assert (deleted.input, deleted.metadata, deleted.result) == (None, None, None)
    assert deleted.data_deleted_at == NOW
    assert (deleted.status, deleted.units) == ("completed", job.units)
    assert UsageRecord.objects.get(job_id=str(job.pk)).amount == before
    assert list(job.events.values_list("seq", "type")) == [(4, "completed")]
    assert [outputs.exists(name) for name in names] == [False, False]
    assert stored_bytes(organization_id=organization.pk, now=NOW) == 0


def test_deleting_again_changes_nothing(organization):
    job = delete_data(job=completed(organization), now=NOW)
    again = delete_data(job=job, now=NOW + timedelta(hours=1))
    assert again.data_deleted_at == NOW


@pytest.mark.parametrize("status", ["pending", "processing"])
def test_the_data_of_an_open_job_stays(status):
    job = make_job(status=status, input={"a": 1})
    with pytest.raises(JobNotFinished) as refused:
        delete_data(job=job, now=NOW)
    assert refused.value.message == f"The job is still {status}; cancel it first"
    job.refresh_from_db()
    assert (job.input, job.data_deleted_at) == ({"a": 1}, None)


def test_the_sweep_takes_what_is_over_and_nothing_else():
    over = [
        make_job(status=status, input={"a": 1}, expires_at=NOW - timedelta(seconds=n))
        for n, status in enumerate(TERMINAL)
    ]
    not_over = make_job(status="completed", input={"a": 1}, expires_at=NOW + timedelta(seconds=1))
    interactive = make_job(status="completed", lane="interactive", input={"a": 1})

    assert delete_expired(now=NOW) == 3
    assert delete_expired(now=NOW) == 0

    assert [Job.objects.get(pk=job.pk).input for job in over] == [None] * 3
    for job in (not_over, interactive):
        job.refresh_from_db()
        assert (job.input, job.data_deleted_at) == ({"a": 1}, None)


def test_the_api_deletes_and_says_so(organization):
    job = completed(organization)
    path = f"/api/jobs/{job.pk}"
    before = call("GET", path, organization, "user:read").json()
    (picture,) = before["result"]["data"]
    assert Client().get(picture["url"].removeprefix("http://testserver")).status_code == 200
    assert (before["expires_at"], before["data_deleted_at"]) == (
        int(job.expires_at.timestamp()),
        None,
    )

    answer = call("DELETE", f"{path}/data", organization)

    assert answer.status_code == 200
    after = answer.json()
    gone = {"result": None, "metadata": {}, "data_deleted_at": after["data_deleted_at"]}
    assert after == {**before, **gone}
    assert isinstance(after["data_deleted_at"], int)
    assert call("GET", path, organization, "user:read").json() == after
    assert call("DELETE", f"{path}/data", organization).json() == after


def test_whom_the_api_refuses(organization):
    job, open_job = completed(organization), make_job(organization=organization)

    def refused(job_id, of=organization, scope="user:write"):
        answer = call("DELETE", f"/api/jobs/{job_id}/data", of, scope)
        return answer.status_code, answer.json()["error"]["code"]

    assert refused(open_job.pk) == (409, "conflict")
    assert refused(job.pk, scope="user:read") == (403, "insufficient_scope")
    assert refused(job.pk, of=make_organization()) == (404, "not_found")
    assert refused(ghost_id()) == (404, "not_found")
    job.refresh_from_db()
    assert job.data_deleted_at is None


def test_addresses_of_a_result_open_for_another_day_but_not_past_its_expiry(organization):
    job = completed(organization)
    until = job.completed_at + timedelta(hours=30)
    Job.objects.filter(pk=job.pk).update(expires_at=until)

    def ends() -> int:
        shown = call("GET", f"/api/jobs/{job.pk}", organization, "user:read").json()
        return int(shown["result"]["data"][0]["url"].partition("exp=")[2].partition("&")[0])

    day_ahead = timezone.now() + timedelta(hours=24)
    assert abs(ends() - day_ahead.timestamp()) < 60
    Job.objects.filter(pk=job.pk).update(expires_at=NOW + timedelta(hours=3))
    assert ends() == int((NOW + timedelta(hours=3)).timestamp())
