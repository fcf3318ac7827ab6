"""The Runner of models that write down what they hear: Whisper and its kind.

A sound is cut at silence into windows as long as the model hears at once; windows of all requests
wait in one line and are heard together. `options`: rows (windows of a step), longest_gap (seconds
of silence that may lie within a window), no_speech (how sure of silence the model must be for
nothing to be written), and those of BatchRunner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import WhisperConfig
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from inference.contracts import transcription, translation
from inference.contracts.transcription import TranscriptionInput
from inference.runners.base import InvalidInput, LoadError, Memory, RunnerConfig, Units
from inference.runners.batch_engine import STEP_SECONDS, BatchEngine, BatchLimits
from inference.runners.batch_line import BatchRequest, Item
from inference.runners.batch_runner import BatchRunner
from inference.runners.device import float_type, use_device
from inference.runners.listener import Heard, Listener, Wish, read_config
from inference.runners.loading import held_bytes
from inference.runners.model_folder import check_folder, weight_bytes
from inference.runners.silence import Window, windows

RATE = 16_000
CPU_ROWS, GPU_ROWS = 8, 32
LONGEST_GAP = 3.0
WAITING_WINDOWS = 20_000
DIGITS = 3  # of seconds


@dataclass(slots=True)
class Piece:
    """A window in the line; every one costs the same, however long it is."""

    wish: Wish
    cost: int

    def __len__(self) -> int:
        """The encoder's positions."""
        return self.cost


@dataclass(slots=True, eq=False)
class SoundRequest(BatchRequest):
    """All windows of one request; what is charged is the sound."""

    duration_ms: int = 0

    @property
    def total_tokens(self) -> int:
        """Nothing is read."""
        return 0

    @property
    def units(self) -> Units:
        """The part of the sound that was heard so far, silence between windows included."""
        heard = len(self.items) - self.left
        return Units(
            audio_ms=round(self.duration_ms * heard / len(self.items)),
            compute_ms=round(self.compute_s * 1000),
        )


class TranscriptionRunner(BatchRunner):
    """See the module's text."""

    tasks = frozenset({transcription.TASK, translation.TASK})
    has_scores = False

    def __init__(self, config: RunnerConfig) -> None:
        """Nothing is read before `load`."""
        super().__init__(config)
        self._listener: Listener | None = None

    @classmethod
    def estimate(cls, config: RunnerConfig) -> Memory:
        """See Runner."""
        dtype = float_type(config.device, config.dtype)
        weights = weight_bytes(check_folder(config.path), dtype.itemsize)
        return Memory(weights, 0, workspace(read_config(config), rows_of(config), dtype))

    def describe(self) -> str:
        """See Runner."""
        return f"batch, windows of {self._ears.seconds:.0f} s"

    def unload(self) -> None:
        """See Runner."""
        self._listener = None
        super().unload()

    def prepare(
        self, request_id: str, task: str, request: dict[str, Any], *, salt: str
    ) -> BatchRequest:
        """See BatchRunner; `request` has the samples as well."""
        wish = TranscriptionInput.from_dict(request)
        samples = request["samples"]
        ears = self._ears
        language = self._language(wish.language)
        if task == translation.TASK and not ears.languages:
            raise InvalidInput("This model does not translate", param="model")
        found = windows(
            samples,
            rate=RATE,
            seconds=ears.seconds,
            longest_gap=float(self._config.options.get("longest_gap", LONGEST_GAP)),
        )

        def finish(values: list[Any]) -> dict[str, Any]:
            return transcription.packed(transcript(found, values, len(samples), language))

        batch = SoundRequest(request_id, salt, finish)
        batch.item_name = "windows"
        batch.duration_ms = round(len(samples) * 1000 / RATE)
        prompt = self._prompt(wish.prompt)
        for window in found or [Window(0, 0)]:
            heard = Wish(
                samples[window.start : window.end],
                language,
                task == translation.TASK,
                prompt,
                wish.temperature,
                wish.words,
            )
            batch.add(Piece(heard, ears.config.max_source_positions))
        if wish.stream:
            batch.tell = Teller()
        return batch

    def compute(self, items: Sequence[Item]) -> Sequence[Any]:
        """See BatchRunner. Of no samples nothing is heard."""
        wishes = [item.tokens.wish for item in items]
        heard = iter(self._ears.hear([wish for wish in wishes if len(wish.samples)]))
        return [
            next(heard) if len(wish.samples) else Heard(wish.language or "en") for wish in wishes
        ]

    def _load(self, on_progress: Callable[[float, str], None]) -> Memory:
        config = self._config
        on_progress(0.1, "weights")
        self._listener = ears = Listener(config)
        on_progress(0.8, "first step")
        rows = rows_of(config)
        hiss = np.random.default_rng(0).integers(-99, 99, RATE).astype("<i2")
        ears.hear([Wish(hiss, temperature=0.0)] * (1 if ears.device.type == "cpu" else rows))
        self._memory = Memory(held_bytes(ears.model), 0, workspace(ears.config, rows, ears.dtype))
        cost = ears.config.max_source_positions
        options = config.options
        self._engine = BatchEngine(
            self.compute,
            limits=BatchLimits(
                waiting_tokens=int(options.get("waiting_tokens", WAITING_WINDOWS * cost)),
                step_tokens=rows * cost,
                rows=rows,
                step_seconds=float(options.get("step_seconds", STEP_SECONDS)),
            ),
            on_start=lambda: use_device(ears.device),
            on_fatal=self._on_fatal,
        )
        on_progress(1.0, "ready")
        return self._memory

    @property
    def _ears(self) -> Listener:
        if self._listener is None:
            raise LoadError("the model is not loaded")
        return self._listener

    def _language(self, wished: str | None) -> str | None:
        """The code of the language. Raises InvalidInput where the model does not know it."""
        known = self._ears.languages
        if wished is None or not known:
            return None
        lower = wished.lower().replace("_", "-")
        code = TO_LANGUAGE_CODE.get(lower) or lower.partition("-")[0]
        if code not in known:
            some = ", ".join(known[:20]) + (" and more" if len(known) > 20 else "")
            message = f"The model does not know {wished[:30]!r}; it knows {some}"
            raise InvalidInput(message, param="language")
        return code

    def _prompt(self, prompt: str | None) -> tuple[int, ...]:
        """The last tokens of it, as the model reads them."""
        if not prompt or not prompt.strip():
            return ()
        text = " " + prompt.strip()
        tokens = self._ears.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        pieces = [token for token in tokens if token < self._ears.first_mark]
        return tuple(pieces[-self._ears.longest_prompt :])


class Teller:
    """What a caller reads of one window after the other."""

    def __init__(self) -> None:
        self._has_begun = False

    def __call__(self, heard: Heard) -> str:
        """Its text, with a space before it where something came before."""
        text = heard.text
        if not text:
            return ""
        space = " " if self._has_begun else ""
        self._has_begun = True
        return space + text


def transcript(
    found: list[Window], values: list[Heard], samples: int, language: str | None
) -> dict[str, Any]:
    """All windows as one: times from the beginning of the sound."""
    segments: list[dict[str, Any]] = []
    words: list[dict[str, Any]] = []
    for window, heard in zip(found, values, strict=False):
        begin = window.start / RATE
        for segment in heard.segments:
            segments.append(
                {
                    "id": len(segments),
                    "seek": round(begin * 100),
                    "start": round(begin + segment.start, DIGITS),
                    "end": round(begin + segment.end, DIGITS),
                    "text": segment.text,
                    "tokens": segment.tokens,
                    "temperature": heard.temperature,
                    "avg_logprob": round(heard.logprob, 4),
                    "compression_ratio": round(heard.compression, 4),
                    "no_speech_prob": round(heard.no_speech, 4),
                }
            )
        for word in heard.words:
            times = {name: round(begin + value, DIGITS) for name, value in (("start", word.start), ("end", word.end))}  # fmt: skip
            words.append({"word": word.word, **times})
    return {
        "language": language or _spoken(values),
        "duration": round(samples / RATE, DIGITS),
        "text": transcription.joined(heard.text for heard in values),
        "segments": segments,
        "words": words,
    }


def _spoken(values: list[Heard]) -> str:
    """The language that most text is in."""
    counts: dict[str, int] = {}
    for heard in values:
        counts[heard.language] = counts.get(heard.language, 0) + len(heard.text) + 1
    return max(counts, key=counts.__getitem__)


def rows_of(config: RunnerConfig) -> int:
    """Windows of the largest step."""
    return int(config.options.get("rows", CPU_ROWS if config.device == "cpu" else GPU_ROWS))


def workspace(config: WhisperConfig, rows: int, dtype: torch.dtype) -> int:
    """Bytes of a step at its largest: a layer of the encoder, the decoder's caches, the logits."""
    seen, written, width = config.max_source_positions, config.max_target_positions, config.d_model
    layer = seen * (6 * width + 2 * config.encoder_ffn_dim)
    caches = 2 * config.decoder_layers * (seen + written) * width
    return rows * ((layer + caches) * dtype.itemsize + 4 * 3 * config.vocab_size)
