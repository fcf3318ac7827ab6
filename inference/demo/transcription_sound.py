"""Clips of speech that the transcription demo weights learn from: espeak-ng's voices and some noise.

A clip holds one sentence, or two with a pause, somewhere in a window; its parts tell when each
begins and ends. Some clips hold no speech.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from inference.demo.transcription_data import ENGLISH, Sentence, Sentences
from inference.runners.espeak import PITCH, RANGE, RATE, Library
from inference.runners.sound import Chain

SAMPLE_RATE = 16_000
WINDOW_SECONDS = 6.0
WINDOW = int(WINDOW_SECONDS * SAMPLE_RATE)
ACCENTS = {"en": ("en-us", "en-us", "gmw/en", "gmw/en", "en-gb-scotland"), "de": ("de",)}
VARIANTS = (
    "", "", "m1", "m2", "m3", "m5", "m6", "m8", "f1", "f2", "f4", "f5", "Alex", "Alicia", "Andy",
    "Annie", "Denis", "Diogo", "Gene", "Jacky", "Lee", "Mario", "Michael", "Mike", "adam",
    "belinda", "benjamin", "caleb", "david", "ed", "grandma", "grandpa", "ian", "john", "linda",
    "max", "paul", "quincy", "rob", "robert", "travis", "zac",
)  # fmt: skip
UNHEARD = ("m4", "m7", "f3", "Andrea", "steph", "edward", "victor")
"""Voices that training leaves out."""
QUIET = 0.02  # of the loudest sample: below it is no speech
Samples = np.ndarray


@dataclass(frozen=True, slots=True)
class Part:
    """One sentence of a clip, from `start` to `end` in seconds."""

    sentence: Sentence
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Clip:
    """Samples between -1 and 1, no longer than a window."""

    samples: Samples
    parts: tuple[Part, ...]

    @property
    def language(self) -> str:
        """That of its parts."""
        return self.parts[0].sentence.language if self.parts else ENGLISH


class Speaker:
    """Says sentences in voices drawn at random."""

    def __init__(self, draw: random.Random, *, variants: tuple[str, ...] = VARIANTS) -> None:
        """`variants` are espeak-ng's names of throats. Raises LoadError."""
        self._draw = draw
        self._variants = variants
        self._library = Library.get()

    def say(self, sentence: Sentence, voice: str, *, rate: int, pitch: int, lively: int) -> Samples:
        """The bare speech."""
        parts: list[bytes] = []

        def hear(samples: bytes) -> bool:
            parts.append(samples)
            return True

        settings = {RATE: rate, PITCH: pitch, RANGE: lively}
        self._library.say(sentence.text, voice=voice, settings=settings, hear=hear)
        return resampled(b"".join(parts), self._library.sample_rate)

    def voice(self, language: str) -> dict[str, object]:
        """A voice with its manner, for all sentences of a clip."""
        accent = self._draw.choice(ACCENTS[language])
        variant = self._draw.choice(self._variants)
        return {
            "voice": f"{accent}+{variant}" if variant else accent,
            "rate": self._draw.randint(135, 210),
            "pitch": self._draw.randint(15, 85),
            "lively": self._draw.randint(30, 75),
        }


def resampled(data: bytes, rate: int) -> Samples:
    """16 bits at any rate as samples between -1 and 1 at SAMPLE_RATE."""
    chain = Chain(
        rate=rate,
        tempo=1.0,
        semitones=0.0,
        sample_rate=SAMPLE_RATE,
        sample_format="s16",
        frame_size=1024,
    )
    frames = [*chain.push(data), *chain.finish()]
    found = b"".join(bytes(frame.planes[0])[: frame.samples * 2] for frame in frames)
    return np.frombuffer(found, dtype="<i2").astype(np.float32) / 32768


def trimmed(samples: Samples) -> Samples:
    """Without the silence around it."""
    loud = np.flatnonzero(np.abs(samples) > QUIET * max(np.abs(samples).max(initial=0), 1e-6))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


class Clips:
    """An endless line of clips."""

    def __init__(self, sentences: Sentences, speaker: Speaker) -> None:
        """Chance is that of `sentences`."""
        self._sentences = sentences
        self._speaker = speaker
        self._draw = sentences.draw

    def __iter__(self) -> Iterator[Clip]:
        """For ever."""
        while True:
            yield self.clip()

    def clip(self) -> Clip:
        """One of the mixture."""
        if self._draw.random() < 0.02:
            return Clip(self._noise(int(self._draw.uniform(1, 4) * SAMPLE_RATE)), ())
        while True:
            sentences = [self._sentences.any()]
            if self._draw.random() < 0.2:
                more = self._sentences.any()
                if more.language == sentences[0].language:
                    sentences.append(more)
            clip = self.spoken(sentences)
            if clip is not None:
                return clip

    def spoken(self, sentences: list[Sentence]) -> Clip | None:
        """These sentences by one voice; None where they are too long for a window."""
        voice = self._speaker.voice(sentences[0].language)
        pieces = [trimmed(self._speaker.say(one, **voice)) for one in sentences]  # type: ignore[arg-type]
        gaps = [0.0 if self._draw.random() < 0.3 else self._draw.uniform(0, 0.5)]
        gaps += [self._draw.uniform(0.25, 0.8) for _ in pieces[1:]]
        ending = self._draw.uniform(0.0, 0.5)
        total = sum(map(len, pieces)) / SAMPLE_RATE + sum(gaps) + ending
        if total > WINDOW_SECONDS - 0.05 or not all(map(len, pieces)):
            return None
        at, parts, found = 0.0, [], []
        for sentence, gap, piece in zip(sentences, gaps, pieces, strict=True):
            at += gap
            length = len(piece) / SAMPLE_RATE
            parts.append(Part(sentence, at, at + length))
            at += length
            found += [np.zeros(int(gap * SAMPLE_RATE), np.float32), piece]
        samples = np.concatenate([*found, np.zeros(int(ending * SAMPLE_RATE), np.float32)])
        return Clip(self._worn(samples), tuple(parts))

    def _worn(self, samples: Samples) -> Samples:
        """Louder or softer, some with noise."""
        samples = samples * (self._draw.uniform(0.15, 0.9) / max(np.abs(samples).max(), 1e-6))
        if self._draw.random() < 0.5:
            samples = samples + self._noise(len(samples))
        return samples.astype(np.float32)

    def _noise(self, length: int) -> Samples:
        chance = np.random.default_rng(self._draw.getrandbits(32))
        level = 10 ** self._draw.uniform(-4.5, -2.2)
        return (chance.standard_normal(length) * level).astype(np.float32)
