"""What happens to films outside a model: first pictures read, sizes, more frames, mp4 files."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from PIL import Image, ImageOps

from inference.contracts.video import (
    SHORTEST_SIDE,
    USUAL_HEIGHT,
    USUAL_WIDTH,
    wrong_side,
)
from inference.runners.base import InvalidInput
from inference.runners.image_pixels import bounded, enlarged, read_source

Size = tuple[int, int]
# Edges are sharpened while the picture is at most so many times as large as drawn; what is larger
# still is enlarged plainly from there, which the eye cannot tell and takes a tenth of the time.
CRISP_UNTIL = 8
QUALITY = "18"
PRESET = "veryfast"
ENCODER_THREADS = 2


def first_picture(part: Any, size: Size | None, *, param: str = "image") -> Image.Image:
    """The picture that a film starts from, in the size of the film: cut to its shape where that is
    another, as large as the picture itself where no size is said. Raises InvalidInput."""
    picture = bounded(read_source(part, param=param)[0])
    return ImageOps.fit(picture, size or film_size(picture.size, param=param))


def film_size(size: Size, *, param: str = "image") -> Size:
    """How large a film of a picture is: of its shape, within bounds, with even sides.

    Raises InvalidInput where it is too narrow.
    """
    width, height = size
    factor = min(1.0, math.sqrt(USUAL_WIDTH * USUAL_HEIGHT / (width * height)))
    factor = max(factor, SHORTEST_SIDE / min(size))
    found = tuple(max(SHORTEST_SIDE, round(side * factor / 2) * 2) for side in size)
    if wrong_side(*found) is not None:
        message = "The image is too narrow for a film: name width and height"
        raise InvalidInput(message, code="invalid_image", param=param)
    return found  # type: ignore[return-value]


def in_time(film: np.ndarray, frames: int) -> Iterator[np.ndarray]:
    """A film of so many frames: what lies between two is mixed of both."""
    last = len(film) - 1
    if len(film) == frames:
        yield from film
        return
    for number in range(frames):
        at = last * number / max(1, frames - 1)
        before = min(int(at), last)
        share = at - before
        if share < 1e-6:
            yield film[before]
            continue
        mixed = film[before] * (1 - share) + film[before + 1] * share
        yield mixed.round().astype(np.uint8)


def in_size(frame: np.ndarray, size: Size, *, keep_shape: bool) -> Image.Image:
    """A frame in another size; see `image_pixels.enlarged`."""
    picture = Image.fromarray(frame)
    factor = min(size[0] / picture.width, size[1] / picture.height)
    if factor <= CRISP_UNTIL:
        return enlarged(picture, size, keep_shape=keep_shape)
    part = CRISP_UNTIL / factor
    middle = max(1, round(size[0] * part)), max(1, round(size[1] * part))
    crisp = enlarged(picture, middle, keep_shape=keep_shape)
    return crisp.resize(size, Image.Resampling.BICUBIC)


def mp4_of(film: np.ndarray, size: Size, *, frames: int, fps: int, keep_shape: bool) -> IO[bytes]:
    """The film as h264 in mp4, its index first, open at its start; the file has no name any more."""
    with tempfile.TemporaryDirectory(prefix="film-") as folder:
        # Putting the index first, the library reads what it wrote, by name.
        path = Path(folder) / "film.mp4"
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as file:
            stream = file.add_stream(
                "libx264", rate=Fraction(fps), options={"crf": QUALITY, "preset": PRESET}
            )
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.thread_count = ENCODER_THREADS
            for frame in in_time(film, frames):
                picture = in_size(frame, size, keep_shape=keep_shape)
                file.mux(stream.encode(av.VideoFrame.from_image(picture)))
            file.mux(stream.encode(None))
        return path.open("rb")
