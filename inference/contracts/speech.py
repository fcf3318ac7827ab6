"""Text to speech: what a runner is given and what it answers (Task `openai/audio-speech`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

TASK = "openai/audio-speech"
MAX_CHARACTERS = 4_096
SLOWEST, FASTEST = 0.25, 4.0
LONGEST_SECONDS = 30 * 60  # of one answer's sound
# Response format -> the Content-Type of an answer; also the extension of a stored file.
CONTENT_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
DEFAULT_FORMAT = "mp3"


@dataclass(frozen=True, slots=True)
class SpeechInput:
    """One request as a runner sees it.

    `language` has a named voice speak another language than its own. With `stream` the sound comes
    in Chunks as it is made, otherwise as one finished file.
    """

    text: str
    voice: str
    format: str = DEFAULT_FORMAT
    speed: float = 1.0
    language: str | None = None
    stream: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a frame."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SpeechInput:
        """Rebuild from `as_dict`; unknown keys are ignored so that old and new code can meet."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


def from_body(body: dict[str, Any]) -> SpeechInput:
    """The contract from a request body that the API's serializer has already checked."""
    return SpeechInput(
        text=body["input"],
        voice=body["voice"],
        format=body.get("response_format") or DEFAULT_FORMAT,
        speed=body.get("speed") or 1.0,
        language=body.get("language"),
        stream=bool(body.get("stream")),
    )


def result_body(media: list[dict[str, Any]], *, created: int) -> dict[str, Any]:
    """A Job's result; `media` is where the file was put, with its type."""
    del created
    return {"audio": media[0]}


def usage_body(units: dict[str, int]) -> dict[str, int]:
    """OpenAI's usage object; a token of speech is a character, and the sound counts in its own."""
    characters = units.get("characters", 0)
    return {
        "input_tokens": characters,
        "output_tokens": 0,
        "total_tokens": characters,
        "characters": characters,
        "audio_ms": units.get("audio_ms", 0),
    }
