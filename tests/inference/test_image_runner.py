"""Pictures by tiny pipelines with random weights: from a folder to files."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from inference.contracts.images import EDIT, GENERATION, ImageInput
from inference.runners.base import Ended, InvalidInput, LoadError, Progress, RunnerConfig
from inference.runners.registry import runner_class
from tests.inference import tiny_images
from tests.inference.recorder import Recorder

FAMILIES = {
    "flux": tiny_images.flux,
    "z_image": tiny_images.z_image,
    "qwen_image": tiny_images.qwen_image,
}


class Host:
    """A loaded Runner and what it says."""

    def __init__(self, folder, **options):
        options = {"native_side": 32, "steps": 3, **options}
        self.runner = runner_class("images")(RunnerConfig("m", str(folder), options=options))
        self.memory = self.runner.load(lambda share, text: None)
        self.seen = Recorder()
        self.runner.start(self.seen)
        self.count = 0

    def submit(self, task=GENERATION, prompt="a red circle", **wishes) -> str:
        self.count += 1
        name = f"r{self.count}"
        asked = ImageInput(prompt=prompt, **{"seed": 1, **wishes})
        self.runner.submit(name, task, asked.as_dict(), salt="org")
        return name

    def pictures(self, task=GENERATION, **wishes):
        end = self.seen.end(self.submit(task, **wishes))
        assert isinstance(end, Ended), end
        return [Image.open(item.content) for item in end.media]

    def picture(self, task=GENERATION, **wishes) -> np.ndarray:
        (found,) = self.pictures(task, **wishes)
        return np.asarray(found.convert("RGB"), int)


def part(picture: Image.Image, kind: str = "PNG") -> dict:
    file = io.BytesIO()
    picture.save(file, kind)
    return {"type": "image", "data": file.getvalue()}


def scene(size=(64, 64)) -> Image.Image:
    picture = Image.new("RGB", size, (40, 80, 210))
    ImageDraw.Draw(picture).rectangle((4, 4, size[0] // 2, size[1] // 2), fill=(220, 40, 40))
    return picture


def hole(size=(64, 64), box=(32, 0, 64, 64)) -> Image.Image:
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), box)
    return mask


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def any_family(request, tmp_path_factory):
    host = Host(FAMILIES[request.param](tmp_path_factory.mktemp(request.param)))
    yield host
    host.runner.unload()


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    made = Host(tiny_images.flux(tmp_path_factory.mktemp("flux")))
    yield made
    made.runner.unload()


def test_every_family_draws_changes_and_fills(any_family):
    host = any_family
    assert host.pictures(width=32, height=32)[0].size == (32, 32)
    changed = host.picture(EDIT, image=(part(scene()),), strength=1.0)
    assert changed.shape == (64, 64, 3)
    filled = host.picture(EDIT, image=(part(scene()),), mask=part(hole()))
    original = np.asarray(scene(), int)
    assert (filled[:, :32] == original[:, :32]).all()
    assert (filled[:, 40:] != original[:, 40:]).any()


def test_a_seed_gives_the_same_picture_and_each_further_one_counts_up(host):
    first, second = host.pictures(count=2, seed=7)
    again, other = host.picture(seed=7), host.picture(seed=8)
    # In company the last bit may differ, and be rounded the other way.
    assert abs(np.asarray(first, int) - again).max() <= 1
    assert abs(np.asarray(second, int) - other).max() <= 1
    assert (host.picture(seed=7) == again).all()
    assert (again != other).any()
    assert (host.picture(seed=None) != host.picture(seed=None)).any()


def test_sizes_formats_and_units(host):
    end = host.seen.end(host.submit(count=2, width=96, height=64, format="webp"))
    assert [Image.open(item.content).format for item in end.media] == ["WEBP", "WEBP"]
    assert [item.about for item in end.media] == [{"width": 96, "height": 64}] * 2
    assert [item.extension for item in end.media] == ["webp", "webp"]
    assert (end.units.images, end.units.pixels) == (2, 2 * 96 * 64)
    assert host.pictures(width=1024, height=768, format="jpeg")[0].size == (1024, 768)


def test_progress_counts_the_steps_that_are_really_made(host):
    def told(name):
        host.seen.wait(name)
        return [one.message for one in host.seen.by_id[name] if isinstance(one, Progress)]

    assert told(host.submit(steps=4)) == [f"step {n} of 4" for n in (1, 2, 3, 4)]
    half = host.submit(EDIT, image=(part(scene()),), strength=0.5, steps=4)
    assert told(half) == ["step 1 of 2", "step 2 of 2"]
    assert told(host.submit(EDIT, image=(part(scene()),), strength=0.0)) == ["step 1 of 1"]


def test_a_negative_prompt_and_guidance_change_the_picture(host):
    plain = host.picture()
    led = host.picture(guidance=6.0)
    away = host.picture(negative_prompt="blue")
    assert (plain != led).any()
    assert (plain != away).any()
    assert (host.picture(guidance=1.0) == plain).all()


def test_a_models_usual_guidance_is_taken_where_none_is_said(tmp_path, host):
    led = Host(tiny_images.flux(tmp_path / "m"), guidance=6.0)
    try:
        assert (led.picture() == host.picture(guidance=6.0)).all()
        assert (led.picture(guidance=1.0) == host.picture()).all()
    finally:
        led.runner.unload()


def test_a_model_with_guidance_as_an_input_is_given_it(tmp_path):
    host = Host(tiny_images.flux(tmp_path / "guided", guided=True))
    try:
        assert (host.picture(guidance=1.0) != host.picture(guidance=9.0)).any()
        assert (host.picture() != host.picture(negative_prompt="blue square")).any()
    finally:
        host.runner.unload()


def test_outside_the_mask_every_pixel_stays_in_any_size(host):
    picture, mask = scene((300, 200)), hole((300, 200), (101, 33, 230, 180))
    filled = host.picture(EDIT, image=(part(picture),), mask=part(mask))
    kept = np.asarray(mask.getchannel("A")) > 0
    assert (filled[kept] == np.asarray(picture, int)[kept]).all()
    assert (filled[~kept] != np.asarray(picture, int)[~kept]).mean() > 0.5


def test_white_of_a_mask_without_transparency_and_holes_of_the_picture_itself_mean_the_same(host):
    white = Image.new("L", (64, 64))
    white.paste(255, (32, 0, 64, 64))
    open_picture = scene().convert("RGBA")
    open_picture.putalpha(hole().getchannel("A"))
    by_alpha = host.picture(EDIT, image=(part(scene()),), mask=part(hole()))
    assert (host.picture(EDIT, image=(part(scene()),), mask=part(white)) == by_alpha).all()
    itself = host.picture(EDIT, image=(part(open_picture),))
    assert (itself[:, :32] == np.asarray(scene(), int)[:, :32]).all()
    assert (itself[:, 40:] != np.asarray(scene(), int)[:, 40:]).any()


def test_several_pictures_stand_side_by_side_or_go_into_the_mask(host):
    other = Image.new("RGB", (32, 64), (250, 220, 50))
    both = (part(scene()), part(other))
    assert host.pictures(EDIT, image=both)[0].size == (96, 64)
    filled = host.picture(EDIT, image=both, mask=part(hole()), strength=0.01)
    assert (filled[:, :32] == np.asarray(scene(), int)[:, :32]).all()


@pytest.mark.parametrize(
    ("wishes", "code", "param"),
    [
        ({"image": ({"type": "image", "data": b"no"},)}, "invalid_image", "image"),
        ({"image": (part(scene()), {"type": "image"})}, "invalid_image", "image[1]"),
        ({"mask": part(hole())}, "invalid_value", "mask"),
        (
            {"image": (part(scene()),), "mask": part(hole((32, 32), (0, 0, 8, 8)))},
            "invalid_image",
            "mask",
        ),
        (
            {"image": (part(scene()),), "mask": part(Image.new("RGBA", (64, 64), "black"))},
            "invalid_image",
            "mask",
        ),
        ({"format": "gif"}, "invalid_value", "output_format"),
    ],
)
def test_what_cannot_be_read_is_refused(host, wishes, code, param):
    with pytest.raises(InvalidInput) as raised:
        host.submit(EDIT, **wishes)
    assert (raised.value.code, raised.value.param) == (code, param)


def test_another_task_is_refused(host):
    with pytest.raises(InvalidInput):
        host.submit("openai/audio-speech")


def test_memory_is_that_of_weights_and_a_decoded_run(host):
    config = host.runner._config
    assert host.memory.weights == host.runner.estimate(config).weights
    assert host.memory.workspace > 0
    assert host.runner.describe() == "steps, FluxPipeline"


def test_folders_that_could_carry_code_are_refused(tmp_path):
    folder = tiny_images.flux(tmp_path / "m")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vae": ["os", "system"]}))
    with pytest.raises(LoadError, match="vae comes from 'os'"):
        Host(folder)
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "vae" / "x.py").write_text("")
    with pytest.raises(LoadError, match="could carry code"):
        Host(folder)
    with pytest.raises(LoadError, match="is not a folder"):
        Host(tmp_path / "none")
