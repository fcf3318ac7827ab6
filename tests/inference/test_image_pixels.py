"""Sizes, enlarging and compositing of pictures, without a model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from inference.contracts.images import size_of
from inference.runners import image_pixels as pixels

BLUE, RED = (40, 80, 210), (220, 40, 40)


def circle(side=64) -> Image.Image:
    large = Image.new("RGB", (side * 4, side * 4), BLUE)
    ImageDraw.Draw(large).ellipse((side, side, side * 3, side * 3), fill=RED)
    return large.resize((side, side), Image.Resampling.BOX)


def test_enlarged_edges_are_sharp_and_planes_stay_plain():
    large = np.asarray(pixels.enlarged(circle(), (1024, 1024), keep_shape=True), int)
    assert (large[0] == BLUE).all()
    assert (large[512, 400:600] == RED).all()
    to_blue, to_red = (np.abs(large - np.array(one)).max(axis=-1) for one in (BLUE, RED))
    between = (to_blue > 12) & (to_red > 12)
    # A ring of 2 pi 256 is about 1,600 long; it is no wider than a few pixels.
    assert between.sum() < 1_600 * 8
    smooth = np.asarray(circle().resize((1024, 1024), Image.Resampling.LANCZOS), int)
    blurred = (np.abs(smooth - BLUE).max(axis=-1) > 12) & (np.abs(smooth - RED).max(axis=-1) > 12)
    assert between.sum() < 0.6 * blurred.sum()


def test_a_shape_is_kept_where_the_sides_differ():
    wide = np.asarray(pixels.enlarged(circle(), (1024, 512), keep_shape=True), int)
    red = np.abs(wide - np.array(RED)).max(axis=-1) < 12
    rows, columns = np.nonzero(red)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=4)
    assert columns.mean() == pytest.approx(511.5, abs=2)
    assert (wide[:, :100] == BLUE).all()
    stretched = pixels.enlarged(circle(), (1024, 512), keep_shape=False)
    assert stretched.size == (1024, 512)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((1024, 1024), (1024, 1024)),
        ((1536, 1024), (1536, 1024)),
        ((1000, 700), (992, 704)),
        ((2048, 2048), (1024, 1024)),
        ((2048, 1024), (2048, 1024)),
        ((64, 64), (64, 64)),
        ((2048, 1536), (1184, 880)),
    ],
)
def test_a_model_draws_near_its_own_size(size, drawn):
    found = pixels.drawn_size(size, native=1024, step=16, only_square=False, most=2.25)
    assert found == drawn


def test_what_knows_one_size_draws_that():
    for size in ((1024, 512), (64, 2048)):
        assert pixels.drawn_size(size, native=64, step=16, only_square=True, most=2.25) == (64, 64)


def test_pictures_beyond_what_is_allowed_are_answered_smaller():
    assert pixels.within_bounds((300, 200)) == (300, 200)
    assert pixels.within_bounds((4096, 4096)) == (2048, 2048)
    assert pixels.within_bounds((8192, 2048)) == (4096, 1024)
    assert pixels.bounded(Image.new("RGB", (32, 20))).size == (32, 20)
    assert pixels.bounded(Image.new("RGB", (4096, 2048))).size == (2896, 1448)


def test_outside_a_mask_nothing_changes_and_its_inside_is_the_drawn_one():
    original, drawn = circle(100), Image.new("RGB", (100, 100), (250, 220, 50))
    mask = Image.new("L", (100, 100))
    mask.paste(255, (30, 40, 80, 90))
    found = np.asarray(pixels.composed(drawn, original, mask))
    kept = np.asarray(mask) == 0
    assert (found[kept] == np.asarray(original)[kept]).all()
    assert (found[50:80, 40:70] == (250, 220, 50)).all()
    thin = Image.new("L", (100, 100))
    thin.paste(255, (50, 0, 51, 100))
    assert (np.asarray(pixels.composed(drawn, original, thin))[:, 50] == (250, 220, 50)).all()


def test_several_pictures_stand_beside_each_other():
    joined = pixels.side_by_side([Image.new("RGB", (40, 20), RED), Image.new("RGB", (10, 10))])
    assert joined.size == (60, 20)
    assert (joined.getpixel((39, 10)), joined.getpixel((41, 10))) == (RED, (0, 0, 0))


@pytest.mark.parametrize(
    "text", ["1024", "x", "1024x", "10x10", "4096x64", "-64x64", "6\uff14x64", "a"]
)
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="must"):
        size_of(text)


def test_sizes():
    assert size_of("1024x768") == (1024, 768)
    assert (size_of("auto"), size_of(None)) == (None, None)
