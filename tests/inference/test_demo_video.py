"""The video demo: its data, the check, the training script, and the weights that are shipped."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from inference.contracts.video import TEXT_TO_VIDEO, VideoInput
from inference.demo import train_video
from inference.demo.evaluate_video import (
    Cinema,
    check_of_the_check,
    continued,
    told,
)
from inference.demo.image_data import COLOURS
from inference.demo.video_check import watch
from inference.demo.video_data import (
    DIRECTIONS,
    FRAMES,
    PAINTS,
    SHAPES,
    SIDE,
    Director,
    Move,
    draw,
    is_kept,
    sunset,
    vocabulary,
)

MB = 1024 * 1024
LIMIT = 4.5 * MB


def test_the_check_knows_true_drawings():
    shares = check_of_the_check(200, seed=1).shares()
    assert min(shares.values()) >= 0.98


def test_the_check_tells_what_does_not_move_or_is_not_there():
    assert watch([Image.new("RGB", (SIDE, SIDE), COLOURS["blue"])] * FRAMES) is None
    move = Move("square", "red", "blue", "left", 6.0, 24.0, 16.0, 14.0)
    film = draw(move)
    seen = watch(film)
    assert (seen.shape, seen.colour, seen.ground, seen.direction) == (
        "square",
        "red",
        "blue",
        "left",
    )
    assert seen.way == pytest.approx(14.0, abs=1.0)
    assert (watch(film[::-1]).direction, seen.is_steady) == ("right", True)
    assert watch(film[:1] * FRAMES).direction == ""
    assert not watch([*film[::2], *film[1::2]]).is_steady


def test_what_is_kept_is_never_trained_on_and_is_a_part_of_everything():
    director = Director(4)
    assert not any(director.move().is_kept for _ in range(300))
    kept = [director.move(kept=True) for _ in range(300)]
    assert all(move.is_kept for move in kept)
    assert {move.shape for move in kept} == set(SHAPES)
    assert {move.colour for move in kept} == set(PAINTS)
    assert {move.direction for move in kept} == set(DIRECTIONS)
    every = [(s, c, d) for s in SHAPES for c in PAINTS for d in DIRECTIONS]
    assert 10 <= sum(is_kept(*one) for one in every) <= 16


def test_equal_seeds_draw_equal_films_and_words_tell_what_happens():
    one, two = Director(3), Director(3)
    for _ in range(10):
        (first, words), (second, same) = one.sample(), two.sample()
        assert words == same
        assert [frame.tobytes() for frame in first] == [frame.tobytes() for frame in second]
        assert (len(first), first[0].size) == (FRAMES, (SIDE, SIDE))
    move = Move("circle", "red", "blue", "up", 6.0, 16.0, 24.0, 12.0)
    for _ in range(20):
        words = Director(0).words(move, whole=True).split()
        assert {"red", "blue"} <= set(words)
    assert len(sunset(Director(1).chance)) == FRAMES


def test_every_word_of_a_caption_is_in_the_vocabulary():
    known = set(vocabulary())
    assert {*PAINTS, *SHAPES, *DIRECTIONS, "sunset", "ocean", "ball"} <= known
    tokenizer = train_video.make_tokenizer(vocabulary(), train_video.WORDS)
    director = Director(9)
    read = [tokenizer(director.words(director.move())).input_ids for _ in range(300)]
    assert max(map(len, read)) <= train_video.WORDS
    assert not any(tokenizer.unk_token_id in ids for ids in read)


@pytest.mark.slow
def test_a_training_run_leaves_a_folder_that_the_runner_serves(tmp_path):
    plan = train_video.Plan(vae_steps=1, steps=1, polish_steps=1, rows=2, pool=1, fresh=1)
    vae = train_video.train_vae(plan)
    pipeline = train_video.train(plan, vae, tmp_path / "early")
    assert (tmp_path / "early" / "model_index.json").is_file()  # what a cut-off run leaves
    before = [weight.clone() for weight in vae.encoder.parameters()]
    train_video.polish(vae, plan)
    assert all(map(torch.equal, before, vae.encoder.parameters()))
    train_video.save(pipeline, tmp_path / "m")
    assert size_of(tmp_path / "m") < LIMIT
    cinema = Cinema(tmp_path / "m", steps=2)
    try:
        wish = VideoInput("a red circle moving up", 256, 128, 13, 8)
        (film,) = cinema([(TEXT_TO_VIDEO, wish)])
        assert (len(film), film[0].size) == (13, (256, 128))
    finally:
        cinema.close()


def size_of(folder) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def cinema():
    if not (train_video.OUT / "model_index.json").is_file():
        pytest.skip("the demo weights are not in this checkout")
    made = Cinema(train_video.OUT)
    yield made
    made.close()


@pytest.mark.slow
def test_the_shipped_weights_move_things_where_they_are_told(cinema):
    shares = told(cinema, 48, seed=11).shares()
    assert shares["direction"] >= 0.8  # colours and shapes are not yet there; see their README


@pytest.mark.slow
def test_the_shipped_weights_go_on_from_the_picture_they_are_given(cinema):
    score, apart = continued(cinema, 32, seed=12)
    shares = score.shares()
    assert shares["direction"] >= 0.9
    assert min(shares["colour"], shares["ground"]) >= 0.9
    assert apart <= 10


def test_the_shipped_weights_are_small():
    assert size_of(train_video.OUT) < LIMIT
