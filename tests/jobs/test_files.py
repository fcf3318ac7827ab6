"""Files of answers: written down with the Job's end, counted, capped by the Plan, forgotten."""

from __future__ import annotations

from datetime import timedelta
from io import BytesIO

import pytest
from django.test import Client
from django.utils import timezone

from casola_site.core import outputs
from casola_site.core.errors import QueueFull
from inference import selectors
from jobs.enums import JobStatus
from jobs.files import FilesFull, KeptFile, forget_expired, stored_bytes, sweep
from jobs.models import Job, StoredFile
from jobs.services import cancel_job, finish_jobs
from jobs.submission import submit_job
from tests.factories.accounts import make_organization, make_plan
from tests.factories.jobs import (
    make_outcome,
    make_runner,
    make_running_job,
    make_submitter,
)
from tests.factories.tokens import make_token

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
NOW = timezone.now()


def kept(size: int, *, hours: float = 24, name: str = "") -> KeptFile:
    name = name or outputs.new_name(organization_id=1, attempt=1, extension="mp3", now=NOW)
    return KeptFile(name, size, NOW, NOW + timedelta(hours=hours))


def finish(organization, *files: KeptFile) -> Job:
    """A Job of the Organization that made these; they go when they say, not with their Job."""
    job = make_running_job(runner=make_runner(), organization=organization)
    assert finish_jobs([make_outcome(job, files=files)]) == {str(job.pk)}
    for file in files:
        StoredFile.objects.filter(name=file.name).update(expires_at=file.expires_at)
    return job


def ask(organization, **columns) -> Job:
    return submit_job(
        submitter=make_submitter(organization, plan="small", **columns),
        model_id="test/voice",
        queue_id="q",
        task="openai/audio-speech",
        payload={},
        makes_files=True,
        now=NOW,
    )


def test_the_files_of_a_job_are_written_down_with_its_end_and_kept_as_long_as_its_data():
    organization = make_organization(plan=make_plan(retention_hours=50))
    made = (kept(100), kept(23))
    job = make_running_job(runner=make_runner(), organization=organization)
    finish_jobs([make_outcome(job, files=made)])
    job.refresh_from_db()
    rows = StoredFile.objects.order_by("-size_bytes")
    assert [(row.name, row.size_bytes, row.created_at, row.expires_at) for row in rows] == [
        (file.name, file.size_bytes, file.created_at, job.expires_at) for file in made
    ]
    assert job.expires_at == job.completed_at + timedelta(hours=50)
    assert {(row.job_id, row.organization_id) for row in rows} == {(job.pk, organization.pk)}


def test_an_end_that_comes_too_late_leaves_no_file():
    job = make_running_job(runner=make_runner())
    outcome = make_outcome(job, files=(kept(5),))
    cancel_job(job=job, prices={}, now=NOW)
    assert finish_jobs([outcome]) == set()
    assert not StoredFile.objects.exists()


def test_an_end_that_cannot_be_written_leaves_no_file():
    job = make_running_job(runner=make_runner())
    finish_jobs([make_outcome(job, units={"completion_tokens": 10**30}, files=(kept(5),))])
    job.refresh_from_db()
    assert job.status == JobStatus.FAILED
    assert not StoredFile.objects.exists()


def test_what_counts_is_the_organizations_own_and_not_expired():
    organization = make_organization()
    finish(organization, kept(100), kept(10))
    finish(organization, kept(1, hours=-1))
    finish(make_organization(), kept(5000))
    assert stored_bytes(organization_id=organization.pk, now=NOW) == 110
    assert stored_bytes(organization_id=organization.pk, now=NOW + timedelta(hours=24)) == 0
    assert stored_bytes(organization_id=make_organization().pk, now=NOW) == 0


def test_at_the_plans_cap_no_more_is_taken_until_the_oldest_has_gone():
    organization, other = make_organization(), make_organization()
    finish(organization, kept(60, hours=1), kept(39))
    ask(organization, storage_bytes=100)
    finish(organization, kept(1))
    with pytest.raises(FilesFull) as refused:
        ask(organization, storage_bytes=100)
    error = refused.value
    assert (error.status, error.code) == (429, "queue_full")
    assert error.message == (
        "The files of your organization take all the room that the plan small gives them, "
        "100 bytes; the oldest go in 3600 seconds"
    )
    assert error.headers == {"retry-after": "3600"}
    ask(other, storage_bytes=100)
    ask(organization, storage_bytes=None)
    StoredFile.objects.filter(size_bytes=60).update(expires_at=NOW)
    ask(organization, storage_bytes=100)


def test_a_cap_of_nothing_takes_no_file():
    with pytest.raises(FilesFull) as refused:
        ask(make_organization(), storage_bytes=0)
    assert refused.value.headers == {"retry-after": "60"}


def test_what_makes_no_files_is_taken_all_the_same():
    organization = make_organization()
    finish(organization, kept(100))
    submit_job(
        submitter=make_submitter(organization, storage_bytes=1),
        model_id="test/echo",
        queue_id="q",
        task="openai/chat-completion",
        payload={},
        now=NOW,
    )


def test_the_queues_cap_still_holds():
    organization = make_organization()
    ask(organization, max_queued_jobs=1, storage_bytes=100)
    with pytest.raises(QueueFull):
        ask(organization, max_queued_jobs=1, storage_bytes=100)


@pytest.fixture
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.mark.usefixtures("media")
def test_files_go_when_their_time_is_over(django_capture_on_commit_callbacks):
    over, not_over = kept(1, hours=0), kept(2, hours=0.5)
    finish(make_organization(), over, not_over)
    for file in (over, not_over):
        outputs.write(file.name, BytesIO(b"x"))

    with django_capture_on_commit_callbacks(execute=True):
        assert forget_expired(now=NOW) == 1

    assert [row.name for row in StoredFile.objects.all()] == [not_over.name]
    assert [outputs.exists(file.name) for file in (over, not_over)] == [False, True]


@pytest.mark.usefixtures("media")
def test_hours_long_past_keep_what_belongs_to_a_job_and_nothing_else():
    old = NOW - timedelta(hours=40)
    names = [
        outputs.new_name(organization_id=1, attempt=1, extension="mp3", now=moment)
        for moment in (old, old, old - timedelta(hours=1), NOW)
    ]
    for name in names:
        outputs.write(name, BytesIO(b"x"))
    finish(make_organization(), kept(1, name=names[0]))

    assert sweep(now=NOW) == 1
    assert [outputs.exists(name) for name in names] == [True, False, False, True]

    StoredFile.objects.all().delete()
    assert sweep(now=NOW) == 0  # looked at just now
    assert sweep(now=NOW + timedelta(hours=1)) == 1
    assert not outputs.exists(names[0])


@pytest.fixture
def voice(monkeypatch):
    monkeypatch.setattr(selectors, "_catalog", selectors.Catalog())
    selectors.ModelSpec.objects.create(
        model_id="test/voice", tasks=["openai/audio-speech"], engine="speech", source=""
    )
    yield "test/voice"
    monkeypatch.setattr(selectors, "_catalog", selectors.Catalog())


def test_the_api_refuses_by_the_plan_and_shows_where_it_stands(voice):
    organization = make_organization(plan=make_plan(code="small", storage_bytes=100))
    finish(organization, kept(100))
    _, secret = make_token(organization=organization, scopes=["user:write", "admin:read"])
    headers = {"Authorization": f"Bearer {secret}"}
    wish = {
        "model_id": voice,
        "task": "openai/audio-speech",
        "input": {"model": voice, "input": "Hello.", "voice": "alloy"},
    }
    refused = Client().post("/api/jobs", wish, content_type="application/json", headers=headers)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "queue_full"
    assert 0 < int(refused["retry-after"]) <= 86_400
    assert Job.objects.filter(task="openai/audio-speech").count() == 0

    limits = Client().get(f"/api/organizations/{organization.public_id}/limits", headers=headers)
    shown = {entry["name"]: entry for entry in limits.json()["limits"]["data"]}
    assert (shown["storage_bytes"]["value"], shown["storage_bytes"]["used"]) == (100, 100)
