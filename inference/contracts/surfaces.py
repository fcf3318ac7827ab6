"""The Tasks of the API, and the module that knows each one's bodies.

A Runner speaks in Deltas of TEXT_TASKS, gives files of MEDIA_TASKS, and one result at the end of
WHOLE_TASKS.
"""

from __future__ import annotations

from typing import Any, Protocol

from inference.contracts import (
    chat,
    completion,
    embeddings,
    images,
    rerank,
    score,
    speech,
    transcription,
    translation,
    video,
)
from inference.contracts.answers import Choices


class TextSurface(Protocol):
    """What such a module offers; see `contracts.chat`."""

    @staticmethod
    def from_body(body: dict[str, Any]) -> chat.ChatInput:
        """The contract from a checked body."""

    @staticmethod
    def choice_bodies(choices: Choices) -> list[dict[str, Any]]:
        """The surface's own choices."""

    @staticmethod
    def completion_body(
        *,
        job_id: str,
        created: int,
        model: str,
        choices: list[dict[str, Any]],
        units: dict[str, int],
    ) -> dict[str, Any]:
        """The whole answer."""


class MediaSurface(Protocol):
    """What a module offers whose answers are files; see `contracts.speech`."""

    @staticmethod
    def from_body(body: dict[str, Any]) -> Any:
        """The contract from a checked body; it has `as_dict`."""

    @staticmethod
    def result_body(media: list[dict[str, Any]], *, created: int) -> dict[str, Any]:
        """A Job's result; `media` tells for each file its url, its content_type and more."""


class Input(Protocol):
    """A contract."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a frame."""


class WholeSurface(Protocol):
    """What such a module offers; see `contracts.embeddings`."""

    @staticmethod
    def from_body(body: dict[str, Any]) -> Input:
        """The contract from a checked body."""

    @staticmethod
    def answer_body(
        *,
        job_id: str,
        created: int,
        model: str,
        body: dict[str, Any],
        result: dict[str, Any],
        units: dict[str, int],
    ) -> dict[str, Any]:
        """The whole answer to a checked body."""


TEXT_TASKS: dict[str, TextSurface] = {chat.TASK: chat, completion.TASK: completion}
WHOLE_TASKS: dict[str, WholeSurface] = {
    embeddings.TASK: embeddings,
    rerank.TASK: rerank,
    score.TASK: score,
    transcription.TASK: transcription,
    translation.TASK: translation,
}
SOUND_TASKS = frozenset({transcription.TASK, translation.TASK})
"""Those whose requests hold a sound, which must be fetched and read before the engine sees it."""
MEDIA_TASKS: dict[str, MediaSurface] = {
    speech.TASK: speech,
    images.GENERATION: images,
    images.EDIT: images,
    video.TEXT_TO_VIDEO: video,
    video.IMAGE_TO_VIDEO: video,
}
# Media Tasks whose files are stored also for those who wait: the answer tells their addresses.
STORED_TASKS = frozenset({images.GENERATION, images.EDIT})
