"""Files over HTTP: the official client, large ones in little memory, two organizations."""

from __future__ import annotations

import hashlib
import threading
import time

import openai
import pytest

from tests.live_api.envelope import assert_envelope, bearer

pytestmark = pytest.mark.sqlite
FILES = "/openai/v1/files"
MB = 1 << 20
LINES = '{"custom_id": "ü"}\n'.encode() * 100


def test_the_official_client_keeps_a_file(sdk):
    file = sdk.files.create(
        file=("Übung 1.jsonl", LINES),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    assert (file.filename, file.purpose, file.bytes) == ("Übung 1.jsonl", "batch", len(LINES))
    assert file.expires_at == file.created_at + 7200
    assert sdk.files.wait_for_processing(file.id).status == "processed"
    assert sdk.files.retrieve(file.id) == file
    assert sdk.files.content(file.id).content == LINES
    assert sdk.files.delete(file.id).deleted is True
    with pytest.raises(openai.NotFoundError) as gone:
        sdk.files.retrieve(file.id)
    assert gone.value.code == "not_found"


def test_the_official_client_walks_all_pages(sdk):
    sent = [sdk.files.create(file=b"%d" % n, purpose="evals").id for n in range(5)]
    found = [file.id for file in sdk.files.list(purpose="evals", limit=2)]
    assert found[:5] == sent[::-1]
    for file_id in sent:
        sdk.files.delete(file_id)


def test_the_official_client_is_told_what_is_wrong(sdk):
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.files.create(file=b"x", purpose="holiday")
    assert (refused.value.code, refused.value.param) == ("invalid_value", "purpose")


def test_another_organization_sees_nothing(site, sdk, bare):
    file_id = sdk.files.create(file=LINES, purpose="user_data").id
    beta = bearer(site.beta["user_write"])
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answer = bare.request(method, f"{FILES}/{file_id}{path}", headers=beta)
        assert_envelope(answer, 404, code="not_found")
    assert file_id not in bare.get(FILES, headers=beta).text
    reader = bearer(site.alpha["user_read"])
    assert bare.get(f"{FILES}/{file_id}/content", headers=reader).content == LINES
    assert bare.delete(f"{FILES}/{file_id}", headers=reader).status_code == 403
    assert bare.get(f"{FILES}/{file_id}").status_code == 401
    sdk.files.delete(file_id)


def test_200_mb_come_and_go_in_little_memory(site, http):
    """The file has 200 MB exactly; the web process holds pieces of it only."""
    size = 200 * MB
    piece = hashlib.sha256(b"casola").digest() * (MB // 32)
    web = site.web_process()
    before = web.memory_info().rss
    most, ended = [before], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            most.append(web.memory_info().rss)
            time.sleep(0.05)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        made = http.post(FILES, **form(piece, size), timeout=300)
        assert made.status_code == 200, made.text
        assert made.json()["bytes"] == size
        file_id, count, digest = made.json()["id"], 0, hashlib.sha256()
        with http.stream("GET", f"{FILES}/{file_id}/content", timeout=300) as answer:
            for part in answer.iter_bytes():
                digest.update(part)
                count += len(part)
    finally:
        ended.set()
        watching.join()
    assert (count, digest.digest()) == (size, hashlib.sha256(piece * 200).digest())
    assert max(most) - before < 60 * MB
    assert http.delete(f"{FILES}/{file_id}").json()["deleted"] is True


def form(piece: bytes, size: int) -> dict:
    """A body that is made while it is sent."""
    head = (
        b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'
    )
    tail = b"\r\n--edge--\r\n"

    def pieces():
        yield head
        for _ in range(size // len(piece)):
            yield piece
        yield tail

    headers = {
        "Content-Type": "multipart/form-data; boundary=edge",
        "Content-Length": str(len(head) + size + len(tail)),
    }
    return {"content": pieces(), "headers": headers}


def test_more_than_200_mb_are_refused_before_they_come(http):
    for more in (MB // 2, 2 * MB):
        answer = http.post(FILES, **form(b"x" * (MB // 2), 200 * MB + more), timeout=300)
        assert_envelope(answer, 413, code="payload_too_large")
