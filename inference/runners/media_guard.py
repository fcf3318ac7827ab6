"""Files that callers sent are opened in a process of their own: this one sees samples and pixels."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from inference.runners.base import InvalidInput
from inference.runners.helper_process import HelperPool

PROGRAM = Path(__file__).with_name("media_child.py")
SPARE_SECONDS = 10.0
HELPERS = 4
LINE_SECONDS = 60.0
SAMPLE_BYTES = 2
TOO_MUCH = "takes too much time or memory to read"


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """What reading one file may take: bytes of memory, seconds of CPU and of the clock."""

    memory: int = 1 << 30
    cpu_s: float = 30.0
    wall_s: float = 90.0


class MediaGuard:
    """Reads at most `helpers` files at a time; helpers start when first needed. Thread-safe."""

    def __init__(self, *, limits: MediaLimits | None = None, helpers: int = HELPERS) -> None:
        """Nothing runs before the first file."""
        self._limits = limits or MediaLimits()
        self._pool = HelperPool(
            PROGRAM, asdict(self._limits), count=helpers, line_seconds=LINE_SECONDS
        )

    def sound(
        self, content: IO[bytes], *, rate: int, seconds: int, param: str, raw: int | None = None
    ) -> np.ndarray:
        """The first audio stream of a file that is open in this process, mono, 16 bits.

        `raw` is the rate of a file that is nothing but such samples. The result lies in a file
        without a name, which goes with the array. Blocking. Raises InvalidInput (its code is
        invalid_audio) or Busy.
        """
        with tempfile.TemporaryFile() as samples:
            wish = {"kind": "sound", "rate": rate, "seconds": seconds, "raw": raw}
            answer, fault = self._ask(wish, content, samples)
            if fault:
                raise InvalidInput(f"The file {fault}", code="invalid_audio", param=param)
            return np.memmap(samples, dtype="<i2", mode="r", shape=(answer["samples"],))

    def picture(self, content: bytes, *, mode: str, pixels: int, param: str) -> Image.Image:
        """The first frame of an image, upright, in that mode of Pillow; at most so many pixels.

        Blocking. Raises InvalidInput (its code is invalid_image) or Busy.
        """
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
            source.write(content)
            source.flush()
            wish = {"kind": "picture", "mode": mode, "pixels": pixels}
            answer, fault = self._ask(wish, source, target)
            if fault:
                raise InvalidInput(f"The image {fault}", code="invalid_image", param=param)
            target.seek(0)
            return Image.frombytes(mode, (answer["width"], answer["height"]), target.read())

    def close(self) -> None:
        """End the helpers."""
        self._pool.close()

    def _ask(
        self, wish: dict[str, Any], source: IO[bytes], target: IO[bytes]
    ) -> tuple[dict[str, Any], str]:
        """What the child found, or what is wrong with the file."""
        answer = self._pool.ask(
            {**wish, "input": _path(source), "output": _path(target)},
            self._limits.wall_s + SPARE_SECONDS,
        )
        if answer is None or answer.get("died"):
            return {}, TOO_MUCH
        return answer, answer.get("error", "")


def _path(file: IO[bytes]) -> str:
    """Where another process finds what is open here, with a place of its own to read from."""
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"
