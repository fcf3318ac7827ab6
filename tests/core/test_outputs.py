"""Files of answers: names, addresses, writing whole or not at all, sweeping."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from datetime import UTC, datetime, timedelta
from io import BytesIO
from types import SimpleNamespace

import pytest
from django.test import AsyncRequestFactory, RequestFactory

from casola_site.core import outputs
from casola_site.core.errors import NotFound, PermissionDenied, RangeNotSatisfiable
from casola_site.core.file_response import byte_range, file_response

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"
    return settings.MEDIA_ROOT


def name_at(moment=NOW, organization_id=1, attempt=1):
    return outputs.new_name(
        organization_id=organization_id, attempt=attempt, extension="mp3", now=moment
    )


def parts_of(address):
    found = re.fullmatch(r"/outputs/([^?]+)\?exp=(\d+)&sig=([0-9a-f]{40})", address)
    assert found
    return found.groups()


def check(name, expires, signature, moment=NOW):
    return outputs.check(name, expires=expires, signature=signature, now=moment)


def test_names_hold_hour_owner_chance_and_attempt():
    name = name_at(attempt=2)
    assert re.fullmatch(r"2026030112/[0-9a-f]{16}/[0-9a-f]{24}-2\.mp3", name)
    assert name != name_at(attempt=2)
    assert name.split("/")[1] == name_at().split("/")[1]
    assert name.split("/")[1] != name_at(organization_id=2).split("/")[1]


def test_an_address_opens_its_file_for_a_day():
    name = name_at()
    found, expires, signature = parts_of(outputs.address(name, now=NOW))
    assert found == name
    assert check(name, expires, signature) == int(NOW.timestamp()) + 86_400
    assert check(name, expires, signature, NOW + timedelta(hours=24))
    with pytest.raises(PermissionDenied, match="expired"):
        check(name, expires, signature, NOW + timedelta(hours=24, seconds=1))


def test_a_changed_address_opens_nothing():
    name = name_at()
    _, expires, signature = parts_of(outputs.address(name, now=NOW))
    for changed in [
        (name_at(), expires, signature),
        (name, str(int(expires) + 1), signature),
        (name, expires, signature[:-1] + "x"),
        (name, expires, ""),
        (name, "", signature),
        (name, "9" * 30, signature),
        (name, "\u0663", signature),
        (name, "-1", signature),
    ]:
        with pytest.raises(PermissionDenied):
            check(*changed)


@pytest.mark.parametrize("name", ["", "x", "../x.mp3", "a/../b.mp3", "/a/b.mp3", "a//b.mp3", "a/b",
                                  "a/b.mp3/", "a\\b/c.mp3", "a/.b.mp3.part", "a/b.m\u0440"])  # fmt: skip
def test_what_can_be_no_name_is_not_found(name):
    _, expires, signature = parts_of(outputs.address("a/b.mp3", now=NOW))
    with pytest.raises(NotFound):
        check(name, expires, signature)


def test_another_secret_key_opens_nothing(settings):
    _, expires, signature = parts_of(outputs.address("a/b.mp3", now=NOW))
    settings.SECRET_KEY = "another key that is as long as it must be"
    with pytest.raises(PermissionDenied):
        check("a/b.mp3", expires, signature)


def test_a_file_is_written_whole(media):
    name = name_at()
    outputs.write(name, BytesIO(b"x" * 300_000))
    assert outputs.exists(name)
    assert (media / "outputs" / name).read_bytes() == b"x" * 300_000
    assert [path.name for path in media.rglob("*") if path.is_file()] == [name.split("/")[-1]]


def test_a_broken_write_leaves_nothing(media):
    class Failing(BytesIO):
        def read(self, size=-1):
            if self.tell():
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().read(10)

    with pytest.raises(OSError, match="No space"):
        outputs.write(name_at(), Failing(b"x" * 100))
    assert [path for path in media.rglob("*") if path.is_file()] == []


def test_a_nearly_full_disk_takes_no_more(monkeypatch):
    outputs.require_room()
    usage = SimpleNamespace(total=1000, free=49)
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(outputs.StorageFull) as caught:
        outputs.require_room()
    assert (caught.value.status, caught.value.code) == (503, "storage_unavailable")


def test_old_hours_are_swept_and_previews_stay(media):
    ages = {hours: name_at(NOW - timedelta(hours=hours)) for hours in (0, 24, 25, 26, 50)}
    for name in ages.values():
        outputs.write(name, BytesIO(b"x"))
    outputs.write("previews/spec_1-ab/alloy.mp3", BytesIO(b"x"))
    orphan = media / "outputs" / ages[50]
    orphan.with_name(".x.part").write_bytes(b"half")
    assert outputs.sweep(now=NOW) == 2
    assert [hours for hours, name in ages.items() if outputs.exists(name)] == [0, 24, 25]
    assert outputs.exists("previews/spec_1-ab/alloy.mp3")
    assert outputs.sweep(now=NOW) == 0


def test_sweeping_nothing():
    assert outputs.sweep(now=NOW) == 0


def test_addresses_in_results_become_absolute():
    result = {
        "audio": {"url": "/outputs/a.mp3?exp=1", "content_type": "audio/mpeg"},
        "images": [{"url": "/outputs/b.png"}, {"url": "https://elsewhere/c.png"}],
        "text": "/outputs/",
        "n": 1,
    }
    assert outputs.absolute(result, "https://x") == {
        "audio": {"url": "https://x/outputs/a.mp3?exp=1", "content_type": "audio/mpeg"},
        "images": [{"url": "https://x/outputs/b.png"}, {"url": "https://elsewhere/c.png"}],
        "text": "/outputs/",
        "n": 1,
    }
    assert outputs.absolute(None, "https://x") is None


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=5-99999999999", (5, 10)),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=" + "9" * 40 + "-", None),
        ("", None),
    ],
)
def test_ranges(header, found):
    assert byte_range(header, 10) == found


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-11", "bytes=-0"])
def test_ranges_beyond_the_end(header):
    with pytest.raises(ValueError, match="bytes"):
        byte_range(header, 10)


def answer(request, content=b"0123456789" * 20_000):
    file = BytesIO(content)
    response = file_response(
        request, file, size=len(content), content_type="audio/mpeg", etag='"e"'
    )
    return response, file


@pytest.mark.django_db  # the end of an answer looks at connections
def test_a_file_is_sent_in_pieces():
    response, file = answer(RequestFactory().get("/outputs/x"))
    pieces = list(response.streaming_content)
    assert b"".join(pieces) == b"0123456789" * 20_000
    assert max(map(len, pieces)) <= 64 * 1024
    response.close()
    assert file.closed


@pytest.mark.django_db
def test_a_range_is_sent_on_an_event_loop():
    request = AsyncRequestFactory().get("/outputs/x", headers={"range": "bytes=100000-"})
    response, file = answer(request)

    async def collect():
        return b"".join([piece async for piece in response.streaming_content])

    assert response.status_code == 206
    assert asyncio.run(collect()) == b"0123456789" * 10_000
    assert response["Content-Length"] == "100000"
    response.close()
    assert file.closed


def test_a_range_beyond_the_end_closes_the_file():
    file = BytesIO(b"x")
    request = RequestFactory().get("/", headers={"range": "bytes=7-"})
    with pytest.raises(RangeNotSatisfiable) as caught:
        file_response(request, file, size=1, content_type="audio/mpeg", etag='"e"')
    assert caught.value.headers["Content-Range"] == "bytes */1"
    assert file.closed


def test_files_are_on_disk_before_their_names(monkeypatch):
    """Written, flushed to the device, then renamed."""
    calls = []
    monkeypatch.setattr(outputs.os, "fsync", lambda handle: calls.append("fsync"))
    replaced = outputs.Path.replace

    def replace(self, target):
        calls.append("replace")
        return replaced(self, target)

    monkeypatch.setattr(outputs.Path, "replace", replace)
    outputs.write(name_at(), BytesIO(b"x"))
    assert calls == ["fsync", "replace", "fsync"]
    assert os.path.isdir(outputs.storage().location)
