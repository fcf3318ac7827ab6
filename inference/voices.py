"""The voices that models serve, and the previews in which each says how it sounds.

A preview is made by the model's Runner when it is loaded, once per voice and source, and kept with
the outputs under a name that any process can work out. Asking for one that is not there loads the
model.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol, runtime_checkable

from django.conf import settings

from casola_site.core import outputs
from inference import estimates
from inference.contracts import speech
from inference.contracts.voices import Voice, espeak_voices, neural_voices
from inference.models import ModelSpec

logger = logging.getLogger(__name__)

ESPEAK = "espeak-ng"
PREVIEWS = "previews"
MADE_BY = "1"  # another number has all previews made anew


@runtime_checkable
class Speaks(Protocol):
    """A Runner whose voices can be heard."""

    voice_ids: list[str]

    def preview(self, voice_id: str) -> bytes:
        """An mp3."""


@dataclass(frozen=True, slots=True)
class VoiceModel:
    """A model and its voices."""

    spec: ModelSpec
    voices: tuple[Voice, ...]


def voice_models() -> list[VoiceModel]:
    """All enabled models that speak, by name."""
    specs = ModelSpec.objects.filter(enabled=True).order_by("model_id")
    return [VoiceModel(spec, voices_of(spec)) for spec in specs if speech.TASK in spec.tasks]


def voices_of(spec: ModelSpec) -> tuple[Voice, ...]:
    """Its voices, from its folder; none where that is not on this host."""
    if spec.source == ESPEAK:
        return espeak_voices()
    folder = estimates.find_folder(
        spec.source,
        base=Path(settings.BASE_DIR),
        hub=estimates.hub_folder(),
        revision=spec.revision,
    )
    if folder is None:
        return ()
    speakers = _read(folder / "config.json").get("num_speakers")
    language = _read(folder / "tokenizer_config.json").get("language")
    return neural_voices(
        speakers=max(1, speakers if isinstance(speakers, int) else 1),
        language=language[:16] if isinstance(language, str) else "en",
    )


def _read(file: Path) -> dict[str, object]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def preview_name(spec: ModelSpec, voice_id: str) -> str:
    """Where a voice's preview lies."""
    what = f"{MADE_BY}\n{spec.engine}\n{spec.source}\n{spec.revision}"
    digest = hashlib.sha256(what.encode()).hexdigest()[:8]
    return f"{PREVIEWS}/{spec.public_id}-{digest}/{voice_id}.mp3"


def spec_of_preview(name: str) -> str:
    """The spec_id in a preview's name."""
    return name.split("/")[1].rpartition("-")[0]


def make_previews(spec: ModelSpec, runner: object) -> None:
    """Make what is missing; a Runner that does not speak is passed over."""
    if not isinstance(runner, Speaks):
        return
    try:
        for voice_id in runner.voice_ids:
            name = preview_name(spec, voice_id)
            if not outputs.exists(name):
                outputs.write(name, BytesIO(runner.preview(voice_id)))
    except Exception:  # the model works without
        logger.exception("the previews of %s cannot be made", spec.model_id)
