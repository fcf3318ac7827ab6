"""Speech in any language to English text (Task `openai/audio-translation`)."""

from __future__ import annotations

from typing import Any

from inference.contracts.transcription import (
    TRANSLATE,
    TranscriptionInput,
    body_of,
    input_of,
)

TASK = "openai/audio-translation"


def from_body(body: dict[str, Any]) -> TranscriptionInput:
    """The contract from a request body that the API's serializer has already checked."""
    return input_of(body, translates=True)


def answer_body(
    *,
    job_id: str,
    created: int,
    model: str,
    body: dict[str, Any],
    result: dict[str, Any],
    units: dict[str, int],
) -> dict[str, Any]:
    """As of a transcription."""
    del job_id, created, model
    return body_of(body, result, units, task=TRANSLATE)
