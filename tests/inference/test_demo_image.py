"""The image demo: its data, the check, the training script, and the weights that are shipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from inference.contracts.images import GENERATION, ImageInput
from inference.demo import train_image
from inference.demo.evaluate_image import Studio, check_of_the_check, drawn, repainted
from inference.demo.image_check import look
from inference.demo.image_data import COLOURS, SHAPES, SIDE, Artist, Scene, draw, vocabulary
from inference.demo.image_views import VIEWS

MB = 1024 * 1024
LIMIT = 5.5 * MB


def test_the_check_knows_true_drawings():
    shares = check_of_the_check(400, seed=1).shares()
    assert min(shares.values()) >= 0.97


def test_the_check_tells_what_is_not_there():
    assert look(Image.new("RGB", (SIDE, SIDE), COLOURS["blue"])) is None
    seen = look(draw(Scene("star", "red", "blue", 18, 20, 40)))
    assert (seen.shape, seen.colour, seen.ground) == ("star", "red", "blue")
    assert (seen.x, seen.y) == (pytest.approx(20, abs=1.5), pytest.approx(40, abs=1.5))
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    seen = look(Image.fromarray(noise))
    assert seen is None or seen.fit < 0.6


def test_equal_seeds_draw_equal_pictures_and_words_tell_what_is_drawn():
    one, two = Artist(3), Artist(3)
    for _ in range(20):
        (first, words), (second, same) = one.sample(), two.sample()
        assert words == same
        assert first.tobytes() == second.tobytes()
        assert first.size == (SIDE, SIDE)
    scene = Scene("heart", "pink", "black", 10, 20, 30, "small", "left")
    words = Artist(0).words(scene, whole=True).split()
    assert {"heart", "pink", "black", "left"} <= set(words)


def test_every_word_of_a_caption_is_in_the_vocabulary():
    known = set(vocabulary())
    assert set(COLOURS) | set(SHAPES) <= known
    assert {"neon", "sunset", "planet", "mountains"} <= known
    tokenizer = train_image.make_tokenizer(vocabulary())
    assert tokenizer.unk_token_id not in tokenizer("A red circle on a blue background").input_ids
    longest = max(len(tokenizer(Artist(9).sample()[1]).input_ids) for _ in range(200))
    assert longest <= train_image.WORDS
    assert len(VIEWS) == 4


@pytest.mark.slow
def test_a_training_run_leaves_a_folder_that_the_runner_serves(tmp_path):
    plan = train_image.Plan(vae_steps=1, steps=1, polish_steps=1, rows=2, pool=1, fresh=1)
    vae = train_image.train_vae(plan)
    pipeline = train_image.train(plan, vae)
    before = [weight.clone() for weight in vae.encoder.parameters()]
    train_image.polish(vae, plan)
    assert all(map(torch.equal, before, vae.encoder.parameters()))
    train_image.save(pipeline, tmp_path)
    assert size_of(tmp_path) < LIMIT
    studio = Studio(tmp_path)
    try:
        wish = ImageInput("a red circle", width=256, height=128, steps=2)
        (picture,) = studio([(GENERATION, wish)])
        assert picture.size == (256, 128)
    finally:
        studio.close()


def size_of(folder) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def studio():
    if not (train_image.OUT / "model_index.json").is_file():
        pytest.skip("the demo weights are not in this checkout")
    made = Studio(train_image.OUT)
    yield made
    made.close()


@pytest.mark.slow
def test_the_shipped_weights_draw_what_they_are_told(studio):
    shares = drawn(studio, 100, seed=21).shares()
    assert min(shares["colour"], shares["ground"]) >= 0.9
    assert shares["shape"] >= 0.75  # see the weights' README


@pytest.mark.slow
def test_the_shipped_weights_repaint_what_is_masked_and_nothing_else(studio):
    score, untouched = repainted(studio, 50, seed=22)
    assert untouched == 1.0
    shares = score.shares()
    assert min(shares["colour"], shares["ground"], shares["shape"]) >= 0.9


def test_a_red_circle_on_blue(studio):
    wish = ImageInput("a red circle on blue", width=512, height=512, seed=7)
    (picture,) = studio([(GENERATION, wish)])
    seen = look(picture)
    assert (seen.shape, seen.colour, seen.ground) == ("circle", "red", "blue")


def test_the_shipped_weights_are_small():
    assert size_of(train_image.OUT) < LIMIT
