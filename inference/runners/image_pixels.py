"""What happens to pixels outside a model: sources read, masks, sizes, enlarging, files."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from inference.contracts.images import MOST_PIXELS, SHORTEST_SIDE
from inference.runners.base import InvalidInput
from inference.runners.pictures import decode, open_picture

CRISP_FROM = 3.0  # enlarged so many times, edges are made sharp again
STEEP = 3.0  # how many of the drawn picture's pixels an edge would else be wide
FEATHER_SHARE = 256  # the blend inside a mask's edge is the shorter side over this, in pixels
HALF = 128
PAPER = (255, 255, 255)
Size = tuple[int, int]


# -- what callers send ----------------------------------------------------------------------------


def read_source(part: Any, *, param: str) -> tuple[Image.Image, Image.Image | None]:
    """A picture in RGB, upright, and as a mask what of it is transparent (255), if anything is.

    Raises InvalidInput.
    """
    picture = open_picture((part or {}).get("data"), param=param)
    if not picture.has_alpha:
        return decode(picture, param=param), None
    whole = decode(picture, mode="RGBA", param=param)
    paper = Image.new("RGBA", whole.size, (*PAPER, 255))
    clear = whole.getchannel("A").point(lambda alpha: 0 if alpha >= HALF else 255)
    flat = Image.alpha_composite(paper, whole).convert("RGB")
    return flat, clear if clear.getbbox() else None


def read_mask(part: Any, size: Size, *, param: str = "mask") -> Image.Image:
    """255 where the picture of that size may change: what is transparent, or white without alpha.

    Raises InvalidInput.
    """
    picture = open_picture((part or {}).get("data"), param=param)
    if picture.has_alpha:
        alpha = decode(picture, mode="RGBA", param=param).getchannel("A")
        mask = alpha.point(lambda value: 0 if value >= HALF else 255)
    else:
        mask = decode(picture, mode="L", param=param).point(
            lambda value: 255 if value >= HALF else 0
        )
    if mask.size != size:
        message = f"The mask must be as large as the image, {size[0]}x{size[1]} pixels"
        raise InvalidInput(message, code="invalid_image", param=param)
    if not mask.getbbox():
        message = "The mask leaves nothing to be changed: no part of it is transparent"
        raise InvalidInput(message, code="invalid_image", param=param)
    return mask


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Several pictures as one, brought to the first one's height."""
    height = pictures[0].height
    row = [one.resize((max(1, round(one.width * height / one.height)), height)) for one in pictures]
    joined = Image.new("RGB", (sum(one.width for one in row), height))
    at = 0
    for one in row:
        joined.paste(one, (at, 0))
        at += one.width
    return joined


def put_into(picture: Image.Image, other: Image.Image, mask: Image.Image) -> Image.Image:
    """The other picture laid into the masked place."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *picture.size)
    fitted = ImageOps.fit(other, (right - left, bottom - top))
    laid = picture.copy()
    laid.paste(fitted, (left, top))
    return Image.composite(laid, picture, mask)


# -- sizes ----------------------------------------------------------------------------------------


def within_bounds(size: Size) -> Size:
    """The size of an answer that is to be as large as a picture: not beyond what is allowed."""
    width, height = size
    factor = min(1.0, math.sqrt(MOST_PIXELS / (width * height)))
    return tuple(max(SHORTEST_SIDE, round(side * factor)) for side in (width, height))  # type: ignore[return-value]


def bounded(picture: Image.Image) -> Image.Image:
    """The picture, smaller where it is larger than an answer may be."""
    if picture.width * picture.height <= MOST_PIXELS:
        return picture
    return picture.resize(within_bounds(picture.size), Image.Resampling.LANCZOS)


def drawn_size(size: Size, *, native: int, step: int, only_square: bool, most: float) -> Size:
    """How large a model draws what is asked for in this size: of the same shape where it can, and
    no larger than `most` times its own area; sides are multiples of `step`."""
    if only_square:
        return native, native
    width, height = size
    area = width * height
    factor = math.sqrt(native * native / area) if area > most * native * native else 1.0
    return tuple(max(step, round(side * factor / step) * step) for side in (width, height))  # type: ignore[return-value]


# -- enlarging ------------------------------------------------------------------------------------


def enlarged(picture: Image.Image, size: Size, *, keep_shape: bool) -> Image.Image:
    """The picture in another size.

    A little larger: Lanczos. Many times larger: edges stay as sharp as they were drawn. With
    `keep_shape` it is not stretched: what lacks at two sides goes on as the picture's rim does.
    """
    if picture.size == size:
        return picture
    if keep_shape:
        picture, size, wanted = picture, _fitting(picture.size, size), size
        return _spread(enlarged(picture, size, keep_shape=False), wanted)
    factor = min(size[0] / picture.width, size[1] / picture.height)
    if factor < CRISP_FROM:
        return picture.resize(size, Image.Resampling.LANCZOS)
    return _crisp(picture, size, factor)


def _fitting(size: Size, wanted: Size) -> Size:
    factor = min(wanted[0] / size[0], wanted[1] / size[1])
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _spread(picture: Image.Image, size: Size) -> Image.Image:
    across, down = size[0] - picture.width, size[1] - picture.height
    pixels = np.asarray(picture)
    rims = ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0))
    return Image.fromarray(np.pad(pixels, rims, mode="edge"))


def _crisp(picture: Image.Image, size: Size, factor: float) -> Image.Image:
    """Smooth curves from Lanczos; then each pixel is moved towards the darkest or the brightest of
    its neighbourhood in the drawn picture, so that an edge is about one new pixel wide."""
    low = picture.filter(ImageFilter.MinFilter(3)).resize(size, Image.Resampling.BILINEAR)
    high = picture.filter(ImageFilter.MaxFilter(3)).resize(size, Image.Resampling.BILINEAR)
    smooth = picture.resize(size, Image.Resampling.LANCZOS)
    floor, roof, value = (np.asarray(one, np.float32) for one in (low, high, smooth))
    span = roof - floor
    share = (value - floor) / np.maximum(span, 1.0)
    steep = np.clip((share - 0.5) * max(1.0, factor / STEEP) + 0.5, 0.0, 1.0)
    # Where little changes there is no edge, only the shading of a plane.
    edge = np.clip((span.max(axis=-1, keepdims=True) - 24.0) / 48.0, 0.0, 1.0)
    sharp = floor + span * steep
    return Image.fromarray(np.clip(value + edge * (sharp - value), 0, 255).astype(np.uint8))


def composed(drawn: Image.Image, original: Image.Image, mask: Image.Image) -> Image.Image:
    """The drawn picture inside the mask, blended towards its edge; outside nothing changes."""
    radius = max(1.0, min(original.size) / FEATHER_SHARE)
    soft = mask.filter(ImageFilter.GaussianBlur(radius)).point(
        lambda value: max(0, 2 * value - 255)
    )
    inside = ImageChops.darker(soft, mask)
    return Image.composite(drawn, original, inside if inside.getbbox() else mask)


# -- files ----------------------------------------------------------------------------------------


def file_of(picture: Image.Image, extension: str, quality: int) -> io.BytesIO:
    """The picture as png, jpeg or webp, open at its start."""
    file = io.BytesIO()
    if extension == "png":
        picture.save(file, "PNG", compress_level=3)
    else:
        picture.save(file, extension.upper(), quality=quality)
    file.seek(0)
    return file
