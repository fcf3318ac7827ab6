"""Speech to text over HTTP: the spoken round trip, every format, streams, jobs, what is refused."""

from __future__ import annotations

import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor

import av
import httpx
import numpy as np
import openai
import pytest

from tests import sound
from tests.live import wait_until
from tests.live_api.envelope import (
    SPEECH,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    assert_envelope,
    bearer,
    speech_body,
)

MODEL = "whisper-large-v3"
TEXT = "Hello, welcome to Casola!"
SENTENCES = (
    "The red car is in the garden.",
    "We need seven apples and a big table.",
    "The train to Berlin leaves at nine.",
)
GERMAN, ENGLISH = "Guten Morgen, Anna.", "Good morning, Anna."
TASK, TRANSLATION = "openai/audio-transcription", "openai/audio-translation"
pytestmark = pytest.mark.usefixtures("hearing")


def say(http, text=TEXT, *, response_format="wav", voice="alloy", **fields) -> bytes:
    wish = speech_body(input=text, voice=voice, response_format=response_format, **fields)
    answer = http.post(SPEECH, json=wish)
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.fixture(scope="module")
def hello(http) -> bytes:
    return say(http)


@pytest.fixture(scope="module")
def long(http) -> bytes:
    return say(http, " ".join(SENTENCES))


def ask(http, content, *, path=TRANSCRIPTIONS, name="a.wav", **fields):
    data = {"model": MODEL, **fields}
    return http.post(path, data=data, files={"file": (name, content)})


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def job(http, task=TASK, **fields) -> str:
    made = http.post("/api/jobs", json={"model_id": MODEL, "task": task, "input": fields})
    assert made.status_code == 201, made.text
    return made.json()["id"]


def data_url(content: bytes) -> str:
    return "data:audio/wav;base64," + base64.b64encode(content).decode()


# -- the round trip ------------------------------------------------------------------------------


@pytest.mark.sqlite
@pytest.mark.parametrize("name", sound.FORMATS)
def test_what_was_spoken_comes_back(http, name):
    spoken = say(http, response_format=name)
    answer = ask(http, spoken, name=f"speech.{name}")
    assert answer.status_code == 200, answer.text
    assert words(answer.json()["text"]) == words(TEXT)


def test_several_sentences_come_back_with_their_times(http, long):
    answer = ask(http, long, response_format="verbose_json").json()
    assert words(answer["text"]) == words(" ".join(SENTENCES))
    segments = answer["segments"]
    assert abs(answer["duration"] - sound.seconds(long, "wav")) < 0.05
    assert [one["id"] for one in segments] == list(range(len(segments)))
    times = [time for one in segments for time in (one["start"], one["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] < 1
    assert times[-1] <= answer["duration"]
    assert words(" ".join(one["text"] for one in segments)) == words(answer["text"])


def test_german_is_written_down_and_translated(http):
    spoken = say(http, GERMAN, voice="de-male")
    heard = ask(http, spoken, response_format="verbose_json").json()
    assert (heard["task"], heard["language"]) == ("transcribe", "de")
    assert words(heard["text"]) == words(GERMAN)
    meant = ask(http, spoken, path=TRANSLATIONS, response_format="verbose_json").json()
    assert (meant["task"], words(meant["text"])) == ("translate", words(ENGLISH))


# -- forms of the answer -------------------------------------------------------------------------


def test_json_is_the_text_and_what_it_costs(http, hello):
    answer = ask(http, hello)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-casola-weights"] == "demo"
    body = answer.json()
    assert set(body) == {"text", "usage"}
    assert body["usage"] == {"type": "duration", "seconds": -(-len(hello) // 48_000)}


def test_text_and_subtitles(http, long):
    plain = ask(http, long, response_format="text")
    assert plain.headers["content-type"] == "text/plain; charset=utf-8"
    assert words(plain.text) == words(" ".join(SENTENCES))
    segments = ask(http, long, response_format="verbose_json").json()["segments"]
    clock = r"\d\d:\d\d:\d\d"
    srt = ask(http, long, response_format="srt")
    assert srt.headers["content-type"] == "text/plain; charset=utf-8"
    cues = srt.text.strip().split("\n\n")
    assert [cue.split("\n")[0] for cue in cues] == [str(n + 1) for n in range(len(segments))]
    assert all(re.fullmatch(rf"\d+\n{clock},\d{{3}} --> {clock},\d{{3}}\n.+", cue) for cue in cues)
    vtt = ask(http, long, response_format="vtt")
    assert vtt.headers["content-type"] == "text/vtt; charset=utf-8"
    head, *cues = vtt.text.strip().split("\n\n")
    assert head == "WEBVTT"
    assert all(re.fullmatch(rf"{clock}\.\d{{3}} --> {clock}\.\d{{3}}\n.+", cue) for cue in cues)
    assert [cue.split("\n")[1] for cue in cues] == [one["text"].strip() for one in segments]


def test_words_have_times(http, long):
    wish = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    body = ask(http, long, **wish).json()
    assert [w["word"].strip(".,!?").lower() for w in body["words"]] == words(body["text"])
    starts = [word["start"] for word in body["words"]]
    assert starts == sorted(starts)
    assert all(0 <= w["start"] <= w["end"] <= body["duration"] for w in body["words"])
    assert body["segments"]
    wish["timestamp_granularities[]"] = ["word"]
    assert "segments" not in ask(http, long, **wish).json()


def test_a_stream_is_the_same_text(http, long):
    events = []
    data = {"model": MODEL, "stream": "true"}
    with http.stream("POST", TRANSCRIPTIONS, data=data, files={"file": long}) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert done["type"] == "transcript.text.done"
    assert "".join(event["delta"] for event in deltas) == done["text"]
    assert done["text"] == ask(http, long).json()["text"]
    assert done["usage"]["type"] == "duration"


def test_the_official_client(sdk, hello, long):
    def create(**options):
        return sdk.audio.transcriptions.create(model=MODEL, file=hello, **options)

    assert words(create().text) == words(TEXT)
    assert words(create(response_format="text")) == words(TEXT)
    assert create(response_format="vtt").startswith("WEBVTT")
    verbose = create(
        response_format="verbose_json", timestamp_granularities=["word"], language="en"
    )
    assert (verbose.language, len(verbose.words)) == ("en", 4)
    events = list(
        sdk.audio.transcriptions.create(
            model=MODEL, file=("a.wav", long), stream=True, include=["logprobs"]
        )
    )
    assert events[-1].type == "transcript.text.done"
    assert "".join(event.delta for event in events[:-1]) == events[-1].text
    translated = sdk.audio.translations.create(model="whisper-1", file=hello, temperature=0)
    assert words(translated.text) == words(TEXT)


def test_without_a_form(http, hello):
    answer = http.post(TRANSCRIPTIONS, json={"model": MODEL, "url": data_url(hello)})
    assert words(answer.json()["text"]) == words(TEXT)


# -- jobs and usage ------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_jobs(http, ended, hello):
    done = ended(job(http, url=data_url(hello), response_format="verbose_json"))
    assert done["status"] == "completed", done["error"]
    assert words(done["result"]["text"]) == words(TEXT)
    assert done["usage"]["audio_ms"] == round(1000 * sound.seconds(hello, "wav"))
    assert done["result"]["segments"]
    done = ended(job(http, TRANSLATION, url=data_url(hello), response_format="srt"))
    assert done["result"]["text"].startswith("1\n00:00:0")


def test_an_address_of_our_own_and_others(http, site, ended, hello):
    made = http.post(
        "/api/jobs",
        json={"model_id": "Qwen3-TTS", "task": "openai/audio-speech", "input": speech_body(input=TEXT)},
    )  # fmt: skip
    address = ended(made.json()["id"])["result"]["audio"]["url"]
    done = ended(job(http, url=address))
    assert words(done["result"]["text"]) == words(TEXT)


def test_an_answer_is_a_job_with_its_usage(http, ended, hello):
    answer = ask(http, hello)
    done = ended(answer.headers["x-casola-job-id"])
    assert (done["status"], done["task"]) == ("completed", TASK)
    assert done["usage"]["audio_ms"] == round(1000 * sound.seconds(hello, "wav"))


def test_nothing_is_left_of_an_upload(site, http, hello):
    def stored():
        return set((site.live.var_dir / "media").rglob("*.bin"))

    before = stored()  # of requests for later, which keep theirs
    ask(http, hello)
    wait_until(lambda: stored() <= before, what="uploads to go")


# -- what is refused -----------------------------------------------------------------------------

REFUSED = {
    "no file": ({}, None, "file"),
    "a text": ({"file": "x"}, None, "file"),
    "an unknown format": ({"response_format": "docx"}, b"RIFF", "response_format"),
    "too hot": ({"temperature": "1.5"}, b"RIFF", "temperature"),
    "no number": ({"temperature": "warm"}, b"RIFF", "temperature"),
    "no language": ({"language": "e!"}, b"RIFF", "language"),
    "no granularity": ({"timestamp_granularities[]": "page", "response_format": "verbose_json"}, b"RIFF", "timestamp_granularities"),
    "words in plain json": ({"timestamp_granularities[]": "word"}, b"RIFF", "timestamp_granularities"),
    "a stream of subtitles": ({"stream": "true", "response_format": "srt"}, b"RIFF", "stream"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_wishes(http, name):
    fields, content, param = REFUSED[name]
    files = {"file": ("a.wav", content)} if content is not None else {"other": ("a", b"x")}
    answer = http.post(TRANSCRIPTIONS, data={"model": MODEL, **fields}, files=files)
    assert assert_envelope(answer, 400)["param"] == param


@pytest.mark.parametrize(
    "content",
    [b"", b"hello" * 100, b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"RIFF\xff\xff\xff\xffWAVE"],
    ids=["empty", "text", "a playlist", "half a wav"],
)  # fmt: skip
def test_what_is_no_sound(http, content):
    answer = ask(http, content)
    error = assert_envelope(answer, 400, code="invalid_audio")
    assert error["param"] == "file"


def test_an_unknown_language_names_the_known(http, hello):
    answer = ask(http, hello, language="fr")
    error = assert_envelope(answer, 400)
    assert error["param"] == "language"
    assert "it knows de, en" in error["message"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.wav", "file:///etc/passwd", "http://[::1]/"])
def test_addresses_that_lead_inside(http, url):
    answer = http.post(TRANSCRIPTIONS, json={"model": MODEL, "url": url})
    assert assert_envelope(answer, 400, code="unsafe_url")["param"] == "url"


def test_a_job_takes_no_file(http):
    wish = {"model_id": MODEL, "task": TASK, "input": {"file": "x"}}
    answer = http.post("/api/jobs", json=wish)
    assert assert_envelope(answer, 400)["param"] == "input.file"


def test_other_models_do_not_hear(http, hello):
    answer = http.post(TRANSCRIPTIONS, data={"model": "test/echo"}, files={"file": hello})
    assert_envelope(answer, 404, code="model_not_found")


def bomb_of_silence(seconds: int) -> bytes:
    outlet = io.BytesIO()
    with av.open(outlet, "w", format="flac") as file:
        stream = file.add_stream("flac", rate=8_000)
        stream.layout = "mono"
        for _ in range(seconds):
            second = np.zeros((1, 8_000), "<i2")
            frame = av.AudioFrame.from_ndarray(second, format="s16", layout="mono")
            frame.sample_rate = 8_000
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return outlet.getvalue()


def test_a_bomb_is_refused_and_others_are_served(http, hello):
    silence = bomb_of_silence(8_000)
    assert len(silence) < 2_000_000
    with ThreadPoolExecutor(1) as pool:
        bomb = pool.submit(ask, http, silence, name="bomb.flac")
        assert words(ask(http, hello).json()["text"]) == words(TEXT)
        answer = bomb.result()
    message = assert_envelope(answer, 400, code="invalid_audio")["message"]
    assert message == "The file is longer than 120 minutes"


def test_who_leaves_cancels(site, http, ended):
    spoken = say(http, " ".join(SENTENCES * 30), response_format="mp3")
    with httpx.Client(base_url=site.url, headers=bearer(site.alpha["user_write"])) as client:
        data = {"model": MODEL, "stream": "true"}
        with client.stream("POST", TRANSCRIPTIONS, data=data, files={"file": spoken}) as answer:
            job_id = answer.headers["x-casola-job-id"]
            next(answer.iter_lines())
    done = ended(job_id)
    assert done["status"] == "cancelled"
    assert 0 < done["usage"]["audio_ms"] < round(sound.seconds(spoken, "mp3") * 1000)


def test_a_wrong_model_is_openais_error(sdk, hello):
    with pytest.raises(openai.NotFoundError):
        sdk.audio.transcriptions.create(model="nobody", file=hello)
    with pytest.raises(openai.BadRequestError) as error:
        sdk.audio.transcriptions.create(model=MODEL, file=b"no sound")
    assert error.value.code == "invalid_audio"
