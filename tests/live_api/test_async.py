"""`"async": true` on every route for inference: 202, a job, the same result."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.live_api.envelope import (
    CHAT,
    EDITS,
    EMBEDDINGS,
    IMAGES,
    RERANK,
    SCORE,
    SPEECH,
    TEXT,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    assert_envelope,
    bearer,
    chat_body,
    embeddings_body,
    image_body,
    rerank_body,
    score_body,
    speech_body,
    text_body,
)

ROUTES = [
    (CHAT, chat_body("!tokens 3")),
    (TEXT, text_body("hi")),
    (EMBEDDINGS, embeddings_body("hi")),
    (RERANK, rerank_body("x", "y")),
    (RERANK.replace("v1", "v2"), rerank_body("x", "y")),
    (SCORE, score_body()),
]
OWN = {"id", "created", "request_id"}  # what two answers to one request differ in


def picture(color: str) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(held, "PNG")
    return held.getvalue()


def accepted(answer: httpx.Response) -> str:
    """The job's id, after the answer's form was checked."""
    assert answer.status_code == 202, answer.text
    body = answer.json()
    job_id = body["request_id"]
    host = f"{answer.request.url.scheme}://{answer.request.url.netloc.decode()}"
    assert body == {
        "request_id": job_id,
        "status": "pending",
        "status_url": f"{host}/api/jobs/{job_id}",
    }
    assert answer.headers["x-casola-job-id"] == job_id
    assert len(answer.headers["x-request-id"]) == 32
    return job_id


def shared(value: Any) -> Any:
    """What the answers to two equal requests have in common; numbers come in other precisions."""
    if isinstance(value, dict):
        return {name: shared(item) for name, item in value.items() if name not in OWN}
    if isinstance(value, list):
        return [shared(item) for item in value]
    return pytest.approx(value, abs=1e-6) if isinstance(value, float) else value


@pytest.mark.usefixtures("readers")
@pytest.mark.parametrize(("path", "body"), ROUTES, ids=[path for path, _ in ROUTES])
def test_a_jobs_result_is_the_answer_of_its_route(http, ended, path, body):
    job_id = accepted(http.post(path, json={**body, "async": True, "metadata": {"run": "7"}}))
    job = ended(job_id)
    assert (job["status"], job["metadata"]) == ("completed", {"run": "7"})
    whole = http.post(path, json={**body, "async": False}).json()
    found = {name: value for name, value in job["result"].items() if name not in OWN}
    assert found == shared(whole)


def test_a_stream_that_nobody_waits_for_is_whole(http, ended):
    answer = http.post(CHAT, json=chat_body("!tokens 3", stream=True, **{"async": True}))
    job = ended(accepted(answer))
    assert job["result"]["object"] == "chat.completion"


@pytest.mark.usefixtures("speaking")
def test_sound_that_is_made_later_lies_at_an_address(http, ended):
    wish = speech_body(response_format="wav")
    job = ended(accepted(http.post(SPEECH, json={**wish, "async": True})))
    audio = job["result"]["audio"]
    assert audio["content_type"] == "audio/wav"
    made, whole = httpx.get(audio["url"]).content, http.post(SPEECH, json=wish).content
    # The voice breathes differently each time.
    assert (made[:4], len(made)) == (b"RIFF", pytest.approx(len(whole), rel=0.05))


@pytest.mark.usefixtures("drawing")
def test_pictures_that_are_made_later(http, ended):
    body = image_body(seed=3, num_inference_steps=2)
    answer = http.post(IMAGES, json={**body, "async": True})
    assert answer.headers["x-casola-weights"] == "demo"
    (made,) = ended(accepted(answer))["result"]["data"]
    (whole,) = http.post(IMAGES, json=body).json()["data"]
    assert httpx.get(made["url"]).content == httpx.get(whole["url"]).content


@pytest.mark.usefixtures("drawing")
def test_pictures_that_are_sent_along_are_there_when_the_job_runs_and_go_with_it(http, ended):
    form = {"model": "flux", "prompt": "a red circle", "seed": "3", "num_inference_steps": "2"}
    files = {"image": ("a.png", picture("blue")), "mask": ("m.png", picture("white"))}
    job_id = accepted(http.post(EDITS, data={**form, "async": "true"}, files=files))
    job = ended(job_id)
    assert (job["status"], job["error"]) == ("completed", None)
    whole = http.post(EDITS, data=form, files=files).json()["data"][0]["b64_json"]
    url = job["result"]["data"][0]["url"]
    assert httpx.get(url).content == base64.b64decode(whole)

    assert http.delete(f"/api/jobs/{job_id}/data").status_code == 200
    assert httpx.get(url).status_code == 404


@pytest.mark.usefixtures("hearing")
@pytest.mark.parametrize("path", [TRANSCRIPTIONS, TRANSLATIONS])
def test_sound_that_is_sent_along_is_heard_later(http, ended, path):
    sound = http.post(SPEECH, json=speech_body(response_format="wav")).content
    form = {"model": "whisper-large-v3", "response_format": "verbose_json"}
    files = {"file": ("a.wav", sound)}
    job = ended(accepted(http.post(path, data={**form, "async": "true"}, files=files)))
    whole = http.post(path, data=form, files=files).json()
    assert job["result"] == whole

    address = "data:audio/wav;base64," + base64.b64encode(sound).decode()
    body = {**form, "url": address, "async": True}
    assert ended(accepted(http.post(path, json=body)))["result"] == whole


# -- one key, one job -----------------------------------------------------------------------------


def test_one_key_is_one_job_for_all_who_come_at_once(site):
    body = chat_body("!tokens 2", **{"async": True})

    def post(number: int) -> httpx.Response:
        headers = {**bearer(site.alpha["user_write"]), "Idempotency-Key": "all-at-once"}
        return httpx.post(site.urls[number % 2] + CHAT, json=body, headers=headers, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["request_id"] for answer in answers}) == 1


def test_a_key_with_another_body_or_file_is_a_conflict(http):
    headers = {"Idempotency-Key": "one-body"}
    form = {"model": "whisper-large-v3", "async": "true"}

    def post(sound: bytes, **fields: str) -> httpx.Response:
        files = {"file": ("a.wav", sound)}
        return http.post(TRANSCRIPTIONS, data={**form, **fields}, files=files, headers=headers)

    first = accepted(post(b"some sound"))
    assert accepted(post(b"some sound")) == first
    assert_envelope(post(b"other sound"), 409, code="conflict")
    assert_envelope(post(b"some sound", prompt="x"), 409, code="conflict")
    other = http.post(CHAT, json=chat_body(**{"async": True}), headers=headers)
    assert accepted(other) != first
    assert_envelope(
        http.post(CHAT, json=chat_body(**{"async": True}), headers={"Idempotency-Key": "x" * 256}),
        400,
    )


def test_a_request_that_is_waited_for_ignores_the_key(http):
    headers = {"Idempotency-Key": "waited-for"}
    for text in ("!tokens 2", "!tokens 3"):
        assert http.post(CHAT, json=chat_body(text), headers=headers).status_code == 200


# -- who and what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"async": "yes"}, "async"),
        ({"async": 1}, "async"),
        ({"async": True, "deadline_s": 0}, "deadline_s"),
        ({"async": True, "priority": 11}, "priority"),
        ({"async": True, "metadata": {"a": 1}}, "metadata.a"),
        ({"async": True, "n": 0}, "n"),
        ({"async": True, "model": "no/such"}, "model"),
    ],
)
def test_what_is_wrong_is_named_as_in_a_request_that_is_waited_for(http, fields, param):
    answer = http.post(CHAT, json=chat_body(**fields))
    error = assert_envelope(answer, 404 if param == "model" else 400)
    assert error["param"] == param


def test_metadata_of_a_request_that_is_waited_for_may_be_anything(http):
    assert http.post(CHAT, json=chat_body(metadata={"a": 1}, priority="x")).status_code == 200


def test_scopes_plans_and_models_hold_as_everywhere(site):
    later = chat_body(**{"async": True})
    assert_envelope(site.live.post(CHAT, later, site.alpha["user_read"]), 403)
    assert_envelope(site.live.post(CHAT, later, site.stopped["one"]), 401)
    elsewhere = {**later, "model": "test/paced"}
    narrow = site.live.post(CHAT, elsewhere, site.alpha["narrow"])
    assert_envelope(narrow, 404, code="model_not_found")


@pytest.mark.usefixtures("drawing")
def test_the_room_for_files_is_the_plans(site, ended):
    body = image_body(num_inference_steps=1, **{"async": True})
    key = site.full["one"]
    first = accepted(site.live.post(IMAGES, body, key))
    ended(first, key=key)
    assert_envelope(site.live.post(IMAGES, body, key), 429, code="queue_full")
    sound = {"file": ("a.wav", b"some sound")}
    form = {"model": "whisper-large-v3", "async": "true"}
    answer = httpx.post(
        site.url + TRANSCRIPTIONS, data=form, files=sound, headers=bearer(key), timeout=60
    )
    assert_envelope(answer, 429, code="queue_full")

    path = f"{site.url}/api/jobs/{first}/data"
    assert httpx.delete(path, headers=bearer(key)).status_code == 200
    again = accepted(site.live.post(IMAGES, body, key))
    ended(again, key=key)
    httpx.delete(f"{site.url}/api/jobs/{again}/data", headers=bearer(key))


def test_a_deadline_ends_a_job_that_takes_too_long(http, ended):
    body = chat_body("!slow 30000", deadline_s=1, **{"async": True})
    job = ended(accepted(http.post(CHAT, json=body)))
    assert (job["status"], job["error"]["code"]) == ("failed", "timeout")
    assert job["completed_at"] - job["created_at"] < 10
