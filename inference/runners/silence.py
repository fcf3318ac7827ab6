"""Where a sound is cut: into windows that a model hears at once, at silence where there is any.

Pure. Loudness is looked at in frames of 20 ms; what is speech is told by how far it stands out of the
quietest parts. A stretch of speech longer than a window is cut where it is softest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FRAME_SECONDS = 0.02
SILENT = 10 ** (-60 / 20)  # of full scale: below it is nothing
ABOVE_NOISE = 0.35  # of the way from the quietest to the loudest parts, in decibels
SHORTEST_PAUSE = 0.18  # seconds; shorter ones are within speech
SHORTEST_SPEECH = 0.06
MARGIN = 0.16  # of silence that stays around speech
LATE = 0.6  # where in a window too long a stretch may be cut
FULL_SCALE = 32768
BLOCK = 4096  # frames at a time: hours of sound must not be in memory as floats


@dataclass(frozen=True, slots=True)
class Window:
    """Samples from `start` to `end`."""

    start: int
    end: int


def windows(samples: np.ndarray, *, rate: int, seconds: float, longest_gap: float) -> list[Window]:
    """Windows of at most `seconds` that hold all speech of mono samples of 16 bits, in order.

    Stretches share a window where no silence within it is longer than `longest_gap`. Nothing but
    silence gives no window.
    """
    frame = round(rate * FRAME_SECONDS)
    loud = loudness(samples, frame)
    most = int(seconds / FRAME_SECONDS)
    gap = round(longest_gap / FRAME_SECONDS)
    found: list[tuple[int, int]] = []
    for start, end, quiet in _pieces(loud, most):
        if found and end - found[-1][0] <= most and quiet <= gap:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return [Window(start * frame, min(end * frame, len(samples))) for start, end in found]


def loudness(samples: np.ndarray, frame: int) -> np.ndarray:
    """Root mean square of each frame, of full scale."""
    count = -(-len(samples) // frame)
    found = np.zeros(count, np.float32)
    for at in range(0, count, BLOCK):
        part = np.asarray(samples[at * frame : (at + BLOCK) * frame], np.float32)
        part = np.pad(part, (0, -len(part) % frame)).reshape(-1, frame) / FULL_SCALE
        found[at : at + len(part)] = np.sqrt((part * part).mean(1))
    return found


def _pieces(loud: np.ndarray, most: int) -> Iterator[tuple[int, int, int]]:
    """Stretches of speech with their margins, none longer than `most` frames; and how much silence
    is before each."""
    margin = round(MARGIN / FRAME_SECONDS)
    last = spoken = 0
    for begin, until in _stretches(loud):
        start, end = max(last, begin - margin), min(len(loud), until + margin)
        quiet, spoken = begin - spoken, until
        while end - start > most:
            first = start + int(most * LATE)
            cut = first + int(np.argmin(loud[first : start + most]))
            yield start, cut, quiet
            start, quiet = cut, 0
        yield start, end, quiet
        last = end


def _stretches(loud: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where speech is, pauses within it included."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], _is_speech(loud).view(np.int8), [0]])))
    spans = edges.reshape(-1, 2)
    pause = round(SHORTEST_PAUSE / FRAME_SECONDS)
    shortest = round(SHORTEST_SPEECH / FRAME_SECONDS)
    current: list[int] | None = None
    for start, end in spans.tolist():
        if current is not None and start - current[1] < pause:
            current[1] = end
            continue
        if current is not None and current[1] - current[0] >= shortest:
            yield current[0], current[1]
        current = [start, end]
    if current is not None and current[1] - current[0] >= shortest:
        yield current[0], current[1]


def _is_speech(loud: np.ndarray) -> np.ndarray:
    heard = loud[loud > SILENT]
    if not len(heard):
        return np.zeros(len(loud), bool)
    level = np.log10(np.maximum(loud, SILENT))
    low, high = np.percentile(level, 5), np.percentile(np.log10(heard), 95)
    return level > low + ABOVE_NOISE * (high - low) if high - low > 0.3 else loud > SILENT
