"""Films by tiny Wan pipelines with random weights: from a folder to files."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from inference.contracts.video import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, VideoInput
from inference.runners.base import Ended, InvalidInput, LoadError, Progress, RunnerConfig
from inference.runners.registry import runner_class
from tests.inference import tiny_images, tiny_videos
from tests.inference.recorder import Recorder

SMALL = {"width": 64, "height": 64, "frames": 5, "fps": 8}
OPTIONS = {"native_side": 64, "native_frames": 17, "steps": 3, "rows": 4}


class Host:
    """A loaded Runner and what it says."""

    def __init__(self, folder, dtype="float32", **options):
        config = RunnerConfig("m", str(folder), dtype=dtype, options={**OPTIONS, **options})
        self.runner = runner_class("video")(config)
        self.memory = self.runner.load(lambda share, text: None)
        self.seen = Recorder()
        self.runner.start(self.seen)
        self.count = 0

    def submit(self, task=TEXT_TO_VIDEO, prompt="a red circle", salt="org", **wishes) -> str:
        self.count += 1
        name = f"r{self.count}"
        asked = VideoInput(prompt=prompt, **{"seed": 1, **SMALL, **wishes})
        self.runner.submit(name, task, asked.as_dict(), salt=salt)
        return name

    def end(self, name) -> Ended:
        end = self.seen.end(name)
        assert isinstance(end, Ended), end
        return end

    def film(self, task=TEXT_TO_VIDEO, **wishes) -> np.ndarray:
        (media,) = self.end(self.submit(task, **wishes)).media
        with media.content:
            return decoded(media.content)[0]


def decoded(file) -> tuple[np.ndarray, Fraction, str, str]:
    """Frames, their rate, the codec and how pixels are laid down."""
    with av.open(file) as container:
        stream = container.streams.video[0]
        frames = [one.to_ndarray(format="rgb24") for one in container.decode(stream)]
        context = stream.codec_context
        return np.stack(frames).astype(int), stream.average_rate, context.name, context.pix_fmt


def part(size=(64, 64), kind: str = "PNG") -> dict:
    picture = Image.new("RGB", size, (40, 80, 210))
    picture.paste((220, 40, 40), (4, 4, size[0] // 2, size[1] // 2))
    file = io.BytesIO()
    picture.save(file, kind)
    return {"type": "image", "data": file.getvalue()}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    made = Host(tiny_videos.from_both(tmp_path_factory.mktemp("ti2v")))
    yield made
    made.runner.unload()


FAMILIES = {
    "from_words": {TEXT_TO_VIDEO},
    "two_experts": {TEXT_TO_VIDEO},
    "from_both": {TEXT_TO_VIDEO, IMAGE_TO_VIDEO},
    "from_pictures": {IMAGE_TO_VIDEO},
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_kind_of_wan_makes_films_of_what_it_can_start_from(family, tmp_path):
    host = Host(getattr(tiny_videos, family)(tmp_path / "m"))
    try:
        for task in (TEXT_TO_VIDEO, IMAGE_TO_VIDEO):
            wish = {"image": (part(),)} if task == IMAGE_TO_VIDEO else {}
            if task in FAMILIES[family]:
                assert host.film(task, **wish).shape == (5, 64, 64, 3)
            else:
                with pytest.raises(InvalidInput) as raised:
                    host.submit(task, **wish)
                assert raised.value.param == "model"
    finally:
        host.runner.unload()


def test_the_file_is_h264_in_mp4_with_its_index_first(host):
    end = host.end(host.submit(width=96, height=64, frames=9, fps=12))
    (media,) = end.media
    content = media.content.read()
    assert content[4:8] == b"ftyp"
    assert 0 < content.index(b"moov") < content.index(b"mdat")
    frames, rate, codec, pixels = decoded(io.BytesIO(content))
    assert (frames.shape, rate, codec, pixels) == ((9, 64, 96, 3), 12, "h264", "yuv420p")
    assert (media.extension, media.about) == (
        "mp4",
        {"width": 96, "height": 64, "num_frames": 9, "fps": 12, "duration": 0.75, "seed": 1},
    )
    assert (end.units.video_ms, end.units.images) == (750, 0)


def test_a_seed_gives_the_same_film_alone_and_in_company(host):
    alone = host.film(seed=7)
    assert (host.film(seed=7) == alone).all()
    assert (host.film(seed=8) != alone).any()
    assert (host.film(seed=None) != host.film(seed=None)).any()
    host.submit(steps=40)  # what comes meanwhile is made together
    names = [host.submit(seed=seed, salt=f"org{seed}") for seed in (6, 7, 8)]
    together = [decoded(host.end(name).media[0].content)[0] for name in names]
    assert abs(together[1] - alone).mean() < 1


def test_what_is_not_said_is_told_by_the_seed_that_was_taken(host):
    (media,) = host.end(host.submit(seed=None)).media
    again = host.film(seed=media.about["seed"])
    assert (decoded(media.content)[0] == again).all()


def test_words_guidance_and_steps_change_the_film(host):
    plain = host.film()
    assert (host.film(prompt="a blue square") != plain).any()
    assert (host.film(negative_prompt="blue") != plain).any()
    assert (host.film(guidance=12.0) != plain).any()
    assert (host.film(steps=5) != plain).any()
    # Without guidance nothing is led away from.
    assert (host.film(guidance=1.0) == host.film(guidance=1.0, negative_prompt="blue")).all()


def test_progress_tells_every_step_and_a_cancel_ends_between_two(host):
    name = host.submit(steps=4)
    host.seen.wait(name)
    told = [one for one in host.seen.by_id[name] if isinstance(one, Progress)]
    assert [one.message for one in told] == [f"step {n} of 4" for n in (1, 2, 3, 4)]
    assert [one.fraction for one in told] == sorted(one.fraction for one in told)
    long = host.submit(steps=100, frames=17)
    host.runner.cancel(long)
    end = host.end(long)
    assert (end.reason, end.units.video_ms, end.media) == ("cancelled", 0, ())


def test_a_film_of_a_picture_has_its_shape_where_no_size_is_said(host):
    sizes = {"width": None, "height": None}
    for size, found in (((128, 66), (128, 66)), ((301, 201), (300, 200)), ((64, 640), (64, 640))):
        wish = {**sizes, "image": (part(size),)}
        assert host.film(IMAGE_TO_VIDEO, **wish).shape == (5, found[1], found[0], 3)
    large = host.film(IMAGE_TO_VIDEO, **sizes, image=(part((3000, 2000)),))
    assert large.shape[1:] == (784, 1176, 3)
    other = host.film(IMAGE_TO_VIDEO, image=(part((300, 100), "JPEG"),))
    assert other.shape[1:] == (64, 64, 3)


def test_the_picture_counts(host):
    red = Image.new("RGB", (64, 64), "red")
    file = io.BytesIO()
    red.save(file, "PNG")
    first = host.film(IMAGE_TO_VIDEO, image=(part(),))
    other = host.film(IMAGE_TO_VIDEO, image=({"type": "image", "data": file.getvalue()},))
    assert (first != other).any()
    assert (host.film(IMAGE_TO_VIDEO, image=(part(),)) == first).all()


@pytest.mark.parametrize(
    ("wishes", "code", "param"),
    [
        ({"image": ()}, "invalid_value", "image"),
        ({"image": ({"type": "image", "data": b"no"},)}, "invalid_image", "image"),
        ({"image": ({"type": "image"},)}, "invalid_image", "image"),
        ({"image": (part((4, 300)),), "width": None, "height": None}, "invalid_image", "image"),
        ({"image": (part(),), "frames": 6}, "invalid_value", "num_frames"),
        ({"image": (part(),), "frames": 21}, "invalid_value", "num_frames"),
    ],
)
def test_what_cannot_be_made_is_refused(host, wishes, code, param):
    with pytest.raises(InvalidInput) as raised:
        host.submit(IMAGE_TO_VIDEO, **wishes)
    assert (raised.value.code, raised.value.param) == (code, param)


def test_another_task_is_refused(host):
    with pytest.raises(InvalidInput):
        host.submit("openai/image-generation")


def test_a_model_of_one_size_and_length_is_brought_to_any_other(tmp_path):
    host = Host(tiny_videos.from_both(tmp_path / "m"), only_native=True, native_frames=5)
    try:
        film = host.film(width=640, height=360, frames=21)
        assert film.shape == (21, 360, 640, 3)
        # Beside the square that was drawn its rim goes on.
        assert abs(film[:, :, 10] - film[:, :, 100]).mean() < 3
        assert host.film(IMAGE_TO_VIDEO, image=(part(),), frames=1).shape == (1, 64, 64, 3)
    finally:
        host.runner.unload()


def test_memory_is_that_of_weights_and_a_decoded_run(host):
    assert host.memory.weights == host.runner.estimate(host.runner._config).weights
    assert host.memory.workspace > 0
    assert host.runner.describe() == "steps, WanPipeline"


def test_folders_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(LoadError, match="FluxPipeline makes no films"):
        Host(tiny_images.flux(tmp_path / "flux"))
    with pytest.raises(LoadError, match="is not a folder"):
        Host(tmp_path / "none")
