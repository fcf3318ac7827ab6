"""Models that see: token for token what `generate` gives, alone and among others."""

from __future__ import annotations

import io
import random
import time

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from inference.runners.assembly import make_cache, make_forward, prepare
from inference.runners.base import InvalidInput
from inference.runners.families import HYBRID, family_of
from inference.runners.loading import cache_layout
from inference.runners.prefix_cache import PrefixCache, chain_seed
from inference.runners.token_engine import EngineLimits, TokenEngine
from inference.runners.vision import ImageReader
from tests.inference.engines import generation, started, tokens_of
from tests.inference.tiny_vision import (
    END,
    PAD,
    START,
    build_seeing,
    picture,
    save_seeing,
    seen,
    words,
)

KINDS = ["qwen3_5", "qwen3_5_moe"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_seeing(tmp_path_factory.mktemp("seeing") / "model")


@pytest.fixture
def seeing(folder):
    """Makes engines over a model that sees, with its reader."""
    made = []

    def make(kind="qwen3_5", *, prefix_tokens=0, **limits):
        model = build_seeing(kind)
        family = family_of(model.config)
        assert (family.engine, family.takes_images) == (HYBRID, True)
        prepare(model, family)
        layout = cache_layout(model.config.text_config, model.dtype, model.device)
        budget = 8192 * layout.bytes_per_token + 8 * layout.state_bytes
        cache = make_cache(family, layout, slots=8, context=512, budget=budget)
        prefixes = None
        if prefix_tokens:
            budget = prefix_tokens * layout.bytes_per_token + 40 * cache.state_bytes
            prefixes = PrefixCache(layout, budget, state_bytes=cache.state_bytes)
        engine = TokenEngine(
            make_forward(family, model, cache),
            cache,
            eos_ids=(),
            limits=EngineLimits(**{"waiting_tokens": 10**6, **limits}),
            prefixes=prefixes,
        )
        made.append(engine)
        return engine, ImageReader(folder, model, most_pixels=1 << 20)

    yield make
    for engine in made:
        assert engine.stop(timeout=10)


def message(*images):
    return [{"role": "user", "content": [{"type": "image", "data": data} for data in images]}]


class Asked:
    """A prompt with images, and what the reference says to it."""

    def __init__(self, rng, reader, folder, *, images=1, count=12, text=None, size=None):
        self.count = count
        self.reader = reader
        self.datas = []
        for _ in range(images):
            width, height = size or (rng.randint(20, 90), rng.randint(20, 90))
            self.datas.append(picture(rng, width, height, rng.choice(["PNG", "JPEG"])))
        text = text or [
            *words(rng),
            *(token for _ in self.datas for token in (START, PAD, END, *words(rng))),
        ]
        self.prompt = reader.expand(text, self.opened())
        self.read()
        self.pixels, self.grid = torch.zeros(0), torch.zeros(0, 3)
        if self.datas:
            processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
            pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in self.datas]
            made = processor(images=pictures, return_tensors="pt")
            self.pixels, self.grid = made["pixel_values"], made["image_grid_thw"]

    def opened(self):
        return self.reader.open(message(*self.datas))

    def read(self):
        self.media = self.reader.read(self.prompt, self.opened()) if self.datas else None

    def generation(self, name, **settings):
        made = generation(name, self.prompt, self.count, **settings)
        made.media = self.media
        return made

    def wanted(self, kind="qwen3_5"):
        return seen(self.prompt, self.pixels, self.grid, self.count, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [0, 1, 3])
def test_alone_it_equals_generate(seeing, folder, kind, images):
    engine, reader = seeing(kind)
    recorder = started(engine)
    asked = Asked(random.Random(images), reader, folder, images=images)
    engine.submit(asked.generation("a"))
    assert tokens_of(recorder, "a") == asked.wanted(kind)


@pytest.mark.parametrize("prefill_tokens", [1, 13, 64])
def test_mixed_batches_with_joins_and_cancels_equal_generate(seeing, folder, prefill_tokens):
    engine, reader = seeing(prefill_tokens=prefill_tokens)
    recorder = started(engine)
    rng = random.Random(2)
    everything = {}
    for number in range(8):
        asked = everything[str(number)] = Asked(rng, reader, folder, images=rng.randint(0, 2))
        noise = Asked(rng, reader, folder, images=number % 2)
        engine.submit(noise.generation(f"noise{number}", temperature=1.0, seed=number))
        engine.submit(asked.generation(str(number)))
        time.sleep(rng.random() * 0.01)
        if number % 2:
            engine.cancel(f"noise{rng.randint(0, number)}")
    for name, asked in everything.items():
        assert tokens_of(recorder, name) == asked.wanted()
        for one in asked.media.pictures if asked.media else ():
            assert one.features is None
            assert not len(one.patches)


def test_kept_prefixes_tell_pictures_apart(seeing, folder):
    engine, reader = seeing(prefix_tokens=2048)
    recorder = started(engine)
    rng = random.Random(3)
    text = [*words(rng), START, PAD, END, *words(rng)]
    one, other = (Asked(rng, reader, folder, text=text, size=(70, 80)) for _ in range(2))
    assert one.prompt == other.prompt
    cached = []
    for name, asked in (("a", one), ("b", other), ("c", one), ("d", other)):
        asked.read()
        made = asked.generation(name)
        made.seed = chain_seed("org", asked.media.digest)
        engine.submit(made)
        assert tokens_of(recorder, name) == asked.wanted()
        cached.append(recorder.end(name).units.cached_tokens)
    assert cached[:2] == [0, 0]
    assert cached[2] == cached[3] == (len(one.prompt) - 1) // 32 * 32 > 0


def test_one_prompt_with_images_begins_per_step(seeing, folder):
    engine, reader = seeing()
    rng = random.Random(4)
    steps = []
    run = engine._model.run

    def noted(decoding, chunks, prefilling, **more):
        steps.append(sum(one.media is not None for one in prefilling))
        return run(decoding, chunks, prefilling, **more)

    engine._model.run = noted
    for number in range(4):
        engine.submit(Asked(rng, reader, folder, images=1).generation(str(number)))
    recorder = started(engine)
    recorder.wait(*"0123")
    assert max(steps) == 1


def test_large_images_are_scaled_down(folder):
    reader = ImageReader(folder, build_seeing(), most_pixels=4096)
    opened = reader.open(message(picture(random.Random(1), 400, 300)))
    prompt = reader.expand([5, PAD, 6], opened)
    assert prompt.count(PAD) * 256 <= 4096
    assert reader.read(prompt, opened).pictures[0].count == prompt.count(PAD)


def test_a_template_that_loses_an_image_is_refused(folder):
    reader = ImageReader(folder, build_seeing(), most_pixels=4096)
    opened = reader.open(message(picture(random.Random(1), 40, 30)))
    with pytest.raises(InvalidInput):
        reader.expand([5, 6], opened)
    with pytest.raises(InvalidInput):
        reader.expand([PAD, PAD], opened)
