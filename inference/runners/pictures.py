"""From the bytes of an image to pixels, within bounds that hold before anything is decoded."""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from inference.runners.base import InvalidInput

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 33_000_000
MOST_UNEVEN = 100


def open_picture(data: object, *, param: str) -> Image.Image:
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
    return picture


def decode(picture: Image.Image, *, param: str) -> Image.Image:
    """The first frame in RGB, turned upright. Raises InvalidInput."""
    try:
        return ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:  # damaged images come out as any kind of error
        raise _invalid("The image is damaged", param) from error


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Height and width once turned upright; reads the header only."""
    try:
        turned = picture.getexif().get(0x0112, 1) >= 5
    except Exception:  # noqa: BLE001 - broken metadata; decoding will have the last word
        turned = False
    width, height = picture.size
    return (width, height) if turned else (height, width)


def _invalid(message: str, param: str) -> InvalidInput:
    return InvalidInput(message, code="invalid_image", param=param)
