"""Sound is cut where nothing is said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from inference.runners.silence import Window, loudness, windows

RATE = 16_000


def sound(*parts: tuple[float, float], noise: float = 0.0) -> np.ndarray:
    """(seconds, level) after each other, speech as a hum."""
    chance = np.random.default_rng(0)
    found = []
    for seconds, level in parts:
        times = np.arange(int(seconds * RATE))
        wave = level * np.sin(times / 9.0) + noise * chance.standard_normal(len(times))
        found.append(wave * 32767)
    return np.clip(np.concatenate(found), -32768, 32767).astype("<i2")


def cut(samples: np.ndarray, *, seconds=6.0, longest_gap=3.0) -> list[tuple[float, float]]:
    found = windows(samples, rate=RATE, seconds=seconds, longest_gap=longest_gap)
    assert all(0 <= one.start < one.end <= len(samples) for one in found)
    assert all(one.end - one.start <= seconds * RATE for one in found)
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))
    return [(round(one.start / RATE, 1), round(one.end / RATE, 1)) for one in found]


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_speech_keeps_a_margin_of_silence(noise):
    assert cut(sound((1, 0), (2, 0.3), (1, 0), noise=noise)) == [(0.8, 3.2)]


def test_what_fits_shares_a_window():
    assert cut(sound((2, 0.3), (1, 0), (2, 0.3))) == [(0.0, 5.0)]


def test_long_silence_parts_windows():
    assert cut(sound((1, 0.3), (4, 0), (1, 0.3))) == [(0.0, 1.2), (4.8, 6.0)]
    assert cut(sound((1, 0.3), (1, 0), (1, 0.3)), longest_gap=0.5) == [(0.0, 1.2), (1.8, 3.0)]


def test_a_window_ends_at_a_pause():
    found = cut(sound((4, 0.3), (0.5, 0), (4, 0.3)))
    assert found == [(0.0, 4.2), (4.3, 8.5)]


def test_without_a_pause_it_is_cut_where_it_is_softest():
    found = cut(sound((5, 0.3), (0.1, 0.03), (5, 0.3)))
    assert found[0] == (0.0, 5.0) or found[0] == (0.0, 5.1)
    assert found[-1][1] == pytest.approx(10.1)


@pytest.mark.parametrize(
    "samples", [np.zeros(0, "<i2"), np.zeros(RATE * 3, "<i2"), np.ones(RATE, "<i2")]
)
def test_of_silence_nothing_is_left(samples):
    assert cut(samples) == []


def test_noise_alone_is_no_reason_to_fail():
    assert cut(sound((13, 0.0), noise=0.05))


def test_hours_are_looked_at_in_parts():
    samples = sound((200, 0.2))
    whole = loudness(samples, 320)
    assert len(whole) == 10_000
    assert whole[:50].tolist() == loudness(samples[:16_000], 320).tolist()


def test_a_window_is_of_samples():
    assert windows(sound((1, 0.3)), rate=RATE, seconds=6, longest_gap=1) == [Window(0, RATE)]
