"""Models that see: token for token what `generate` gives, alone and among others."""

from __future__ import annotations

import io
import random
import time

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from inference.contracts.chat import TASK, ChatInput, Sampling
from inference.runners.assembly import make_cache, make_forward, prepare
from inference.runners.base import Delta, InvalidInput, RunnerConfig
from inference.runners.chat import ChatRunner
from inference.runners.families import HYBRID, family_of
from inference.runners.loading import cache_layout
from inference.runners.prefix_cache import PrefixCache, chain_seed
from inference.runners.text import DetokenizerFactory
from inference.runners.token_engine import EngineLimits, TokenEngine
from inference.runners.vision import ImageReader
from tests.inference.engines import generation, started, tokens_of
from tests.inference.recorder import Recorder
from tests.inference.tiny_models import save_folder
from tests.inference.tiny_vision import (
    END,
    PAD,
    START,
    build_seeing,
    picture,
    save_seeing,
    seeing_tokenizer,
    seen,
    words,
)

IMAGE = object()
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

    def noted(decoding, chunks, prefilling, *more):
        steps.append(sum(one.media is not None for one in prefilling))
        return run(decoding, chunks, prefilling, *more)

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


@pytest.fixture(scope="module")
def serving(folder):
    settings = RunnerConfig("seeing", str(folder), dtype="float32", slots=4)
    runner = ChatRunner(settings)
    memory = runner.load(lambda share, text: None)
    assert memory.weights == pytest.approx(ChatRunner.estimate(settings).weights, rel=0.1)
    recorder = Recorder()
    runner.start(recorder)
    yield runner, recorder
    runner.unload()


def ask(runner, name, content, **settings):
    messages = [{"role": "user", "content": content}]
    chat = ChatInput(
        messages, Sampling(temperature=0), **{"max_tokens": 10, "ignore_eos": True, **settings}
    )
    runner.submit(name, TASK, chat.as_dict(), salt="org")


def test_a_folder_that_sees_is_served(serving, folder):
    runner, recorder = serving
    assert (runner.describe(), runner.takes_images) == ("hybrid, images", True)
    datas = [picture(random.Random(number), 50 + number, 40) for number in range(2)]
    content = [
        {"type": "text", "text": "the cat <|image_pad|>"},
        {"type": "image", "data": datas[0]},
        {"type": "text", "text": " and the dog"},
        {"type": "image", "data": datas[1]},
    ]
    for name in "abc":
        ask(runner, name, content, n=2 if name == "b" else 1)
    tokenizer = seeing_tokenizer()
    pieces = [
        *("<|im_start|>", "user\n", "the cat ", "<", "|image_pad|>", IMAGE, " and the dog", IMAGE),
        *("<|im_end|>", "\n", "<|im_start|>", "assistant\n"),
    ]
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in datas]
    made = AutoImageProcessor.from_pretrained(folder, backend="pil")(
        images=pictures, return_tensors="pt"
    )
    counts = iter((made["image_grid_thw"].prod(-1) // 4).tolist())
    prompt = []
    for piece in pieces:
        if piece is IMAGE:
            prompt += [START, *[PAD] * next(counts), END]
        else:
            prompt += tokenizer(piece, add_special_tokens=False)["input_ids"]
    answer = seen(prompt, made["pixel_values"], made["image_grid_thw"], 10, "qwen3_5")
    detokenizer = DetokenizerFactory(tokenizer.backend_tokenizer)()
    text = "".join(map(detokenizer.push, answer))
    for name in "abc":
        recorder.wait(name)
        deltas = [one for one in recorder.by_id[name] if isinstance(one, Delta)]
        for choice in range(2 if name == "b" else 1):
            assert "".join(one.text for one in deltas if one.choice == choice) == text
    assert recorder.end("a").units.prompt_tokens == len(prompt)
    assert recorder.end("c").units.cached_tokens > 0


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "invalid_image"), (picture(random.Random(1), 60, 40)[:200], "invalid_image")],
)
def test_broken_images_are_refused(serving, data, code):
    runner, _ = serving
    with pytest.raises(InvalidInput) as caught:
        ask(runner, "broken", [{"type": "text", "text": "x"}, {"type": "image", "data": data}])
    assert (caught.value.code, caught.value.param) == (code, "messages[0].content[1]")


def test_images_count_towards_the_context(serving):
    runner, _ = serving
    image = {"type": "image", "data": picture(random.Random(1), 125, 125)}
    with pytest.raises(InvalidInput) as caught:
        ask(runner, "long", [image] * 9)
    assert caught.value.code == "context_length_exceeded"


def test_a_text_model_refuses_images(tmp_path):
    runner = ChatRunner(
        RunnerConfig("text", str(save_folder(tmp_path / "text")), dtype="float32", slots=2)
    )
    runner.load(lambda share, text: None)
    try:
        assert not runner.takes_images
        with pytest.raises(InvalidInput) as caught:
            ask(runner, "a", [{"type": "image", "url": "http://127.0.0.1/"}])
        assert (caught.value.code, caught.value.param) == ("invalid_value", "messages")
    finally:
        runner.unload()
