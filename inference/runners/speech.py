"""Text to speech: one thread speaks for all requests, a piece of each in turn.

Two speakers stand behind it: espeak-ng, which needs no weights, and neural models of transformers.
Neither may be used by two threads at a time, so requests share it piece by piece (a few sentences):
nobody waits for another's whole text. A request is over when its last piece is encoded.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from inference.contracts.speech import (
    CONTENT_TYPES,
    LONGEST_SECONDS,
    MAX_CHARACTERS,
    TASK,
    SpeechInput,
)
from inference.contracts.voices import Voice, preview_text
from inference.runners.base import (
    Busy,
    Chunk,
    Emit,
    Ended,
    Event,
    Failed,
    InvalidInput,
    Media,
    Memory,
    RunnerConfig,
    Started,
    Stats,
    Units,
)
from inference.runners.sound import Encoder
from inference.runners.speech_text import Piece, pieces

logger = logging.getLogger(__name__)

ESPEAK = "espeak-ng"
MIB = 1024 * 1024
OWN_BYTES = 48 * MIB  # libraries and buffers
IN_MEMORY = 256 * 1024
MAX_WAITING = 1_000
SILENT = "The input holds nothing that can be spoken"


class Speaker(Protocol):
    """What can speak. Used by one thread at a time."""

    name: str
    sample_rate: int
    voices: dict[str, Voice]

    def check(self, voice: Voice, language: str | None) -> None:
        """Raises InvalidInput for a language that this voice cannot speak."""

    def tempo(self, speed: float) -> float:
        """How much faster than `say` makes it the sound must be played to have that speed."""

    def say(
        self,
        text: str,
        voice: Voice,
        *,
        language: str | None,
        speed: float,
        hear: Callable[[bytes], bool],
    ) -> None:
        """Speak; `hear` gets samples (mono, 16 bits) and says whether to go on."""


@dataclass(slots=True, eq=False)
class Utterance:
    """One request under way."""

    request_id: str
    request: SpeechInput
    voice: Voice
    left: deque[Piece]
    encoder: Encoder | None = None
    content: IO[bytes] | None = None
    """The file it is written to, where it is not streamed."""
    characters: int = 0
    is_audible: bool = False
    spent: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def units(self) -> Units:
        """What it has used so far."""
        return Units(
            characters=self.characters,
            audio_ms=self.encoder.milliseconds if self.encoder else 0,
            compute_ms=round(self.spent * 1000),
        )


class SpeechRunner:
    """See the module's text."""

    tasks = frozenset({TASK})
    takes_images = False

    def __init__(self, config: RunnerConfig) -> None:
        """`config.path` is espeak-ng or a folder."""
        self._config = config
        self._emit: Emit = lambda events: None
        self._wake = threading.Condition()
        self._known: dict[str, Utterance] = {}
        self._line: deque[Utterance] = deque()
        self._speaking: deque[Utterance] = deque()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._engine = threading.Lock()
        self.speaker: Speaker

    @classmethod
    def estimate(cls, config: RunnerConfig) -> Memory:
        """See Runner."""
        if config.path == ESPEAK:
            return Memory(weights=0, cache=0, workspace=OWN_BYTES)
        from inference.runners.neural_voice import weights  # noqa: PLC0415 - heavy

        return Memory(weights=weights(config.path), cache=0, workspace=OWN_BYTES)

    def load(self, on_progress: Callable[[float, str], None]) -> Memory:
        """See Runner."""
        on_progress(0.1, "loading")
        self.speaker = _speaker(self._config)
        on_progress(0.8, "warming up")
        self.preview(next(iter(self.speaker.voices)))
        on_progress(1.0, "ready")
        return self.estimate(self._config)

    def describe(self) -> str:
        """See Runner."""
        return self.speaker.name

    def on_fatal(self, callback: Callable[[str], None]) -> None:
        """See Runner. This engine never gives up."""

    def start(self, emit: Emit) -> None:
        """See Runner."""
        self._emit = emit
        self._thread = threading.Thread(target=self._run, name="speech-engine", daemon=True)
        self._thread.start()

    def submit(self, request_id: str, task: str, request: dict[str, Any], *, salt: str) -> None:
        """See Runner."""
        del salt
        if task != TASK:
            raise InvalidInput(f"This model does not do {task}", param="model")
        utterance = self._utterance(request_id, SpeechInput.from_dict(request))
        with self._wake:
            if request_id in self._known:
                raise ValueError(f"request {request_id} is already running")
            if self._stopping or len(self._line) >= MAX_WAITING:
                raise Busy(retry_after=1)
            self._known[request_id] = utterance
            self._line.append(utterance)
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """See Runner."""
        with self._wake:
            if (utterance := self._known.get(request_id)) is not None:
                utterance.cancelled.set()

    def stats(self) -> Stats:
        """See Runner."""
        return Stats(active=len(self._speaking), waiting=len(self._line), memory=OWN_BYTES)

    def unload(self) -> None:
        """See Runner."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    @property
    def voice_ids(self) -> list[str]:
        """All that `preview` takes."""
        return list(self.speaker.voices)

    def preview(self, voice_id: str) -> bytes:
        """An mp3 in which the voice says how it sounds; any thread."""
        voice = self.speaker.voices[voice_id]
        with tempfile.TemporaryFile() as file:
            encoder = Encoder(
                "mp3", rate=self.speaker.sample_rate, semitones=voice.shift, target=file
            )
            with self._engine:
                self.speaker.say(
                    preview_text(voice),
                    voice,
                    language=None,
                    speed=1.0,
                    hear=lambda samples: encoder.write(samples) is not None,
                )
            encoder.finish()
            file.seek(0)
            return file.read()

    def _utterance(self, request_id: str, request: SpeechInput) -> Utterance:
        voice = self.speaker.voices.get(request.voice.lower())
        if voice is None:
            message = f"The model has no voice {request.voice[:64]!r}"
            raise InvalidInput(message, param="voice")
        if request.format not in CONTENT_TYPES:
            raise InvalidInput("There is no such format", param="response_format")
        if len(request.text) > MAX_CHARACTERS:
            message = f"The input must have at most {MAX_CHARACTERS} characters"
            raise InvalidInput(message, param="input")
        self.speaker.check(voice, request.language)
        left = deque(pieces(request.text))
        if not any(piece.text for piece in left):
            raise InvalidInput(SILENT, param="input")
        return Utterance(request_id, request, voice, left)

    # -- the engine's thread ------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._line or self._speaking or self._stopping):
                    self._wake.wait()
                if self._stopping:
                    return
                self._line, ended = _without_cancelled(self._line)
                self._speaking, more = _without_cancelled(self._speaking)
                while self._line and len(self._speaking) < self._config.slots:
                    self._speaking.append(self._line.popleft())
            for utterance in [*ended, *more]:
                self._end(utterance, [self._cancelled(utterance)])
            if not self._speaking:
                continue
            utterance = self._speaking.popleft()
            try:
                events = self._step(utterance)
            except InvalidInput as error:
                events = [self._failed(utterance, error.code, str(error), error.param)]
            except Exception:  # one request must not end the others
                logger.exception("a text could not be spoken")
                message = "The model runner failed on this request"
                events = [self._failed(utterance, "worker_error", message)]
            if isinstance(events[-1], Ended | Failed):
                self._end(utterance, events)
            else:
                self._speaking.append(utterance)
                self._emit(events)

    def _end(self, utterance: Utterance, events: list[Event]) -> None:
        """Say its last word; a file that nobody gets is closed."""
        if utterance.content is not None and not getattr(events[-1], "media", ()):
            utterance.content.close()
        with self._wake:
            del self._known[utterance.request_id]
        self._emit(events)

    def _step(self, utterance: Utterance) -> list[Event]:
        """Speak its next piece."""
        events: list[Event] = []
        if utterance.encoder is None:
            self._begin(utterance)
            events.append(Started(utterance.request_id, 0))
        began = time.perf_counter()
        data = self._speak(utterance, utterance.left[0])
        utterance.spent += time.perf_counter() - began
        if utterance.cancelled.is_set():
            return [*events, self._cancelled(utterance)]
        utterance.characters += utterance.left.popleft().characters
        if utterance.left:
            return [*events, Chunk(utterance.request_id, data, utterance.units)]
        return [*events, *self._finish(utterance, data)]

    def _begin(self, utterance: Utterance) -> None:
        request = utterance.request
        if not request.stream:
            # Closed by whoever takes it, or by _end.
            utterance.content = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
        utterance.encoder = Encoder(
            request.format,
            rate=self.speaker.sample_rate,
            tempo=self.speaker.tempo(request.speed),
            semitones=utterance.voice.shift,
            target=utterance.content,
        )

    def _speak(self, utterance: Utterance, piece: Piece) -> bytes:
        """The bytes that became ready. Raises InvalidInput where it becomes too long."""
        out: list[bytes] = []
        encoder = utterance.encoder
        assert encoder is not None  # noqa: S101 - it was begun

        def hear(samples: bytes) -> bool:
            out.append(encoder.write(samples))
            utterance.is_audible = utterance.is_audible or any(samples)
            is_long = encoder.milliseconds > LONGEST_SECONDS * 1000
            return not (is_long or utterance.cancelled.is_set())

        if piece.text:
            request = utterance.request
            with self._engine:
                self.speaker.say(
                    piece.text,
                    utterance.voice,
                    language=request.language,
                    speed=request.speed,
                    hear=hear,
                )
        if encoder.milliseconds > LONGEST_SECONDS * 1000:
            message = f"The speech would be longer than {LONGEST_SECONDS // 60} minutes"
            raise InvalidInput(message, param="input")
        return b"".join(out)

    def _finish(self, utterance: Utterance, data: bytes) -> list[Event]:
        assert utterance.encoder is not None  # noqa: S101 - it was begun
        if not utterance.is_audible:
            raise InvalidInput(SILENT, param="input")
        began = time.perf_counter()
        data += utterance.encoder.finish()
        utterance.spent += time.perf_counter() - began
        units = utterance.units
        ended = Ended(utterance.request_id, "stop", units)
        if utterance.content is None:
            return [Chunk(utterance.request_id, data, units), ended]
        utterance.content.seek(0)
        media = Media(utterance.content, utterance.request.format)
        return [Ended(utterance.request_id, "stop", units, media=(media,))]

    def _failed(
        self, utterance: Utterance, code: str, message: str, param: str | None = None
    ) -> Failed:
        return Failed(utterance.request_id, code, message, units=utterance.units, param=param)

    @staticmethod
    def _cancelled(utterance: Utterance) -> Ended:
        return Ended(utterance.request_id, "cancelled", utterance.units)


Line = deque[Utterance]


def _without_cancelled(line: Line) -> tuple[Line, Line]:
    """Those that go on and those that do not."""
    kept = deque(utterance for utterance in line if not utterance.cancelled.is_set())
    return kept, deque(utterance for utterance in line if utterance.cancelled.is_set())


def _speaker(config: RunnerConfig) -> Speaker:
    if config.path == ESPEAK:
        from inference.runners.espeak import Espeak  # noqa: PLC0415 - optional

        return Espeak()
    from inference.runners.neural_voice import NeuralVoice  # noqa: PLC0415 - heavy

    return NeuralVoice(config)
