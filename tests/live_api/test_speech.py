"""Text to speech over HTTP: the official client, every format, streams, jobs, files, voices."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import openai
import pytest

from tests import sound
from tests.live import wait_until
from tests.live_api.envelope import assert_envelope, bearer

SPEECH = "/openai/v1/audio/speech"
MODEL = "Qwen3-TTS"
TEXT = "Hello, welcome to Casola!"
LONG = "One sentence after another is read here. " * 99
pytestmark = pytest.mark.usefixtures("speaking")


def body(**fields):
    return {"model": MODEL, "input": TEXT, "voice": "alloy", **fields}


def job(http, **fields):
    made = http.post(
        "/api/jobs",
        json={"model_id": MODEL, "task": "openai/audio-speech", "input": body(**fields)},
    )
    assert made.status_code == 201, made.text
    return made.json()["id"]


@pytest.mark.sqlite
@pytest.mark.parametrize("name", sound.FORMATS)
def test_every_format(http, name):
    response = http.post(SPEECH, json=body(response_format=name))
    content_type, heads = sound.FORMATS[name]
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.content.startswith(heads)
    assert 1.0 < sound.seconds(response.content, name) < 4.0
    assert sound.loudness(sound.decoded(response.content, name)) > 0.02


def test_an_answer_says_what_it_is(http, ended):
    response = http.post(SPEECH, json=body())
    assert response.headers["x-casola-weights"] == "demo"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "model;dur=" in response.headers["server-timing"]
    ended_job = ended(response.headers["x-casola-job-id"])
    assert ended_job["status"] == "completed"
    assert ended_job["usage"]["characters"] == len(TEXT)
    milliseconds = sound.seconds(response.content, "mp3") * 1000
    assert ended_job["usage"]["audio_ms"] == pytest.approx(milliseconds, abs=120)


def test_the_official_client(sdk, tmp_path):
    answer = sdk.audio.speech.create(model=MODEL, input=TEXT, voice="nova")
    file = tmp_path / "speech.mp3"
    answer.write_to_file(file)
    assert 1.0 < sound.seconds(file.read_bytes(), "mp3") < 4.0
    with sdk.audio.speech.with_streaming_response.create(
        model=MODEL,
        input=TEXT,
        voice={"id": "onyx"},
        response_format="wav",
        speed=1.5,
        instructions="Whisper.",
    ) as response:
        response.stream_to_file(file)
    assert 0.7 < sound.seconds(file.read_bytes(), "wav") < 2.5


def test_the_official_client_names_what_is_wrong(sdk):
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.audio.speech.create(model=MODEL, input=TEXT, voice="nobody")
    assert caught.value.param == "voice"
    with pytest.raises(openai.NotFoundError):
        sdk.audio.speech.create(model="test/echo", input=TEXT, voice="alloy")


@pytest.mark.sqlite
@pytest.mark.parametrize("name", sound.FORMATS)
def test_sound_is_sent_as_it_is_made(http, name):
    wish = body(input=LONG[:700], response_format=name, stream_format="audio")
    with http.stream("POST", SPEECH, json=wish) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == sound.FORMATS[name][0]
        assert response.headers["transfer-encoding"] == "chunked"
        parts = list(response.iter_raw())
    whole = b"".join(parts)
    assert sound.seconds(whole, name) > 30
    assert len(parts) > 3


def test_sound_in_events(http):
    with http.stream("POST", SPEECH, json=body(stream_format="sse")) as response:
        assert response.headers["content-type"] == "text/event-stream"
        events = [json.loads(line[6:]) for line in response.iter_lines() if line]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    content = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert 1.0 < sound.seconds(content, "mp3") < 4.0
    assert done["type"] == "speech.audio.done"
    assert done["usage"] == {
        "input_tokens": len(TEXT),
        "output_tokens": 0,
        "total_tokens": len(TEXT),
        "characters": len(TEXT),
        "audio_ms": done["usage"]["audio_ms"],
    }
    assert 1_000 < done["usage"]["audio_ms"] < 4_000


def test_an_answer_far_larger_than_a_frame_arrives_whole(http):
    wish = body(input=LONG[:1500], speed=0.5, response_format="wav")
    response = http.post(SPEECH, json=wish)
    assert len(response.content) > 6_000_000
    size = int.from_bytes(response.content[4:8], "little")
    assert size == len(response.content) - 8
    assert int(response.headers["content-length"]) == len(response.content)


def test_who_reads_slowly_gets_everything_and_costs_no_memory(site, http):
    web = site.web_process()
    wish = body(input=LONG[:1500], speed=0.5, response_format="wav")
    with http.stream("POST", SPEECH, json=wish) as response:
        before = web.memory_info().rss
        time.sleep(3)
        assert web.memory_info().rss - before < 8 * 1024 * 1024
        count = sum(len(part) for part in response.iter_raw())
    assert count == int(response.headers["content-length"])


@pytest.mark.sqlite
def test_leaving_stops_the_work(http, ended):
    wish = body(input=LONG, speed=0.25, response_format="mp3", stream_format="audio")
    with http.stream("POST", SPEECH, json=wish) as response:
        next(response.iter_raw())
        job_id = response.headers["x-casola-job-id"]
    found = ended(job_id, seconds=5)
    assert found["status"] == "cancelled"
    assert 0 < found["usage"]["characters"] < len(LONG)


def test_leaving_before_the_end_is_seen_too(site, http):
    """The whole answer was asked for: the caller hangs up while it is made."""
    with pytest.raises(httpx.ReadTimeout):
        http.post(
            SPEECH,
            json=body(input=LONG, speed=0.25, response_format="opus", user="leaver"),
            timeout=0.5,
        )
    code = (
        "from jobs.models import Job; "
        "job = Job.objects.filter(task='openai/audio-speech').order_by('-id').first();"
        "print(job.status, job.units.get('characters', 0))"
    )
    wait_until(lambda: site.live.python(code).splitlines()[-1].startswith("cancelled"), seconds=10)


BAD = [
    ({"input": ""}, "input"),
    ({"input": " \n"}, "input"),
    ({"input": "..."}, "input"),
    ({"input": "x" * 4097}, "input"),
    ({"input": ["x"]}, "input"),
    ({"voice": "nobody"}, "voice"),
    ({"voice": "../../etc/passwd"}, "voice"),
    ({"voice": ""}, "voice"),
    ({"voice": {}}, "voice.id"),
    ({"voice": {"id": 5}}, "voice"),
    ({"voice": "alloy+f3"}, "voice"),
    ({"response_format": "ogg"}, "response_format"),
    ({"response_format": "../mp3"}, "response_format"),
    ({"response_format": ["mp3"]}, "response_format"),
    ({"speed": 0}, "speed"),
    ({"speed": 0.24}, "speed"),
    ({"speed": 4.01}, "speed"),
    ({"speed": 10**9}, "speed"),
    ({"speed": "1"}, "speed"),
    ({"language": "tlh"}, "language"),
    ({"stream_format": "text"}, "stream_format"),
    ({"instructions": 5}, "instructions"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_wrong_fields_are_named(http, fields, param):
    error = assert_envelope(http.post(SPEECH, json=body(**fields)), 400)
    assert error["param"] == param


@pytest.mark.parametrize("field", ["model", "input", "voice"])
def test_missing_fields_are_named(http, field):
    wish = {key: value for key, value in body().items() if key != field}
    assert assert_envelope(http.post(SPEECH, json=wish), 400)["param"] == field


def test_nulls_are_absent(http):
    nulls = dict.fromkeys(
        ("response_format", "speed", "instructions", "stream_format", "language", "unheard_of")
    )
    response = http.post(SPEECH, json=body(**nulls))
    assert response.headers["content-type"] == "audio/mpeg"


@pytest.mark.parametrize("alias", ["qwen3-tts", "tts-1", "gpt-4o-mini-tts"])
def test_other_names_of_the_model(http, alias):
    assert http.post(SPEECH, json=body(model=alias)).status_code == 200


@pytest.mark.sqlite
def test_a_job_leaves_a_file_that_needs_no_token(site, http, bare, ended):
    found = ended(job(http, response_format="wav"))
    assert found["status"] == "completed"
    assert set(found["result"]) == {"audio"}
    assert set(found["result"]["audio"]) == {"url", "content_type"}
    assert found["result"]["audio"]["content_type"] == "audio/wav"
    assert found["usage"]["characters"] == len(TEXT)
    url = found["result"]["audio"]["url"]
    assert url.startswith(f"{site.url}/outputs/")
    response = bare.get(url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "audio/wav"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["accept-ranges"] == "bytes"
    assert int.from_bytes(response.content[4:8], "little") == len(response.content) - 8
    assert 1.0 < sound.seconds(response.content, "wav") < 4.0
    until = int(parse_qs(urlsplit(url).query)["exp"][0])
    assert until == pytest.approx(time.time() + 24 * 3600, abs=120)
    other = httpx.get(url.replace(site.urls[0], site.urls[1]))
    assert other.content == response.content


@pytest.mark.parametrize("name", sound.FORMATS)
def test_files_of_every_format(http, bare, ended, name):
    audio = ended(job(http, response_format=name))["result"]["audio"]
    response = bare.get(audio["url"])
    assert response.headers["content-type"] == audio["content_type"]
    assert 1.0 < sound.seconds(response.content, name) < 4.0


def test_ranges_of_a_file(http, bare, ended):
    url = ended(job(http))["result"]["audio"]["url"]
    whole = bare.get(url).content
    size = len(whole)

    def ranged(value, **headers):
        return bare.get(url, headers={"Range": value, **headers})

    for value, start, end in [
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        (f"bytes={size - 1}-", size - 1, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=5-{size * 9}", 5, size),
    ]:
        response = ranged(value)
        assert response.status_code == 206
        assert response.content == whole[start:end]
        assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    for value in ("bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=9-2", "nonsense"):
        assert (ranged(value).status_code, ranged(value).content) == (200, whole)
    missing = ranged(f"bytes={size}-")
    assert_envelope(missing, 416, path="/outputs/")
    assert missing.headers["content-range"] == f"bytes */{size}"
    etag = bare.get(url).headers["etag"]
    assert ranged("bytes=0-0", **{"If-Range": etag}).status_code == 206
    assert ranged("bytes=0-0", **{"If-Range": '"other"'}).status_code == 200
    head = bare.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == size


def test_an_address_opens_its_own_file_only(site, http, bare, ended):
    url = ended(job(http))["result"]["audio"]["url"]
    theirs = site.live.wait_job(
        httpx.post(
            f"{site.url}/api/jobs",
            json={"model_id": MODEL, "task": "openai/audio-speech", "input": body()},
            headers=bearer(site.beta["user_write"]),
        ).json()["id"],
        key=site.beta["user_write"],
    )["result"]["audio"]["url"]
    mine, other = urlsplit(url), urlsplit(theirs)
    assert mine.path.split("/")[3] != other.path.split("/")[3]  # each organization's own folder
    query = parse_qs(mine.query)
    exp, sig = query["exp"][0], query["sig"][0]
    for path, wrong in [
        (mine.path, ""),
        (mine.path, f"exp={exp}"),
        (mine.path, f"exp={exp}&sig={sig[:-1]}"),
        (mine.path, f"exp={exp}&sig={'0' * len(sig)}"),
        (mine.path, f"exp={int(exp) + 1}&sig={sig}"),
        (mine.path, f"exp=9{exp}&sig={sig}"),
        (mine.path, f"exp=x&sig={sig}"),
        (mine.path, f"exp=%D9%A3&sig={sig}"),
        (other.path, mine.query),
        (mine.path.replace(".mp3", ".wav"), mine.query),
    ]:
        assert_envelope(bare.get(f"{site.url}{path}?{wrong}"), 403, code="forbidden")
    for path in ("", "x", "../../../etc/passwd", "a/b.mp3%00", "%2e%2e/%2e%2e/x.mp3", "a//b.mp3"):
        response = bare.get(f"{site.url}/outputs/{path}?{mine.query}")
        assert response.status_code in (400, 403, 404), path
    assert_envelope(bare.post(url), 405)
    assert_envelope(bare.request("GET", url, content=b"x"), 413)
    assert bare.get(url).status_code == 200


def test_an_old_address_and_a_file_that_is_gone(site, http, bare, ended):
    url = ended(job(http))["result"]["audio"]["url"]
    name = urlsplit(url).path.removeprefix("/outputs/")
    code = (
        "from datetime import timedelta; from django.utils import timezone;"
        "from casola_site.core import outputs;"
        f"print(outputs.address({name!r}, now=timezone.now() - timedelta(hours=25)))"
    )
    old = bare.get(site.live.python(code).splitlines()[-1])
    assert "expired" in assert_envelope(old, 403, code="forbidden")["message"]
    (site.live.var_dir / "media/outputs" / name).unlink()
    assert_envelope(bare.get(url), 404, code="not_found")


def test_a_jobs_wrong_fields_are_refused_at_once(http):
    wish = {"model_id": MODEL, "task": "openai/audio-speech"}
    for fields, param in [({"speed": 9}, "input.speed"), ({"input": ""}, "input.input")]:
        response = http.post("/api/jobs", json={**wish, "input": body(**fields)})
        assert assert_envelope(response, 400)["param"] == param


def test_a_jobs_unknown_voice_fails_it(http, ended):
    found = ended(job(http, voice="nobody"))
    assert (found["status"], found["result"]) == ("failed", None)
    assert found["error"]["code"] == "invalid_value"


@pytest.mark.sqlite
def test_usage_shows_characters_and_sound(site):
    path = f"{site.url}/api/organizations/{site.beta['id']}/usage?group_by=task"
    read = bearer(site.beta["admin_read"])

    def totals():
        rows = httpx.get(path, headers=read).json()["usage"]["data"]
        mine = [row for row in rows if row["task"] == "openai/audio-speech"]
        return [sum(row[key] for row in mine) for key in ("characters", "audio_ms", "requests")], [
            float(row["amount"]) for row in mine
        ]

    before, _ = totals()
    response = httpx.post(
        site.url + SPEECH, json=body(), headers=bearer(site.beta["user_write"]), timeout=60
    )
    assert response.status_code == 200
    after, amounts = totals()
    assert after[0] - before[0] == len(TEXT)
    assert 1_000 < after[1] - before[1] < 4_000
    assert after[2] - before[2] == 1
    assert sum(amounts) == pytest.approx(after[0] * 4 / 1_000_000)
    csv = httpx.get(f"{path}&format=csv", headers=read).text
    header, *lines = [line.split(",") for line in csv.strip().splitlines()]
    place = header.index("audio_ms")
    assert after[1] in [int(line[place]) for line in lines if "openai/audio-speech" in line]


def test_voices_and_their_previews(site, http, bare):
    answer = http.get("/api/voice/models")
    assert answer.status_code == 200
    found = {model["model_id"]: model for model in answer.json()["models"]}
    model = found[MODEL]
    assert model["demo"] is True
    voices = {voice["id"]: voice for voice in model["voices"]}
    assert {"alloy", "echo", "fable", "onyx", "nova", "shimmer", "de-female"} <= set(voices)
    assert set(voices["alloy"]) == {"id", "name", "language", "preview_url"}
    assert voices["de-female"]["language"] == "de"
    for name in ("alloy", "de-female"):
        url = voices[name]["preview_url"]
        assert url.startswith(f"{site.url}/outputs/previews/")
        response = bare.get(url)
        assert response.headers["content-type"] == "audio/mpeg"
        assert 0.5 < sound.seconds(response.content, "mp3") < 5
    assert_envelope(bare.get(voices["alloy"]["preview_url"][:-1] + "_"), 403)
    assert_envelope(bare.get("/api/voice/models"), 401)
    narrow = httpx.get(f"{site.url}/api/voice/models", headers=bearer(site.alpha["narrow"]))
    assert narrow.json() == {"models": []}


def test_a_voices_every_name_can_be_asked_for(http):
    for model in http.get("/api/voice/models").json()["models"]:
        for voice in model["voices"][:20]:
            wish = body(voice=voice["id"], input="1, 2, 3.")
            assert http.post(SPEECH, json=wish).status_code == 200, voice


def kill_runner(site):
    """SIGKILL the process that holds the model; returns when another one does."""
    (old,) = [row for row in site.live.runners() if row["model_id"] == MODEL]
    os.kill(old["pid"], signal.SIGKILL)

    def replaced():
        return [
            row
            for row in site.live.runners()
            if row["model_id"] == MODEL and row["public_id"] != old["public_id"]
        ]

    return wait_until(replaced, seconds=30, every=0.5, what="a new runner")


@pytest.mark.slow
def test_killed_while_it_streams(site, http, ended):
    """The client sees that the answer is not whole; nothing is charged."""
    wish = body(input=LONG, speed=0.25, response_format="mp3", stream_format="audio")
    with http.stream("POST", SPEECH, json=wish) as response:
        job_id = response.headers["x-casola-job-id"]
        parts = response.iter_raw()
        next(parts)
        kill_runner(site)
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)
    found = ended(job_id, seconds=15)
    assert found["status"] == "failed"
    assert found["error"]["code"] == "worker_crashed"
