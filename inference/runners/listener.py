"""A Whisper model that hears many windows at once, each with a language, task and prompt of its own.

The weights, the spectra, the tokenizer and the settings are those that transformers' classes read
from a folder; the loop is here, because `generate` holds one prompt and one task for all rows of a
batch. Rows with longer beginnings are fed those while others already write.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from inference.runners.alignment import Word, align
from inference.runners.base import LoadError, RunnerConfig
from inference.runners.device import float_type, use_device
from inference.runners.model_folder import check_folder

LADDER = (0.0, 0.4, 0.8)  # temperatures, each tried where the one before gave nothing sensible
MOST_COMPRESSED = 2.4
LEAST_LOGPROB = -1.0
NO_SPEECH = 0.6
TICK = 0.02
FULL_SCALE = 32768


@dataclass(frozen=True, slots=True)
class Wish:
    """One window and what is to be done with it. `language` None: found out."""

    samples: np.ndarray
    language: str | None = None
    translates: bool = False
    prompt: tuple[int, ...] = ()
    temperature: float | None = None
    words: bool = False


@dataclass(slots=True)
class Segment:
    """Text between two times, in seconds of its window."""

    start: float
    end: float
    text: str
    tokens: list[int]


@dataclass(slots=True)
class Heard:
    """What was heard in a window."""

    language: str
    no_speech: float = 0.0
    temperature: float = 0.0
    logprob: float = 0.0
    """Mean of the tokens'."""
    compression: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(text for text in (one.text.strip() for one in self.segments) if text)


@dataclass(slots=True)
class _Row:
    """One window being written down."""

    wish: Wish
    language: str | None
    prefix: list[int]
    no_speech: float
    written: list[int] = field(default_factory=list)
    total: float = 0.0
    temperature: float = 0.0
    is_done: bool = False


class Listener:
    """A loaded model. `hear` is for the engine's thread."""

    def __init__(self, config: RunnerConfig) -> None:
        """Load it. Raises LoadError, or whatever transformers makes of a broken folder."""
        folder = check_folder(config.path)
        self.config = read_config(config)
        self.dtype = float_type(config.device, config.dtype)
        self.device = torch.device(config.device)
        use_device(self.device)
        disable_progress_bar()
        set_verbosity_error()
        processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
        self._extract: WhisperFeatureExtractor = processor.feature_extractor
        self.tokenizer: WhisperTokenizer = processor.tokenizer
        model, report = WhisperForConditionalGeneration.from_pretrained(
            folder,
            dtype=self.dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        if missing := sorted(report["missing_keys"]):
            raise LoadError(f"weights are missing: {', '.join(missing)}"[:500])
        self.model = model.to(self.device).eval().requires_grad_(False)
        self._marks = Marks.of(model.generation_config)
        self.seconds = self.config.max_source_positions * TICK
        if round(self._extract.n_samples / self._extract.hop_length) != 2 * self.config.max_source_positions:  # fmt: skip
            raise LoadError("the spectra have another window than config.json")
        self._silent_above = float(config.options.get("no_speech", 1.0))

    @property
    def languages(self) -> list[str]:
        """Codes of those it knows."""
        return list(self._marks.languages)

    @property
    def first_mark(self) -> int:
        """Tokens from here on are marks and times, none of them a piece of text."""
        return self._marks.end

    @property
    def longest_prompt(self) -> int:
        """Tokens of a prompt that are read, the last ones."""
        return self.config.max_target_positions // 2 - 1

    def hear(self, wishes: Sequence[Wish]) -> list[Heard | None]:
        """What is in each window; None where the numbers were invalid."""
        with torch.inference_mode():
            states = self._states([wish.samples for wish in wishes])
            fine = states.isfinite().flatten(1).all(1).tolist()
            rows = self._begun(wishes, states)
            self._write_all(rows, states)
            found = [self._heard(row) for row in rows]
            for index, row in enumerate(rows):
                if row.wish.words and found[index].segments:
                    found[index].words = self._words(row, found[index], states[index : index + 1])
        return [one if ok else None for one, ok in zip(found, fine, strict=True)]

    def _states(self, sounds: Sequence[np.ndarray]) -> torch.Tensor:
        waves = [np.asarray(sound, np.float32) / FULL_SCALE for sound in sounds]
        spectra = self._extract(
            waves, sampling_rate=self._extract.sampling_rate, return_tensors="pt"
        ).input_features
        return self.model.model.encoder(spectra.to(self.device, self.dtype)).last_hidden_state

    def _begun(self, wishes: Sequence[Wish], states: torch.Tensor) -> list[_Row]:
        """Rows with their language, told or found out, and how likely there is no speech."""
        marks = self._marks
        start = torch.full((len(wishes), 1), marks.start, device=self.device)
        logits = self._logits(start, states, None)[0]
        silence = logits.softmax(-1)[:, marks.no_speech].tolist()
        best = [None] * len(wishes)
        if marks.languages:
            codes = list(marks.languages)
            of_languages = logits[:, list(marks.languages.values())]
            best = [codes[index] for index in of_languages.argmax(-1).tolist()]
        rows = []
        for wish, guess, quiet in zip(wishes, best, silence, strict=True):
            language = wish.language or guess
            prefix = [marks.before, *wish.prompt] if wish.prompt else []
            prefix.append(marks.start)
            if marks.languages:
                task = marks.translate if wish.translates else marks.transcribe
                prefix += [marks.languages[language or "en"], task]
            rows.append(_Row(wish, language, prefix, quiet))
        return rows

    def _write_all(self, rows: list[_Row], states: torch.Tensor) -> None:
        """Write rows down; those that came out senseless again, with more chance."""
        left = list(range(len(rows)))
        for step, temperature in enumerate(LADDER):
            for index in left:
                row = rows[index]
                wished = row.wish.temperature
                row.temperature = temperature if wished is None else wished
                row.written, row.total, row.is_done = [], 0.0, False
            self._write([rows[index] for index in left], states[left])
            last = step + 1 == len(LADDER)
            left = [index for index in left if not last and self._is_senseless(rows[index])]
            if not left:
                return

    def _is_senseless(self, row: _Row) -> bool:
        if row.wish.temperature is not None or row.no_speech > NO_SPEECH:
            return False
        text = self.tokenizer.decode(row.written, skip_special_tokens=True)
        return compression(text) > MOST_COMPRESSED or _mean(row) < LEAST_LOGPROB

    def _write(self, rows: list[_Row], states: torch.Tensor) -> None:
        """Token by token, until all rows have ended."""
        at = min(len(row.prefix) for row in rows)
        fed = torch.tensor([row.prefix[:at] for row in rows], device=self.device)
        cache = None
        while True:
            logits, cache = self._logits(fed, states, cache)
            following = []
            for row, scores in zip(rows, logits, strict=True):
                following.append(self._next(row, scores, at))
            at += 1
            if all(row.is_done for row in rows) or at >= self.config.max_target_positions:
                return
            fed = torch.tensor(following, device=self.device).unsqueeze(1)

    def _logits(self, ids: torch.Tensor, states: torch.Tensor, cache: Any) -> tuple[Any, Any]:
        out = self.model.model.decoder(
            input_ids=ids, encoder_hidden_states=states, past_key_values=cache, use_cache=True
        )
        return self.model.proj_out(out.last_hidden_state[:, -1]).float(), out.past_key_values

    def _next(self, row: _Row, scores: torch.Tensor, at: int) -> int:
        if at < len(row.prefix):
            return row.prefix[at]
        if row.is_done:
            return self._marks.end
        logprobs = self._marks.ruled(scores, row.written).log_softmax(-1)
        if row.temperature > 0:
            token = int(torch.multinomial((logprobs / row.temperature).softmax(-1), 1))
        else:
            token = int(logprobs.argmax())
        row.total += float(logprobs[token])
        row.written.append(token)
        row.is_done = token == self._marks.end
        return token

    def _heard(self, row: _Row) -> Heard:
        logprob = _mean(row)
        found = Heard(row.language or "en", row.no_speech, row.temperature, logprob)
        is_silent = row.no_speech > NO_SPEECH and logprob < LEAST_LOGPROB
        if is_silent or row.no_speech > self._silent_above:
            return found
        length = len(row.wish.samples) / self._extract.sampling_rate
        found.segments = self._segments(row.written, length)
        found.compression = compression(found.text)
        return found

    def _segments(self, tokens: list[int], length: float) -> list[Segment]:
        """Texts between their times; one that has no end lasts as long as the window."""
        first = self._marks.first_time
        found: list[Segment] = []
        start, text = 0.0, []
        for token in [*tokens, self._marks.end]:
            is_time = token >= first
            if not is_time and token != self._marks.end:
                text.append(token)
                continue
            time = min(length, (token - first) * TICK) if is_time else length
            words = self.tokenizer.decode(text, skip_special_tokens=True)
            if words.strip():
                found.append(Segment(min(start, time), time, words, text))
            start, text = time, []
        return found

    def _words(self, row: _Row, heard: Heard, states: torch.Tensor) -> list[Word]:
        text = [token for segment in heard.segments for token in segment.tokens]
        before = [token for token in row.prefix if token >= self._marks.end][-3:]
        length = len(row.wish.samples) / self._extract.sampling_rate
        return align(
            self.model,
            self.tokenizer,
            before=[*before, self._marks.no_times],
            text=text,
            end=self._marks.end,
            states=states,
            positions=max(1, round(length / TICK)),
            language=heard.language,
        )


@dataclass(frozen=True, slots=True)
class Marks:
    """Token ids with a meaning, and the rules of what may follow what."""

    start: int
    end: int
    before: int
    no_times: int
    languages: dict[str, int]
    transcribe: int
    translate: int
    first_latest: int | None
    never: tuple[int, ...]
    never_first: tuple[int, ...]

    @classmethod
    def of(cls, config: GenerationConfig) -> Marks:
        """As generation_config.json names them. Raises LoadError where it does not."""
        try:
            languages = dict(getattr(config, "lang_to_id", None) or {})
            tasks = dict(getattr(config, "task_to_id", None) or {})
            no_times = config.no_timestamps_token_id
            end = config.eos_token_id
            return cls(
                start=config.decoder_start_token_id,
                end=end[0] if isinstance(end, list) else end,
                before=getattr(config, "prev_sot_token_id", None) or no_times - 2,
                no_times=no_times,
                languages={name.strip("<|>"): token for name, token in languages.items()},
                transcribe=tasks.get("transcribe", -1),
                translate=tasks.get("translate", -1),
                first_latest=getattr(config, "max_initial_timestamp_index", None),
                never=tuple(config.suppress_tokens or ()),
                never_first=tuple(config.begin_suppress_tokens or ()),
            )
        except (AttributeError, TypeError) as error:
            raise LoadError(f"generation_config.json is not Whisper's: {error}") from error

    @property
    def no_speech(self) -> int:
        """Said where there is nothing to hear."""
        return self.no_times - 1

    @property
    def first_time(self) -> int:
        """The time 0.00; all others follow."""
        return self.no_times + 1

    def ruled(self, scores: torch.Tensor, written: list[int]) -> torch.Tensor:
        """Scores without what may not come next: times stand in pairs and never go back."""
        scores = scores.clone()
        none = -torch.inf
        first = self.first_time
        if self.never:
            scores[list(self.never)] = none
        scores[self.end + 1 : first] = none  # no mark is ever written
        if not written:
            scores[list(self.never_first)] = none
            scores[:first] = none
            if self.first_latest is not None:
                scores[first + self.first_latest + 1 :] = none
            return scores
        times = [token for token in written if token >= first]
        was_time = written[-1] >= first
        is_begin = was_time and (len(written) < 2 or written[-2] >= first)
        if is_begin:
            scores[first:] = none
            scores[self.end] = none if len(written) == 1 else scores[self.end]
        elif was_time:
            scores[: self.end] = none
        if times:
            scores[first : times[-1] + (0 if was_time and not is_begin else 1)] = none
        logprobs = scores.log_softmax(-1)
        if logprobs[first:].logsumexp(-1) > logprobs[:first].max():
            scores[:first] = none
        return scores


def read_config(config: RunnerConfig) -> WhisperConfig:
    """The model's configuration. Raises LoadError where it is broken or no Whisper's."""
    folder = check_folder(config.path)
    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds here
        raise LoadError(f"config.json is not usable: {error}"[:500]) from error
    if not isinstance(found, WhisperConfig):
        raise LoadError(f"a model of the type {found.model_type!r} cannot transcribe")
    return found


def compression(text: str) -> float:
    """How much shorter the text gets; much, where it repeats itself."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def _mean(row: _Row) -> float:
    return row.total / max(1, len(row.written))
