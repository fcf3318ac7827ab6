"""Speech to text: what a runner is given and what it answers (Task `openai/audio-transcription`)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

TASK = "openai/audio-transcription"
TRANSCRIBE, TRANSLATE = "transcribe", "translate"
LONGEST_SECONDS = 2 * 60 * 60
MAX_PROMPT = 4_000  # characters; a model reads its last couple of hundred tokens
JSON, TEXT, SRT, VTT, VERBOSE = "json", "text", "srt", "vtt", "verbose_json"
# Response format -> the Content-Type of an answer.
CONTENT_TYPES = {
    JSON: "application/json",
    TEXT: "text/plain; charset=utf-8",
    SRT: "text/plain; charset=utf-8",
    VTT: "text/vtt; charset=utf-8",
    VERBOSE: "application/json",
}
STREAMED = (JSON, TEXT)
WORD, SEGMENT = "word", "segment"
TRANSCRIPT = "transcript"
"""The key of a Runner's result: a Transcript as JSON text in bytes."""


@dataclass(frozen=True, slots=True)
class TranscriptionInput:
    """One request as a runner sees it, the sound apart.

    The sound is what `url` names, or the stored upload of that name; `kind` is what its sender says
    it is. `language` None: the model finds out. `temperature` None: as low as the result allows.
    """

    url: str | None = None
    upload: str | None = None
    kind: str | None = None
    language: str | None = None
    prompt: str | None = None
    temperature: float | None = None
    words: bool = False
    translates: bool = False
    stream: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a frame."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TranscriptionInput:
        """Rebuild from `as_dict`; unknown keys are ignored so that old and new code can meet."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


def input_of(body: dict[str, Any], *, translates: bool) -> TranscriptionInput:
    """The contract of either Task."""
    return TranscriptionInput(
        url=body.get("url"),
        upload=body.get("upload"),
        kind=body.get("kind"),
        language=body.get("language"),
        prompt=body.get("prompt") or None,
        temperature=body.get("temperature"),
        words=WORD in (body.get("timestamp_granularities") or ()),
        translates=translates,
        stream=bool(body.get("stream")),
    )


def from_body(body: dict[str, Any]) -> TranscriptionInput:
    """The contract from a request body that the API's serializer has already checked."""
    return input_of(body, translates=False)


def packed(transcript: dict[str, Any]) -> dict[str, Any]:
    """A Runner's result."""
    return {TRANSCRIPT: json.dumps(transcript, ensure_ascii=False, separators=(",", ":")).encode()}


def unpacked(result: dict[str, Any]) -> dict[str, Any]:
    """The transcript of a Runner's result: language, duration, text, segments, words."""
    return json.loads(result[TRANSCRIPT])


def answer_body(
    *,
    job_id: str,
    created: int,
    model: str,
    body: dict[str, Any],
    result: dict[str, Any],
    units: dict[str, int],
) -> dict[str, Any]:
    """OpenAI's answer; formats that are no JSON come as its `text`."""
    del job_id, created, model
    return body_of(body, result, units, task=TRANSCRIBE)


def body_of(
    body: dict[str, Any], result: dict[str, Any], units: dict[str, int], *, task: str
) -> dict[str, Any]:
    """The answer of either Task."""
    transcript = unpacked(result)
    wished = body.get("response_format") or JSON
    if wished == VERBOSE:
        return verbose(transcript, body, units, task=task)
    if wished == JSON:
        return {"text": transcript["text"], "usage": usage_body(units)}
    return {"text": written(transcript, wished)}


def verbose(
    transcript: dict[str, Any], body: dict[str, Any], units: dict[str, int], *, task: str
) -> dict[str, Any]:
    """All that is known. Segments come unless only words were asked for."""
    wished = body.get("timestamp_granularities") or [SEGMENT]
    found: dict[str, Any] = {
        "task": task,
        "language": transcript["language"],
        "duration": transcript["duration"],
        "text": transcript["text"],
    }
    if SEGMENT in wished:
        found["segments"] = transcript["segments"]
    if WORD in wished:
        found["words"] = transcript["words"]
    return {**found, "usage": usage_body(units)}


def written(transcript: dict[str, Any], wished: str) -> str:
    """The text itself, or subtitles."""
    if wished == TEXT:
        return transcript["text"] + "\n"
    comma = "," if wished == SRT else "."
    cues = [
        f"{_clock(segment['start'], comma)} --> {_clock(segment['end'], comma)}\n"
        f"{_cue_text(segment['text'])}\n"
        for segment in transcript["segments"]
    ]
    if wished == SRT:
        return "\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))
    return "\n".join(["WEBVTT\n", *cues])


def usage_body(units: dict[str, int]) -> dict[str, Any]:
    """OpenAI's usage object of models that bill by duration; begun seconds count."""
    return {"type": "duration", "seconds": math.ceil(units.get("audio_ms", 0) / 1000)}


def joined(texts: Iterable[str]) -> str:
    """What was said, piece after piece."""
    return " ".join(text for text in (text.strip() for text in texts) if text)


def _cue_text(text: str) -> str:
    """Nothing in a cue may look like the end of it."""
    return " ".join(text.split()).replace("-->", "->")


def _clock(seconds: float, comma: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    whole, part = divmod(rest, 1000)
    return f"{hours:02}:{minutes:02}:{whole:02}{comma}{part:03}"
