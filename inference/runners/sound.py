"""Sound on its way out: stretched, shifted, resampled and encoded by PyAV as it comes.

`encoder` takes mono samples of 16 bits at the speaker's rate and gives the bytes of a file. With a
`target` that can seek, headers are right in the end (lengths, the number of samples); without one
the bytes come out of `write` and `finish` as they are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import IO, Any

import av
from av.audio.frame import AudioFrame
from av.filter import Graph

SAMPLE_BYTES = 2
SLOWEST_TEMPO, FASTEST_TEMPO = 0.5, 100.0  # of one atempo filter
PLAIN_FRAME = 1_024  # samples, where the codec takes any number


@dataclass(frozen=True, slots=True)
class Format:
    """A container with its one codec."""

    container: str
    codec: str
    sample_rate: int
    sample_format: str
    bit_rate: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    """Of the codec: less effort, of which speech loses nothing."""
    streaming: tuple[tuple[str, str], ...] = ()
    """Options of the container where nothing can be written into its head afterwards."""


FORMATS = {
    "mp3": Format(
        "mp3",
        "libmp3lame",
        24_000,
        "s16p",
        96_000,
        options=(("compression_level", "7"),),
        streaming=(("write_xing", "0"),),
    ),
    "opus": Format(
        "ogg",
        "libopus",
        48_000,
        "s16",
        48_000,
        options=(("compression_level", "5"),),
        streaming=(("page_duration", "200000"),),
    ),
    "aac": Format("adts", "aac", 24_000, "fltp", 80_000, options=(("aac_coder", "fast"),)),
    "flac": Format("flac", "flac", 24_000, "s16"),
    "wav": Format("wav", "pcm_s16le", 24_000, "s16"),
}
PCM_RATE = 24_000


class Chain:
    """Filters from the speaker's samples to those of a codec."""

    def __init__(
        self,
        *,
        rate: int,
        tempo: float,
        semitones: float,
        sample_rate: int,
        sample_format: str,
        frame_size: int,
    ) -> None:
        """`tempo` and `semitones` change speed and pitch, each without the other."""
        self._rate = rate
        graph = Graph()
        source = graph.add_abuffer(
            sample_rate=rate, format="s16", layout="mono", time_base=Fraction(1, rate)
        )
        nodes = [source]
        if semitones:
            factor = 2 ** (semitones / 12)
            nodes.append(graph.add("asetrate", str(round(rate * factor))))
            tempo /= factor
        nodes += [graph.add("atempo", f"{part:.6f}") for part in tempos(tempo)]
        nodes.append(graph.add("aresample", str(sample_rate)))
        nodes.append(graph.add("aformat", f"sample_fmts={sample_format}:channel_layouts=mono"))
        nodes.append(graph.add("asetnsamples", f"n={frame_size}:p=0"))
        nodes.append(graph.add("abuffersink"))
        graph.link_nodes(*nodes).configure()
        self._graph = graph
        self._given = 0

    def push(self, samples: bytes) -> Iterator[AudioFrame]:
        """What is ready after these samples."""
        count = len(samples) // SAMPLE_BYTES
        if not count:
            return iter(())
        frame = AudioFrame(format="s16", layout="mono", samples=count, align=1)
        frame.planes[0].update(samples)
        frame.sample_rate = self._rate
        frame.time_base = Fraction(1, self._rate)
        frame.pts = self._given
        self._given += count
        self._graph.push(frame)
        return self._ready()

    def finish(self) -> Iterator[AudioFrame]:
        """What is left."""
        if not self._given:
            return iter(())
        self._graph.push(None)
        return self._ready()

    def _ready(self) -> Iterator[AudioFrame]:
        while True:
            try:
                frame = self._graph.pull()
            except (BlockingIOError, EOFError):
                return
            yield frame


def tempos(tempo: float) -> list[float]:
    """Factors that one filter can do each and that make up `tempo` together."""
    if abs(tempo - 1) < 1e-6:
        return []
    parts = []
    while tempo < SLOWEST_TEMPO:
        parts.append(SLOWEST_TEMPO)
        tempo /= SLOWEST_TEMPO
    return [*parts, min(tempo, FASTEST_TEMPO)]


class _Outlet:
    """A file that can only be written to; what was written is taken from it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data


class Encoder:
    """One sound being made. Not thread-safe."""

    def __init__(
        self,
        name: str,
        *,
        rate: int,
        tempo: float = 1.0,
        semitones: float = 0.0,
        target: IO[bytes] | None = None,
    ) -> None:
        """`name` is one of FORMATS or pcm; `rate` that of the samples to come."""
        self.samples = 0
        self._outlet = _Outlet()
        self._target = target
        kind = FORMATS.get(name)
        self._open(kind, target) if kind is not None else None
        self.sample_rate = PCM_RATE if kind is None else kind.sample_rate
        self._is_plain = kind is None
        self._chain = Chain(
            rate=rate,
            tempo=tempo,
            semitones=semitones,
            sample_rate=self.sample_rate,
            sample_format="s16" if kind is None else kind.sample_format,
            frame_size=PLAIN_FRAME if kind is None else self._stream.frame_size or PLAIN_FRAME,
        )

    def _open(self, kind: Format, target: IO[bytes] | None) -> None:
        options = {} if target is not None else {**dict(kind.streaming), "flush_packets": "1"}
        self._container: Any = av.open(
            self._outlet if target is None else target,
            "w",
            format=kind.container,
            container_options=options,
        )
        stream = self._container.add_stream(
            kind.codec, rate=kind.sample_rate, options=dict(kind.options)
        )
        stream.layout = "mono"
        stream.format = kind.sample_format
        if kind.bit_rate is not None:
            stream.bit_rate = kind.bit_rate
        stream.codec_context.open()
        self._stream = stream

    @property
    def milliseconds(self) -> int:
        """How long the sound is so far."""
        return round(self.samples * 1000 / self.sample_rate)

    def write(self, samples: bytes) -> bytes:
        """Take samples; what became ready (with a target: nothing, it went there)."""
        return self._encode(self._chain.push(samples))

    def finish(self) -> bytes:
        """The end of the file. No more samples may come."""
        data = self._encode(self._chain.finish())
        if self._is_plain:
            return data
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return data + self._outlet.take()

    def abandon(self) -> None:
        """Give it up; what was written is worth nothing."""
        if not self._is_plain:
            self._container.close()

    def _encode(self, frames: Iterator[AudioFrame]) -> bytes:
        for frame in frames:
            self.samples += frame.samples
            if self._is_plain:
                self._put(bytes(frame.planes[0])[: frame.samples * SAMPLE_BYTES])
            else:
                self._container.mux(self._stream.encode(frame))
        return self._outlet.take()

    def _put(self, data: bytes) -> None:
        (self._target or self._outlet).write(data)
