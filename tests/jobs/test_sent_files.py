"""Files that clients send: kept byte for byte, each tenant's own, capped, forgotten."""

from __future__ import annotations

import io
import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from casola_site.core import outputs
from jobs import sent_files
from jobs.enums import FilePurpose
from jobs.files import stored_bytes
from jobs.models import StoredFile
from jobs.sent_files import FileDoesNotFit, Sender, forget_expired_sent, keep_file
from tests.factories.accounts import make_organization, make_plan
from tests.factories.tokens import make_token

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]
FILES = "/openai/v1/files"
CONTENT = os.urandom(300_000) + b"\r\n--\x00\xff"
DAY = 86_400


@pytest.fixture(autouse=True)
def _own_storage(settings, tmp_path):
    settings.MEDIA_ROOT = str(tmp_path)


class Caller:
    """One Organization's client."""

    def __init__(self, **columns) -> None:
        self.organization = columns.pop("organization", None) or make_organization()
        _, secret = make_token(organization=self.organization, **columns)
        self.headers = {"authorization": f"Bearer {secret}"}
        self.client = Client(headers=self.headers)

    def send(self, content=CONTENT, name="lines.jsonl", **fields):
        fields = {"purpose": "batch", "file": SimpleUploadedFile(name, content), **fields}
        return self.client.post(FILES, {k: v for k, v in fields.items() if v is not None})

    def get(self, path="", **params):
        return self.client.get(f"{FILES}{path}", params)

    def delete(self, path):
        return self.client.delete(f"{FILES}{path}")

    def ids(self, **params) -> list[str]:
        return [file["id"] for file in self.get(**params).json()["data"]]


@pytest.fixture
def alpha():
    return Caller()


def in_storage() -> list[str]:
    folder = outputs.storage().path(sent_files.FOLDER)
    return [name for _, _, names in os.walk(folder) for name in names]


def test_a_file_comes_back_byte_for_byte(alpha):
    made = alpha.send(name="Übung 一.jsonl")
    assert made.status_code == 200, made.content
    file = made.json()
    created = file["created_at"]
    assert abs(created - timezone.now().timestamp()) < 60
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(CONTENT),
        "created_at": created,
        "expires_at": created + 30 * DAY,
        "filename": "Übung 一.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
    assert file["id"].startswith("file-")
    assert alpha.get(f"/{file['id']}").json() == file
    answer = alpha.get(f"/{file['id']}/content")
    assert answer.getvalue() == CONTENT
    assert answer["Content-Type"] == "application/octet-stream"
    assert answer["Content-Disposition"] == "attachment"
    assert answer["X-Content-Type-Options"] == "nosniff"


def test_a_part_of_the_content(alpha):
    file_id = alpha.send().json()["id"]
    answer = alpha.client.get(f"{FILES}/{file_id}/content", headers={"range": "bytes=10-19"})
    assert (answer.status_code, answer.getvalue()) == (206, CONTENT[10:20])


@pytest.mark.parametrize("purpose", FilePurpose.values)
def test_only_batches_expire_by_themselves(alpha, purpose):
    file = alpha.send(purpose=purpose).json()
    assert file["purpose"] == purpose
    assert (file["expires_at"] is None) == (purpose != "batch")


def test_a_lifetime_is_kept_to(alpha):
    wish = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = alpha.send(purpose="user_data", **wish).json()
    assert file["expires_at"] == file["created_at"] + 3600


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "holiday"}, "purpose"),
        ({"purpose": None}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"file": None}, "file"),
        ({"file": "not a file"}, "file"),
        ({"content": b""}, "file"),
        ({"expires_after[seconds]": "3600"}, "expires_after.anchor"),
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds"),
        (
            {"expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
            "expires_after.anchor",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
            "expires_after.seconds",
        ),
        (
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "2592001"},
            "expires_after.seconds",
        ),
        ({"expires_after": "soon"}, "expires_after"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(alpha, fields, param):
    answer = alpha.send(**fields)
    assert answer.status_code == 400, answer.content
    assert answer.json()["error"]["param"] == param
    assert not StoredFile.objects.exists()
    assert in_storage() == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [("../../etc/passwd", "passwd"), ("a\x07b.txt", "ab.txt"), ("x" * 300, "x" * 255)],
)
def test_names_become_plain_ones(alpha, name, kept):
    assert alpha.send(name=name).json()["filename"] == kept


def test_a_body_that_is_no_form_is_refused(alpha):
    answer = alpha.client.post(FILES, {"purpose": "batch"}, content_type="application/json")
    assert answer.status_code in (400, 415)
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_file_too_large_is_refused(alpha, monkeypatch):
    monkeypatch.setattr(sent_files, "MOST_BYTES", len(CONTENT) - 1)
    assert alpha.send().status_code == 413
    assert in_storage() == []


def test_pages_are_complete_and_end(alpha):
    sent = [alpha.send(content=b"%d" % n).json()["id"] for n in range(5)]
    alpha.send(purpose="evals")
    found, after = [], None
    while True:
        params = {"limit": 2, "purpose": "batch", **({"after": after} if after else {})}
        body = alpha.get(**params).json()
        found += [file["id"] for file in body["data"]]
        assert (body["object"], body["first_id"]) == ("list", body["data"][0]["id"])
        after = body["last_id"]
        if not body["has_more"]:
            break
    assert found == sent[::-1]
    assert alpha.ids(order="asc", purpose="batch") == sent
    assert len(alpha.ids()) == 6
    empty = Caller().get().json()
    assert empty == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "10001"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"order": "up"}, "order"),
        ({"purpose": "holiday"}, "purpose"),
        ({"after": "file-unknown"}, "after"),
    ],
)
def test_odd_pages_are_refused(alpha, params, param):
    answer = alpha.get(**params)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_another_organization_finds_nothing(alpha):
    file_id = alpha.send().json()["id"]
    beta = Caller()
    assert beta.ids() == []
    answers = [
        beta.get(f"/{file_id}"),
        beta.get(f"/{file_id}/content"),
        beta.delete(f"/{file_id}"),
        beta.get(f"/{file_id}x"),
        beta.get("/" + "x" * 200),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert {answer.json()["error"]["message"] for answer in answers} == {"File not found"}
    assert beta.get(after=file_id).status_code == 400
    assert alpha.get(f"/{file_id}").status_code == 200


def test_scopes(alpha):
    file_id = alpha.send().json()["id"]
    reader = Caller(organization=alpha.organization, scopes=["user:read"])
    assert reader.ids() == [file_id]
    assert reader.get(f"/{file_id}/content").status_code == 200
    assert reader.send().status_code == 403
    assert reader.delete(f"/{file_id}").status_code == 403
    assert Client().get(FILES).status_code == 401
    other = Caller(organization=alpha.organization, scopes=["worker:read"])
    assert other.get().status_code == 403


def test_what_is_deleted_is_gone(alpha):
    file_id = alpha.send().json()["id"]
    assert alpha.delete(f"/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}
    assert alpha.ids() == []
    assert alpha.delete(f"/{file_id}").status_code == 404
    assert in_storage() == []
    assert not StoredFile.objects.exists()


def test_expired_files_are_not_found_and_then_swept(alpha):
    file_id = alpha.send().json()["id"]
    kept = alpha.send(purpose="evals").json()["id"]
    now = timezone.now()
    StoredFile.objects.filter(public_id=file_id).update(expires_at=now)
    assert alpha.get(f"/{file_id}").status_code == 404
    assert alpha.ids() == [kept]
    assert forget_expired_sent(now=now) == 1
    assert len(in_storage()) == 1
    assert forget_expired_sent(now=now + timedelta(days=4000)) == 0
    assert alpha.ids() == [kept]


def keep(organization, size, *, cap=None, content=None):
    return keep_file(
        io.BytesIO(b"x" * size) if content is None else content,
        size=size,
        filename="a",
        purpose=FilePurpose.EVALS,
        lifetime=None,
        sender=Sender(organization.pk, None, None, cap, "small"),
        now=timezone.now(),
    )


def test_the_plans_room_holds_all_files_and_no_more():
    organization, other = make_organization(), make_organization()
    keep(organization, 60, cap=100)
    with pytest.raises(FileDoesNotFit) as refused:
        keep(organization, 41, cap=100)
    assert (refused.value.status, refused.value.code) == (429, "queue_full")
    assert refused.value.message == (
        "The file has 41 bytes, but the plan small has room for 40 more; delete files"
    )
    keep(organization, 40, cap=100)
    keep(other, 100, cap=100)
    assert stored_bytes(organization_id=organization.pk, now=timezone.now()) == 100
    assert len(in_storage()) == 3


def test_the_plan_is_asked_over_http():
    plan = make_plan(storage_bytes=len(CONTENT))
    caller = Caller(organization=make_organization(plan=plan))
    first = caller.send().json()["id"]
    answer = caller.send(content=b"x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    caller.delete(f"/{first}")
    assert caller.send(content=b"x").status_code == 200


class Torn(io.BytesIO):
    """A file that cannot be read to its end."""

    def read(self, *_):
        raise OSError("the disk")


def test_a_file_that_cannot_be_written_leaves_nothing():
    organization = make_organization()
    with pytest.raises(OSError, match="the disk"):
        keep(organization, 5, content=Torn())
    assert not StoredFile.objects.exists()
    assert in_storage() == []


def test_what_was_broken_off_is_swept_with_its_content(alpha):
    file_id = alpha.send().json()["id"]
    StoredFile.objects.update(is_whole=False)
    name = StoredFile.objects.get().name
    day = Path(outputs.storage().path(f"{sent_files.FOLDER}/{name}")).parent
    (day / f".{name.rpartition('/')[2]}.0a1b.part").write_bytes(b"half")
    (day / ".another.0a1b.part").write_bytes(b"kept")
    assert alpha.get(f"/{file_id}").status_code == 404
    now = timezone.now()
    assert forget_expired_sent(now=now) == 0
    assert forget_expired_sent(now=now + timedelta(hours=2)) == 1
    assert in_storage() == [".another.0a1b.part"]


def test_what_cannot_be_removed_keeps_nothing_else(alpha, monkeypatch):
    stuck, free = (alpha.send().json()["id"] for _ in range(2))
    now = timezone.now()
    StoredFile.objects.update(expires_at=now)
    name = StoredFile.objects.get(public_id=stuck).name
    remove = outputs.remove

    def refusing(asked, **options):
        if asked == name:
            raise PermissionError(asked)
        remove(asked, **options)

    monkeypatch.setattr(outputs, "remove", refusing)
    assert forget_expired_sent(now=now) == 1
    assert not StoredFile.objects.filter(public_id=free).exists()
    monkeypatch.undo()
    assert forget_expired_sent(now=now) == 1
