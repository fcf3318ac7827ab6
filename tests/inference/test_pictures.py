"""Images are opened within bounds, and whatever is wrong with them is the caller's 400."""

from __future__ import annotations

import io
import random
import struct
import zlib

import pytest
from PIL import Image

from inference.runners.base import InvalidInput
from inference.runners.pictures import MAX_PIXELS, decode, open_picture
from tests.inference.tiny_vision import picture

PLACE = "messages[0].content[1]"


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width, height, data=b"x"):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def saved(form, mode="RGB", size=(20, 30), **settings):
    file = io.BytesIO()
    Image.new(mode, size, 0).save(file, form, **settings)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_the_four_formats_are_read(form):
    data = picture(random.Random(1), 40, 30, form)
    image = decode(open_picture(data, param=PLACE), param=PLACE)
    assert (image.size, image.mode) == ((40, 30), "RGB")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode):
    image = open_picture(saved("PNG", mode), param=PLACE)
    assert decode(image, param=PLACE).mode == "RGB"


def test_the_first_frame_of_an_animation_is_read():
    frames = [Image.new("RGB", (20, 30), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    image = decode(open_picture(file.getvalue(), param=PLACE), param=PLACE)
    assert image.getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_picture(saved("JPEG", exif=exif.tobytes()), param=PLACE)
    expected = image.upright_size
    made = decode(image, param=PLACE)
    assert (made.height, made.width) == expected
    assert made.size == ((30, 20) if orientation >= 5 else (20, 30))


@pytest.mark.parametrize(
    "data",
    [
        None,
        "text",
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html></html>",
        b"\x89PNG\r\n\x1a\n",
        b"#EXTM3U\n",
        saved("BMP"),
        saved("TIFF"),
        saved("PPM"),
        saved("ICO"),
        png(50_000, 50_000),
        png(MAX_PIXELS, 2),
        png(1000, 1),
        png(0, 10),
        png(2**31 - 1, 2**31 - 1),
    ],
)
def test_what_cannot_be_opened_is_refused(data):
    with pytest.raises(InvalidInput) as caught:
        open_picture(data, param=PLACE)
    assert (caught.value.code, caught.value.param) == ("invalid_image", PLACE)


@pytest.mark.parametrize(
    "data",
    [
        png(100, 100),
        png(100, 100, zlib.compress(b"\0" * 50)),
        picture(random.Random(2), 40, 40, "JPEG")[:300],
        picture(random.Random(2), 40, 40, "WEBP")[:300],
    ],
)
def test_damaged_images_are_refused_when_decoded(data):
    with pytest.raises(InvalidInput) as caught:
        decode(open_picture(data, param=PLACE), param=PLACE)
    assert (caught.value.code, caught.value.param) == ("invalid_image", PLACE)
