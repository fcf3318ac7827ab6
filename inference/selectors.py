"""Reads of models and Runners, with a one-second memory for the hot path."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from casola_site.core.errors import InvalidRequest, ModelNotFound
from inference import estimates
from inference.ceilings import body_ceiling
from inference.contracts.surfaces import MEDIA_TASKS
from inference.models import ModelSpec
from jobs.contracts import TaskContract
from jobs.enums import RunnerState
from jobs.models import Runner

MEMORY_SECONDS = 1.0
MOST_IMAGE_PIXELS = 1 << 22  # what a Runner scales to, on the device that takes the most
IMAGE_TOKEN_PIXELS = 28 * 28
IMAGE_MARKS = 64
# Tasks that a model does because it does another one.
IMPLIED_TASKS = {
    "openai/chat-completion": {"openai/completion"},
    "openai/embeddings": {"openai/rerank", "openai/score"},
    "openai/rerank": {"openai/score"},
    "openai/audio-transcription": {"openai/audio-translation"},
}
# Task -> the callable that checks a request body of the Task's own surface.
TASK_CHECKS = {
    "openai/chat-completion": "inference.api.openai.chat.check_body",
    "openai/completion": "inference.api.openai.completions.check_body",
    "openai/audio-speech": "inference.api.openai.speech.check_body",
    "openai/image-generation": "inference.api.openai.images.check_generation",
    "openai/image-edit": "inference.api.openai.images.check_edit",
    "openai/embeddings": "inference.api.openai.embeddings.check_body",
    "openai/rerank": "inference.api.openai.rerank.check_body",
    "openai/score": "inference.api.openai.score.check_body",
    "openai/audio-transcription": "inference.api.openai.transcription.check_body",
    "openai/audio-translation": "inference.api.openai.translation.check_body",
    "fal/text-to-video": "inference.api.native.video.check_text",
    "fal/image-to-video": "inference.api.native.video.check_image",
    "test/echo": "inference.api.openai.chat.check_anything",
}


@dataclass(frozen=True, slots=True)
class Model:
    """What a request needs to know of a ModelSpec."""

    pk: int
    spec_id: str
    model_id: str
    queue_id: str
    tasks: frozenset[str]
    is_demo: bool
    context: int | None = None
    """The most tokens of prompt and answer, where the row or the model's folder says."""
    image_tokens: int = 0
    """The most that an image of a prompt makes."""


@dataclass(frozen=True, slots=True)
class LiveRunner:
    """A Runner that takes requests."""

    runner_id: str
    pk: int
    queue_id: str
    channel: str
    outstanding: int


@dataclass(slots=True)
class Catalog:
    """One reading of the tables: names are matched without case, by id or alias."""

    by_name: dict[str, Model] = field(default_factory=dict)
    runners: dict[str, list[LiveRunner]] = field(default_factory=dict)
    read_at: float = 0.0


def names_of(spec: ModelSpec) -> Iterable[str]:
    """Every text that means this model."""
    return [spec.model_id.lower(), *(str(alias).lower() for alias in spec.aliases)]


def tasks_of(spec: ModelSpec) -> frozenset[str]:
    """All Tasks a model serves, named in its row or implied."""
    return frozenset(spec.tasks).union(*(IMPLIED_TASKS.get(task, ()) for task in spec.tasks))


def context_of(spec: ModelSpec) -> int | None:
    """An upper bound of the model's context; None where neither row nor folder tells it here."""
    key = (spec.source, spec.revision)
    if key not in _contexts:
        folder = estimates.find_folder(
            spec.source,
            base=settings.BASE_DIR,
            hub=estimates.hub_folder(),
            revision=spec.revision,
        )
        longest = None if folder is None else estimates.longest_context(folder)
        if longest is None:
            return spec.context
        _contexts[key] = longest
    return min(_contexts[key], spec.context or _contexts[key])


def most_image_tokens(spec: ModelSpec) -> int:
    """An upper bound: images are scaled down to so many pixels, and a token takes 28 x 28 or more."""
    pixels = int(spec.options.get("image_pixels") or MOST_IMAGE_PIXELS)
    return pixels // IMAGE_TOKEN_PIXELS + IMAGE_MARKS


def read_catalog() -> Catalog:
    """Read enabled models and live Runners from the database."""
    catalog = Catalog(read_at=time.monotonic())
    for spec in ModelSpec.objects.filter(enabled=True).order_by("-pk"):
        model = Model(
            pk=spec.pk,
            spec_id=spec.public_id,
            model_id=spec.model_id,
            queue_id=spec.queue_id,
            tasks=tasks_of(spec),
            is_demo=spec.is_demo,
            context=context_of(spec),
            image_tokens=most_image_tokens(spec),
        )
        catalog.by_name.update(dict.fromkeys(names_of(spec), model))
    for row in Runner.objects.filter(state=RunnerState.LIVE).exclude(channel=""):
        live = LiveRunner(row.public_id, row.pk, row.queue_id, row.channel, row.outstanding)
        catalog.runners.setdefault(row.queue_id, []).append(live)
    return catalog


_contexts: dict[tuple[str, str], int] = {}  # by source and revision: folders do not change
_lock = threading.Lock()
_catalog = Catalog()


def catalog() -> Catalog:
    """The catalog, at most a second old."""
    global _catalog
    with _lock:
        if time.monotonic() - _catalog.read_at > MEMORY_SECONDS:
            _catalog = read_catalog()
        return _catalog


def catalog_in_memory() -> Catalog | None:
    """The catalog without touching the database, or None when it is older than a second."""
    found = _catalog
    return found if time.monotonic() - found.read_at <= MEMORY_SECONDS else None


def find_model(found: Catalog, name: str, *, task: str) -> Model:
    """The enabled model of that name that serves the Task. Raises ModelNotFound."""
    model = found.by_name.get(name.lower())
    if model is None:
        raise ModelNotFound(name)
    if task not in model.tasks:
        raise ModelNotFound(name, task=task)
    return model


def task_contract(*, model: str, task: str, payload: dict[str, Any]) -> TaskContract:
    """What `POST /api/jobs` needs of a model (settings.JOB_TASKS).

    Raises ModelNotFound, InvalidRequest for an unknown task, or DRF's ValidationError.
    """
    check = TASK_CHECKS.get(task)
    if check is None:
        raise InvalidRequest(f"There is no task {task[:60]!r}", code="invalid_value", param="task")
    found = find_model(catalog(), model, task=task)
    if not isinstance(payload.get("model"), str):
        payload = {**payload, "model": model}
    checked = import_string(check)(payload)
    ceiling = partial(body_ceiling, model=found, task=task, body=checked)
    return TaskContract(
        found.model_id,
        found.queue_id,
        task,
        checked,
        ceiling,
        makes_files=task in MEDIA_TASKS,
        is_demo=found.is_demo,
    )


def enabled_specs() -> list[ModelSpec]:
    """Models users may see, by name."""
    return list(ModelSpec.objects.filter(enabled=True).order_by("model_id"))
