"""espeak-ng through ctypes: the voice that is there without any weights.

The library is GPL-3 and comes with the package espeakng-loader, which is loaded when a Runner asks
for it and is not needed otherwise. It holds one engine per process that is not re-entrant: a lock
guards it.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.contracts.voices import LANGUAGES, Voice, espeak_voices, language_of
from inference.runners.base import InvalidInput, LoadError

NORMAL_WPM, SLOWEST_WPM, FASTEST_WPM = 175, 80, 450
LONGEST_DATA_PATH = 150  # bytes; the library cuts longer ones off
BUFFER_MS = 100
SYNCHRONOUS, DONT_EXIT = 2, 0x8000
UTF8, END_PAUSE = 1, 0x1000
RATE, PITCH, RANGE = 1, 3, 4

Hear = Callable[[bytes], bool]
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Library:
    """The one engine of this process."""

    _lock = threading.Lock()
    _one: Library | None = None

    def __init__(self) -> None:
        """Load and initialize. Raises LoadError."""
        self._library = _load()
        self.sample_rate = self._library.espeak_Initialize(
            SYNCHRONOUS, BUFFER_MS, os.fsencode(_data_folder()), DONT_EXIT
        )
        if self.sample_rate <= 0:
            raise LoadError("espeak-ng cannot read its data")
        self._hear: Hear | None = None
        self._failure: BaseException | None = None
        self._callback = CALLBACK(self._take)  # must live as long as the engine
        self._library.espeak_SetSynthCallback(self._callback)

    @classmethod
    def get(cls) -> Library:
        """It, loaded on first use. Raises LoadError."""
        with cls._lock:
            if cls._one is None:
                cls._one = cls()
            return cls._one

    def say(self, text: str, *, voice: str, settings: dict[int, int], hear: Hear) -> None:
        """Speak; `hear` gets samples (mono, 16 bits) and says whether to go on."""
        content = text.encode()
        with self._lock:
            if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise LoadError(f"espeak-ng has no voice {voice!r}")
            for parameter, value in settings.items():
                self._library.espeak_SetParameter(parameter, value, 0)
            self._hear, self._failure = hear, None
            buffer = ctypes.create_string_buffer(content)
            flags = UTF8 | END_PAUSE
            self._library.espeak_Synth(buffer, len(content) + 1, 0, 0, 0, flags, None, None)
            self._hear = None
            if self._failure is not None:
                raise self._failure

    def _take(self, samples: Any, count: int, events: Any) -> int:
        """The library's callback; 1 ends the synthesis."""
        del events
        if not samples or count <= 0 or self._hear is None:
            return 0
        try:
            return 0 if self._hear(ctypes.string_at(samples, count * 2)) else 1
        except BaseException as error:  # noqa: BLE001 - it must not pass through C; `say` raises it
            self._failure = error
            return 1


def _load() -> ctypes.CDLL:
    try:
        import espeakng_loader  # noqa: PLC0415 - optional

        library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
    except ImportError:
        raise LoadError("the package espeakng-loader is not installed") from None
    except OSError as error:
        raise LoadError(f"espeak-ng cannot be loaded: {error}") from error
    library.espeak_Initialize.argtypes = [
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
    ]
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_SetParameter.argtypes = [ctypes.c_int] * 3
    library.espeak_Synth.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return library


def _data_folder() -> Path:
    import espeakng_loader  # noqa: PLC0415 - optional

    folder = Path(espeakng_loader.get_data_path())
    if len(os.fsencode(folder)) <= LONGEST_DATA_PATH:
        return folder
    short = Path(tempfile.mkdtemp(prefix="espeak-"))
    (short / folder.name).symlink_to(folder)
    return short


class Espeak:
    """See runners.speech.Speaker."""

    name = "espeak-ng"

    def __init__(self) -> None:
        """Raises LoadError."""
        self._library = Library.get()
        self.sample_rate = self._library.sample_rate
        self.voices = {voice.id: voice for voice in espeak_voices()}

    def base_of(self, voice: Voice, language: str | None) -> str:
        """espeak-ng's name of the voice in that language. Raises InvalidInput."""
        base = voice.base
        if language is not None:
            code = language_of(language)
            if code is None:
                known = ", ".join(LANGUAGES)
                message = f"The model does not speak {language[:40]!r}; it speaks {known}"
                raise InvalidInput(message, param="language")
            if code.partition("-")[0] != voice.language.partition("-")[0]:
                base = LANGUAGES[code][0]
        return f"{base}+{voice.variant}" if voice.variant else base

    def check(self, voice: Voice, language: str | None) -> None:
        """See Speaker."""
        self.base_of(voice, language)

    def tempo(self, speed: float) -> float:
        """See Speaker: what is beyond the words per minute that espeak-ng can speak."""
        return speed * NORMAL_WPM / self._rate(speed)

    def say(
        self, text: str, voice: Voice, *, language: str | None, speed: float, hear: Hear
    ) -> None:
        """See Speaker."""
        self._library.say(
            text,
            voice=self.base_of(voice, language),
            settings={RATE: self._rate(speed), PITCH: voice.pitch, RANGE: voice.range},
            hear=hear,
        )

    @staticmethod
    def _rate(speed: float) -> int:
        return min(FASTEST_WPM, max(SLOWEST_WPM, round(NORMAL_WPM * speed)))
