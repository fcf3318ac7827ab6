"""How jobs asks inference about a model without importing it: a callable named in settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from django.conf import settings
from django.utils.module_loading import import_string


@dataclass(frozen=True, slots=True)
class TaskContract:
    """A model that serves a Task, and the input as it will be stored.

    `ceiling(now=…)` says what the Job may cost at most; `makes_files`, whether its result is kept as
    files of the Organization; `is_demo`, whether demo weights will do it.
    """

    model_id: str
    queue_id: str
    task: str
    payload: dict[str, Any]
    ceiling: Callable[..., Decimal]
    makes_files: bool = False
    is_demo: bool = False


class FindContract(Protocol):
    """Raises ModelNotFound, InvalidRequest or ValidationError."""

    def __call__(self, *, model: str, task: str, payload: dict[str, Any]) -> TaskContract:
        """The contract for one submission."""


def task_contract(*, model: str, task: str, payload: dict[str, Any]) -> TaskContract:
    """Ask whoever serves models here (settings.JOB_TASKS)."""
    return import_string(settings.JOB_TASKS)(model=model, task=task, payload=payload)
