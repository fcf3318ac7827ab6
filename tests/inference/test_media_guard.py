"""Files of callers: what is read of them, and that none of them harms anybody."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tempfile
import threading

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from inference.runners.base import InvalidInput
from inference.runners.media_guard import TOO_MUCH, MediaGuard, MediaLimits
from tests.sound import pitch

RATE = 16_000
TONE = 220
CODECS = {
    "wav": "pcm_s16le",
    "mp3": "libmp3lame",
    "flac": "flac",
    "ogg": "libopus",
    "mp4": "aac",
    "adts": "aac",
    "webm": "libopus",
    "matroska": "pcm_s16le",
    "aiff": "pcm_s16be",
}


@pytest.fixture(scope="module")
def guard():
    found = MediaGuard(helpers=2)
    yield found
    found.close()


def file_of(content: bytes):
    file = tempfile.TemporaryFile()  # noqa: SIM115 - goes with the test
    file.write(content)
    file.seek(0)
    return file


def read(guard, content: bytes, *, seconds=60, raw=None) -> np.ndarray:
    with file_of(content) as file:
        return guard.sound(file, rate=RATE, seconds=seconds, param="file", raw=raw)


def refusal(guard, content: bytes, **wish) -> str:
    with pytest.raises(InvalidInput) as error:
        read(guard, content, **wish)
    assert (error.value.code, error.value.param) == ("invalid_audio", "file")
    return str(error.value)


def tone(seconds: float, rate=48_000) -> np.ndarray:
    times = np.arange(int(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * TONE * k * times) / k for k in (1, 2, 3))
    return (wave * 8000).astype("<i2")


def encoded(samples: np.ndarray, container: str, rate=48_000) -> bytes:
    outlet = io.BytesIO()
    with av.open(outlet, "w", format=container) as file:
        stream = file.add_stream(CODECS[container], rate=rate)
        stream.layout = "mono"
        fifo = av.AudioFifo()
        for at in range(0, len(samples), 1 << 20):
            frame = av.AudioFrame.from_ndarray(
                samples[None, at : at + (1 << 20)], format="s16", layout="mono"
            )
            frame.sample_rate = rate
            frame.pts = None
            fifo.write(frame)
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=rate,
            frame_size=stream.codec_context.frame_size or 1024,
        )  # fmt: skip
        while (frame := fifo.read(4096, partial=True)) is not None:
            for ready in resampler.resample(frame):
                file.mux(stream.encode(ready))
        for ready in resampler.resample(None):
            file.mux(stream.encode(ready))
        file.mux(stream.encode(None))
    return outlet.getvalue()


def wav(data: bytes, *, rate=RATE, channels=1, data_size=None, fmt_size=16) -> bytes:
    fmt = struct.pack("<HHIIHH", 1, channels & 0xFFFF, rate, rate * 2 & 0xFFFFFFFF, 2, 16)
    size = len(data) if data_size is None else data_size
    return (
        b"RIFF" + struct.pack("<I", 36 + size & 0xFFFFFFFF) + b"WAVE"
        + b"fmt " + struct.pack("<I", fmt_size) + fmt + b"data" + struct.pack("<I", size) + data
    )  # fmt: skip


@pytest.mark.parametrize("container", CODECS)
def test_what_ffmpeg_knows_is_read(guard, container):
    samples = read(guard, encoded(tone(1.5), container))
    assert abs(len(samples) / RATE - 1.5) < 0.1
    loud = samples.astype(np.float32) / 32768
    assert abs(pitch(np.interp(np.arange(0, len(loud), RATE / 24_000), np.arange(len(loud)), loud)) - TONE) < 3  # fmt: skip


def test_bare_samples_need_to_be_told(guard):
    content = tone(1.0, 24_000).tobytes()
    assert abs(len(read(guard, content, raw=24_000)) - RATE) < 50
    assert refusal(guard, content) == "The file is not a sound file that can be read"


def test_a_wav_may_lie_about_its_size(guard):
    content = wav(tone(0.5, RATE).tobytes(), data_size=0xFFFFFFFF)
    assert len(read(guard, content)) == RATE // 2
    assert len(read(guard, wav(tone(0.5, RATE).tobytes(), data_size=0x7FFFFF00))) == RATE // 2


def test_a_cut_file_gives_what_is_there(guard):
    content = encoded(tone(4), "mp3")
    samples = read(guard, content[: len(content) // 2])
    assert 1.5 < len(samples) / RATE < 2.5


SECRET = b"file-that-must-stay-secret"
BAD = {
    "empty": b"",
    "text": b"hello " * 100,
    "html": b"<html><body>" + b"<p>x</p>" * 500 + b"</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="1" height="1"/></svg>',
    "pickle": pickle.dumps({"a": [1] * 1000}),
    "zeros": b"\x00" * 100_000,
    "a picture": b"\x89PNG\r\n\x1a\n" + b"\x00" * 1000,
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{path}\n#EXT-X-ENDLIST\n",
    "hls over http": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:1/a.ts\n",
    "concat": b"ffconcat version 1.0\nfile '{path}'\n",
    "concat protocol": b"concat:{path}|{path}",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\nc=IN IP4 127.0.0.1\n",
    "mpd": b'<?xml version="1.0"?><MPD type="static"><Period><BaseURL>file://{path}</BaseURL></Period></MPD>',
    "half an mp4": None,
    "no samples": wav(b""),
    "no rate": wav(b"\x00\x01" * 1000, rate=0),
    "a mad rate": wav(b"\x00\x01" * 1000, rate=0xFFFFFFFF),
    "mad channels": wav(b"\x00\x01" * 1000, channels=65_535),
    "a mad head": wav(b"\x00\x01" * 1000, fmt_size=0x7FFFFFF0),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_sound_is_refused(guard, tmp_path, name):
    song = tmp_path / "song.wav"
    song.write_bytes(wav(tone(1, RATE).tobytes()))
    content = BAD[name]
    if content is None:
        content = encoded(tone(2), "mp4")[:-700]
    content = content.replace(b"{path}", os.fsencode(song))
    assert refusal(guard, content) in (
        "The file is not a sound file that can be read",
        "The file holds no sound",
    )


def test_seconds_are_counted_while_decoding(guard):
    bomb = encoded(np.zeros(24_000 * 600, "<i2"), "flac", 24_000)
    assert len(bomb) < 100_000
    assert refusal(guard, bomb, seconds=120) == "The file is longer than 2 minutes"


def test_time_and_memory_are_the_kernels():
    bomb = encoded(np.zeros(24_000 * 600, "<i2"), "flac", 24_000)
    for limits in (MediaLimits(cpu_s=0.02), MediaLimits(wall_s=0.02), MediaLimits(memory=1 << 14)):
        guard = MediaGuard(limits=limits, helpers=1)
        try:
            message = refusal(guard, bomb, seconds=3600)
            assert message in (f"The file {TOO_MUCH}", "The file is not a sound file that can be read")  # fmt: skip
        finally:
            guard.close()


def test_a_bomb_holds_up_nobody_and_leaves_nothing(guard):
    bomb = encoded(np.zeros(24_000 * 1200, "<i2"), "flac", 24_000)
    good = encoded(tone(1.0), "mp3")
    before = psutil.Process().memory_info().rss
    refused: list[str] = []
    worker = threading.Thread(target=lambda: refused.append(refusal(guard, bomb, seconds=600)))
    worker.start()
    assert abs(len(read(guard, good)) / RATE - 1) < 0.1
    worker.join()
    assert refused == ["The file is longer than 10 minutes"]
    assert psutil.Process().memory_info().rss - before < 50 << 20


def test_pictures_are_decoded_within_the_same_limits(guard):
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000), "red").save(file, "PNG")
    bomb = file.getvalue()
    assert len(bomb) < 200_000
    whole = guard.picture(bomb, mode="L", pixels=25_000_000, param="image")
    assert (whole.size, whole.getpixel((0, 0))) == ((5000, 5000), 76)
    small = MediaGuard(limits=MediaLimits(memory=30 << 20), helpers=1)
    try:
        for asked, pixels, message in (
            (small, 25_000_000, f"The image {TOO_MUCH}"),
            (guard, 24_999_999, "The image has more than 24999999 pixels"),
        ):
            with pytest.raises(InvalidInput) as error:
                asked.picture(bomb, mode="L", pixels=pixels, param="image")
            assert str(error.value) == message
            assert (error.value.code, error.value.param) == ("invalid_image", "image")
    finally:
        small.close()
