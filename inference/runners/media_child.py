"""Opens files that callers sent, one per forked process, so that a bomb harms nobody. Run as a file.

Reads one JSON text per line, `{"kind": …, "input": …, "output": …, …}`, and answers with one line:
what the kind found, `{"error": "…"}`, or `{"died": true}` where it took too long or too much memory
(`by_clock` where it was the clock). `input` and `output` are paths of files; the process that opens
them can open nothing else afterwards, no other file and no connection, whatever the content asks
for, and the kernel holds its limits.

Started with one argument, a JSON object: `memory` (bytes it may add), `cpu_s` and `wall_s`.
It imports nothing of the project. A new kind is a function in KINDS.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
import wave
from collections.abc import Iterator
from typing import IO, Any

import av
from PIL import Image, ImageOps

PAGE = resource.getpagesize()
# Demuxers that read one file and nothing beside it: no playlists, no lists of files.
FORMATS = (
    "3gp,aac,ac3,aiff,amr,ape,asf,au,avi,caf,flac,flv,m4a,matroska,mov,mp3,mp4,mpeg,mpegts,ogg,"
    "opus,voc,w64,wav,webm,wv"
)
MOST_CHANNELS = 64
HIGHEST_RATE = 768_000
MOST_DAMAGES = 200
PICTURES = ("PNG", "JPEG", "WEBP", "GIF")
ORIENTATION = 0x0112
DAMAGED = "is damaged"
UNREADABLE = "is not a sound file that can be read"
EMPTY = "holds no sound"


class Refused(Exception):
    """What is wrong with the file, in words for its sender."""


def sound(source: IO[bytes], target: IO[bytes], wish: dict[str, Any]) -> dict[str, Any]:
    """The first audio stream as 16 bits, mono, `rate` a second; at most `seconds` of it.

    `raw` is the rate of bare samples of that kind, which no content can tell.
    """
    options = {"format_whitelist": FORMATS, "protocol_whitelist": ""}
    if wish.get("raw"):
        options = {"sample_rate": str(wish["raw"]), "ch_layout": "mono"}
    try:
        with av.open(source, "r", format="s16le" if wish.get("raw") else None, options=options) as container:  # fmt: skip
            if not container.streams.audio:
                raise Refused(EMPTY)
            stream = container.streams.audio[0]
            count = _written(container, stream, target, wish)
    except (av.FFmpegError, ValueError, OSError, OverflowError, LookupError) as error:
        raise Refused(UNREADABLE) from error
    if not count:
        raise Refused(EMPTY)
    return {"samples": count}


def _written(container: Any, stream: Any, target: IO[bytes], wish: dict[str, Any]) -> int:
    context = stream.codec_context
    if not 0 < context.sample_rate <= HIGHEST_RATE or not 0 < context.channels <= MOST_CHANNELS:
        raise Refused(UNREADABLE)
    context.thread_count = 1
    most = int(wish["rate"] * wish["seconds"])
    count = 0
    for frame in _resampled(_frames(container, stream), wish["rate"]):
        count += frame.samples
        if count > most:
            raise Refused(f"is longer than {wish['seconds'] // 60} minutes")
        target.write(memoryview(frame.planes[0])[: frame.samples * 2])
    return count


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """All that can be decoded; a damaged place costs what is there."""
    damages = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.FFmpegError:
            damages += 1
            if damages > MOST_DAMAGES:
                return


def _resampled(frames: Iterator[Any], rate: int) -> Iterator[Any]:
    resampler, shape = None, None
    for frame in frames:
        now = (frame.format.name, frame.layout.name, frame.sample_rate)
        if now != shape:
            if resampler is not None:
                yield from resampler.resample(None)
            resampler, shape = av.AudioResampler(format="s16", layout="mono", rate=rate), now
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


def picture(source: IO[bytes], target: IO[bytes], wish: dict[str, Any]) -> dict[str, Any]:
    """The first frame, upright, as bare pixels of Pillow's mode `mode`; at most `pixels` of them."""
    try:
        opened = Image.open(source, formats=PICTURES)
        if opened.width * opened.height <= wish["pixels"]:
            image = ImageOps.exif_transpose(opened).convert(wish["mode"])
    except MemoryError:
        raise
    except Exception as error:  # damaged images come out as any kind of error
        raise Refused(DAMAGED) from error
    if opened.width * opened.height > wish["pixels"]:
        raise Refused(f"has more than {wish['pixels']} pixels")
    target.write(image.tobytes())
    return {"width": image.width, "height": image.height}


KINDS = {"sound": sound, "picture": picture}


def main() -> None:
    """Serve until the input ends."""
    settings = json.loads(sys.argv[1])
    av.logging.set_level(None)
    # What is imported on first use must be here before nothing can be opened any more.
    sound(io.BytesIO(_beep()), io.BytesIO(), {"rate": 16_000, "seconds": 60})
    for form in PICTURES:
        picture(io.BytesIO(_speck(form)), io.BytesIO(), {"mode": "RGBA", "pixels": 64})
    _say({"ready": True})
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _serve(json.loads(line), settings)
        status = os.waitpid(child, 0)[1]
        if status != 0:
            by_clock = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
            _say({"died": True, "by_clock": by_clock})


def _beep() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 8_000, 0, "NONE", ""))
        writer.writeframes(b"\x00\x01" * 800)
    return file.getvalue()


def _speck(form: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    more = {} if form == "GIF" else {"exif": exif.tobytes()}
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, form, **more)
    return file.getvalue()


def _serve(wish: dict[str, Any], settings: dict[str, Any]) -> None:
    """One file; does not return."""
    with open(wish["input"], "rb") as source, open(wish["output"], "wb") as target:
        _bound(settings, descriptors=max(source.fileno(), target.fileno()) + 1)
        try:
            answer = KINDS[wish["kind"]](source, target, wish)
            target.flush()
        except Refused as refusal:
            answer = {"error": str(refusal)}
        except MemoryError:
            os._exit(1)
    _say(answer)
    os._exit(0)


def _bound(settings: dict[str, Any], *, descriptors: int) -> None:
    """Have the kernel end this process at its limits; others go first on the cores."""
    with open("/proc/self/statm", "rb") as file:
        now = int(file.read().split()[0]) * PAGE
    most = now + settings["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    signal.setitimer(signal.ITIMER_PROF, settings["cpu_s"])
    signal.setitimer(signal.ITIMER_REAL, settings["wall_s"])
    os.nice(10)


def _say(answer: dict[str, Any]) -> None:
    try:
        os.write(1, json.dumps(answer).encode() + b"\n")
    except BrokenPipeError:
        os._exit(0)  # nobody is there any more


if __name__ == "__main__":
    main()
