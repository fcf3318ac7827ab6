"""Bodies of transcriptions: what a runner is given, and every form of its answer."""

from __future__ import annotations

import pytest

from inference.contracts import transcription, translation
from inference.contracts.transcription import TranscriptionInput

SEGMENTS = [
    {"id": 0, "start": 0.0, "end": 1.5, "text": " Hello,  there."},
    {"id": 1, "start": 3661.25, "end": 3662.0, "text": " a --> b"},
]
TRANSCRIPT = {
    "language": "en",
    "duration": 3700.5,
    "text": "Hello, there. a --> b",
    "segments": SEGMENTS,
    "words": [{"word": "Hello,", "start": 0.0, "end": 0.5}],
}
USAGE = {"type": "duration", "seconds": 3701}


def answer(surface=transcription, **body):
    return surface.answer_body(
        job_id="j",
        created=0,
        model="m",
        body=body,
        result=transcription.packed(TRANSCRIPT),
        units={"audio_ms": 3_700_500},
    )


def test_json():
    assert answer() == {"text": TRANSCRIPT["text"], "usage": USAGE}
    assert answer(response_format="text") == {"text": TRANSCRIPT["text"] + "\n"}


def test_verbose_json():
    known = {"task": "transcribe", **TRANSCRIPT, "usage": USAGE}
    bare = {key: value for key, value in known.items() if key != "words"}
    assert answer(response_format="verbose_json") == bare
    both = answer(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert both == known
    only = answer(response_format="verbose_json", timestamp_granularities=["word"])
    assert only == {key: value for key, value in known.items() if key != "segments"}
    assert answer(translation, response_format="verbose_json")["task"] == "translate"


def test_subtitles():
    assert answer(response_format="srt")["text"] == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello, there.\n\n"
        "2\n01:01:01,250 --> 01:01:02,000\na -> b\n"
    )
    assert answer(response_format="vtt")["text"] == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nHello, there.\n\n"
        "01:01:01.250 --> 01:01:02.000\na -> b\n"
    )


@pytest.mark.parametrize("surface", [transcription, translation])
def test_a_body_becomes_a_contract(surface):
    body = {
        "model": "m",
        "url": "https://example.com/a.mp3",
        "language": "de",
        "prompt": "",
        "temperature": 0.0,
        "timestamp_granularities": ["word"],
        "stream": True,
    }
    found = surface.from_body(body)
    assert found == TranscriptionInput(
        url="https://example.com/a.mp3",
        language="de",
        temperature=0.0,
        words=True,
        translates=surface is translation,
        stream=True,
    )
    assert TranscriptionInput.from_dict({**found.as_dict(), "new": 1}) == found
