"""What tests ask of sound: how long it is, how loud, how high."""

from __future__ import annotations

import io

import av
import numpy as np

RATE = 24_000
# Format -> (Content-Type, how a file of it begins).
FORMATS = {
    "mp3": ("audio/mpeg", (b"ID3", b"\xff\xf3", b"\xff\xfb")),
    "opus": ("audio/opus", (b"OggS",)),
    "aac": ("audio/aac", (b"\xff\xf1",)),
    "flac": ("audio/flac", (b"fLaC",)),
    "wav": ("audio/wav", (b"RIFF",)),
    "pcm": ("audio/pcm", (b"",)),
}
CODECS = {"mp3": "mp3", "opus": "opus", "aac": "aac", "flac": "flac", "wav": "pcm_s16le"}


def decoded(content: bytes, name: str) -> np.ndarray:
    """Mono samples at RATE, between -1 and 1."""
    if name == "pcm":
        return np.frombuffer(content, "<i2").astype(np.float32) / 32768
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.audio[0].codec_context.name.startswith(CODECS[name])
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        frames = [f for frame in container.decode(audio=0) for f in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def seconds(content: bytes, name: str) -> float:
    """How long it is once decoded."""
    return len(decoded(content, name)) / RATE


def loudness(samples: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(samples**2)))


def pitch(samples: np.ndarray) -> float:
    """The median fundamental frequency of voiced parts in Hz, by autocorrelation."""
    size, found = 1_200, []
    for start in range(0, len(samples) - size, size // 2):
        part = samples[start : start + size]
        if loudness(part) < 0.03:
            continue
        part = part - part.mean()
        spectrum = np.fft.rfft(part, 2 * size)
        shape = np.fft.irfft(np.abs(spectrum) ** 2)[:size]
        low, high = RATE // 500, RATE // 50
        best = low + int(np.argmax(shape[low:high]))
        if shape[best] > 0.4 * shape[0]:
            found.append(RATE / best)
    return float(np.median(found))


def brightness(samples: np.ndarray) -> float:
    """The centre of the spectrum in Hz."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float((np.fft.rfftfreq(len(samples), 1 / RATE) * power).sum() / power.sum())
