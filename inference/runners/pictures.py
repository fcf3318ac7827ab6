"""From the bytes of an image to pixels, within bounds that hold before anything is decoded.

Here only headers are read; decoding is done in a process of its own (`media_guard.py`).
"""

from __future__ import annotations

import atexit
import io
from dataclasses import dataclass

from PIL import Image

from inference.runners.base import InvalidInput
from inference.runners.media_guard import MediaGuard

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 33_000_000
MOST_UNEVEN = 100
ORIENTATION = 0x0112
SIDEWAYS = 5  # and every higher orientation

_guard = MediaGuard()
atexit.register(_guard.close)


@dataclass(frozen=True, slots=True)
class Sent:
    """An image as it was sent, and what its header says: width, height, transparency, turn."""

    data: bytes
    size: tuple[int, int]
    has_alpha: bool
    is_sideways: bool

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width once turned upright."""
        width, height = self.size
        return (width, height) if self.is_sideways else (height, width)


def open_picture(data: object, *, param: str) -> Sent:
    """The image, its header read and its size checked, nothing decoded. Raises InvalidInput."""
    if not isinstance(data, bytes):
        raise _invalid("The image has no content", param)
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # damaged headers come out as any kind of error
        raise _invalid("The image is not a readable PNG, JPEG, WEBP or GIF", param) from error
    short, long = sorted(picture.size)
    if short * long > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise _invalid(f"The image has more than {limit} million pixels", param)
    if not short or long > MOST_UNEVEN * short:
        raise _invalid(f"The image is more than {MOST_UNEVEN} times as long as wide", param)
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    return Sent(data, picture.size, has_alpha, _is_sideways(picture))


def decode(picture: Sent, *, param: str, mode: str = "RGB") -> Image.Image:
    """The first frame in that mode of Pillow, turned upright. Raises InvalidInput or Busy."""
    return _guard.picture(picture.data, mode=mode, pixels=MAX_PIXELS, param=param)


def _is_sideways(picture: Image.Image) -> bool:
    try:
        return picture.getexif().get(ORIENTATION, 1) >= SIDEWAYS
    except Exception:  # noqa: BLE001 - broken metadata; decoding will have the last word
        return False


def _invalid(message: str, param: str) -> InvalidInput:
    return InvalidInput(message, code="invalid_image", param=param)
