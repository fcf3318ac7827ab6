"""Speech by a neural model of transformers (VITS, and so MMS-TTS) from a local folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, VitsModel
from transformers.utils.logging import disable_progress_bar

from inference.contracts.voices import Voice, neural_voices
from inference.runners.base import InvalidInput, LoadError, RunnerConfig
from inference.runners.device import use_device
from inference.runners.model_folder import check_folder, weight_bytes

FLOAT_BYTES = 4  # the flow and the decoder lose audibly in half precision
LOUDEST = 32_767
FAMILIES = {"vits"}


def weights(path: str) -> int:
    """Bytes of the model's tensors. Raises LoadError."""
    return weight_bytes(check_folder(path), FLOAT_BYTES)


class NeuralVoice:
    """See runners.speech.Speaker."""

    def __init__(self, config: RunnerConfig) -> None:
        """Load and check. Raises LoadError."""
        folder = check_folder(config.path)
        disable_progress_bar()
        self._device = torch.device(config.device)
        use_device(self._device)
        try:
            settings = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            if settings.model_type not in FAMILIES:
                raise LoadError(f"speech models of the kind {settings.model_type!r} are not known")  # noqa: TRY301
            self._tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            model = VitsModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except LoadError:
            raise
        except Exception as error:  # transformers raises many kinds here
            raise LoadError(f"the voice cannot be loaded: {error}"[:500]) from error
        self._model = model.to(self._device).eval()
        self._speakers = max(1, settings.num_speakers)
        self.name = settings.model_type
        self.sample_rate = int(settings.sampling_rate)
        voices = neural_voices(speakers=self._speakers, language=language_of(folder))
        self.voices = {voice.id: voice for voice in voices}

    def check(self, voice: Voice, language: str | None) -> None:
        """See Speaker: it speaks the one language it was trained on."""
        if language is not None and language.partition("-")[0] != voice.language.partition("-")[0]:
            message = f"The model speaks {voice.language} only"
            raise InvalidInput(message, param="language")

    def tempo(self, speed: float) -> float:
        """See Speaker: the model speaks at one speed."""
        return speed

    def say(
        self,
        text: str,
        voice: Voice,
        *,
        language: str | None,
        speed: float,
        hear: Callable[[bytes], bool],
    ) -> None:
        """See Speaker. Text of which the model knows no letter is passed over."""
        del language, speed
        tokens = self._tokenizer(text, return_tensors="pt")
        if tokens["input_ids"].shape[-1] < 2:
            return
        with torch.inference_mode():
            found = self._model(**tokens.to(self._device), **self._speaker(voice))
        length = int(found.sequence_lengths[0])
        wave = found.waveform[0, :length].float().nan_to_num().clamp(-1, 1)
        hear((wave * LOUDEST).to(torch.int16).cpu().numpy().tobytes())

    def _speaker(self, voice: Voice) -> dict[str, Any]:
        return {"speaker_id": voice.speaker} if self._speakers > 1 else {}


def language_of(folder: Path) -> str:
    """The language that the model's tokenizer names, English where it names none."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return str(config.get("language") or "en")[:16]
    except (OSError, ValueError, AttributeError):
        return "en"
