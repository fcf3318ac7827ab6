"""`"async": true` where no event loop serves it: the Job, its files, one answer per key."""

from __future__ import annotations

import io

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client

from casola_site.core import outputs
from casola_site.core.multipart import Upload
from inference import selectors
from inference.api.later import fingerprint
from jobs.models import Job, StoredFile
from tests.factories.accounts import make_organization, make_plan
from tests.factories.jobs import make_job
from tests.factories.tokens import make_token
from usage.models import UsageRecord

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
CHAT = "/openai/v1/chat/completions"
SOUND = "/openai/v1/audio/transcriptions"
EDIT = "/openai/v1/images/edits"
BODY = {"model": "test/echo", "messages": [{"role": "user", "content": "hi"}], "async": True}


@pytest.fixture(autouse=True)
def served(settings, tmp_path, monkeypatch):
    settings.MEDIA_ROOT = tmp_path / "media"
    call_command("ensure_demo")
    monkeypatch.setattr(selectors, "_catalog", selectors.read_catalog())


@pytest.fixture
def organization():
    return make_organization(plan=make_plan(code="small", name="Small", max_queued_jobs=1))


@pytest.fixture
def post(organization):
    _, secret = make_token(organization=organization)

    def post(path, data, *, form=False, **headers):
        headers = {"Authorization": f"Bearer {secret}", **headers}
        kind = {} if form else {"content_type": "application/json"}
        return Client().post(path, data, headers=headers, **kind)

    return post


def sound(content: bytes = b"some sound"):
    form = {"model": "whisper-large-v3", "async": "true", "priority": "2"}
    return {**form, "file": SimpleUploadedFile("a.wav", content)}


def stored() -> list[str]:
    folder = outputs.storage()
    found = []
    hours = folder.listdir(outputs.FOLDER)[0] if folder.exists(outputs.FOLDER) else []
    for hour in hours:
        for owner in folder.listdir(f"{outputs.FOLDER}/{hour}")[0]:
            names = folder.listdir(f"{outputs.FOLDER}/{hour}/{owner}")[1]
            found += [f"{hour}/{owner}/{name}" for name in names]
    return found


def test_the_answer_says_where_to_look(post, organization):
    answer = post(CHAT, {**BODY, "stream": True, "priority": 3, "metadata": {"run": "7"}})

    job = Job.objects.get()
    assert answer.status_code == 202
    assert answer.json() == {
        "request_id": str(job.pk),
        "status": "pending",
        "status_url": f"http://testserver/api/jobs/{job.pk}",
    }
    assert answer["x-casola-job-id"] == str(job.pk)
    assert (job.organization, job.task, job.lane) == (
        organization,
        "openai/chat-completion",
        "persisted",
    )
    assert (job.priority, job.metadata, job.input["stream"]) == (3, {"run": "7"}, False)
    assert "async" not in job.input
    assert not UsageRecord.objects.exists()


def test_a_file_is_kept_with_the_job(post, organization):
    answer = post(SOUND, {**sound(), "metadata": '{"run": "7"}'}, form=True)

    assert answer.status_code == 202, answer.content
    job, file = Job.objects.get(), StoredFile.objects.get()
    assert (file.job, file.organization, file.size_bytes) == (job, organization, 10)
    assert (job.input["upload"], job.input["kind"]) == (file.name, "wav")
    assert (job.priority, job.metadata) == (2, {"run": "7"})
    with outputs.read(file.name) as content:
        assert content.read() == b"some sound"


def test_pictures_are_kept_and_named_in_the_input_instead(post):
    files = {
        "image": [SimpleUploadedFile("a.png", b"one"), SimpleUploadedFile("b.png", b"two")],
        "mask": SimpleUploadedFile("m.png", b"three"),
    }
    form = {"model": "flux", "prompt": "x", "async": "true"}

    assert post(EDIT, {**form, **files}, form=True).status_code == 202

    given = Job.objects.get().input
    found = []
    for address in [*given["image"], given["mask"]]:
        now = StoredFile.objects.first().created_at
        with outputs.read(outputs.own_name(address, now=now)) as content:
            found.append(content.read())
    assert found == [b"one", b"two", b"three"]
    assert StoredFile.objects.count() == 3


def test_one_key_is_one_job_and_one_file(post):
    key = {"Idempotency-Key": "once"}
    first = post(SOUND, sound(), form=True, **key)
    second = post(SOUND, sound(), form=True, **key)
    other = post(SOUND, sound(b"other sound"), form=True, **key)

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    assert Job.objects.count() == 1
    assert stored() == [StoredFile.objects.get().name]


def test_a_refused_submission_leaves_no_file(post, organization):
    make_job(organization=organization)
    refused = post(SOUND, sound(), form=True)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert stored() == []
    assert not StoredFile.objects.exists()


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"async": "true"}, 400, "async"),
        ({"n": 0}, 400, "n"),
        ({"deadline_s": "5"}, 400, "deadline_s"),
        ({"model": "no/such"}, 404, "model"),
        ({"model": "whisper-large-v3"}, 404, "model"),
    ],
)
def test_what_is_wrong_is_named(post, fields, status, param):
    answer = post(CHAT, {**BODY, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert not Job.objects.exists()


def test_a_file_counts_by_its_content():
    def upload(content, name="a.wav"):
        return {"file": [Upload(io.BytesIO(content), len(content), name, "audio/wav")], "n": 1}

    one, other = upload(b"one"), upload(b"other")
    assert fingerprint(one) == fingerprint(one) == fingerprint(upload(b"one"))
    assert fingerprint(one) != fingerprint(other)
    assert one["file"][0].content.read() == b"one"
