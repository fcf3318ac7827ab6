"""The Tasks whose Runner speaks in Deltas, and the module that knows each one's bodies."""

from __future__ import annotations

from typing import Any, Protocol

from inference.contracts import chat, completion
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


TEXT_TASKS: dict[str, TextSurface] = {chat.TASK: chat, completion.TASK: completion}
