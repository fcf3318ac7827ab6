"""What requests for films may hold, and what becomes of it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.utils import timezone
from rest_framework.exceptions import ValidationError

from inference import estimates
from inference.api.native.video import check_image, check_text
from inference.ceilings import body_ceiling
from inference.contracts import video
from inference.contracts.bounds import Limits, most_units
from inference.contracts.surfaces import MEDIA_TASKS
from inference.deadlines import start_to_close
from inference.images import ImageDesk
from inference.selectors import Model
from inference.work import Work
from tests.inference import tiny_videos
from usage.models import Price

URI = "data:image/png;base64,AAAA"
BODY = {"model": "m", "prompt": "a sunset over the ocean"}


def wrong(check, **fields) -> str:
    """The field that is refused."""
    with pytest.raises(ValidationError) as raised:
        check({**BODY, **fields})
    (inner,) = raised.value.detail.values()
    assert list(raised.value.detail) == ["input"]
    (field,) = inner
    return field


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"num_frames": 80}, "num_frames"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_frames": 261}, "num_frames"),
        ({"num_frames": "81"}, "num_frames"),
        ({"fps": 3}, "fps"),
        ({"frames_per_second": 61}, "fps"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": 17}, "seconds"),
        ({"duration": "5"}, "seconds"),
        ({"seconds": 5, "num_frames": 81}, "seconds"),
        ({"width": 1280}, "height"),
        ({"height": 720}, "width"),
        ({"width": 62, "height": 64}, "width"),
        ({"width": 1280, "height": 719}, "height"),
        ({"width": 64, "height": 1922}, "height"),
        ({"width": 1920, "height": 1088}, "width"),
        ({"size": "63x64"}, "size"),
        ({"size": "large"}, "size"),
        ({"size": "640x360", "width": 640, "height": 360}, "size"),
        ({"seed": -1}, "seed"),
        ({"num_inference_steps": 101}, "num_inference_steps"),
        ({"guidance_scale": 101}, "guidance_scale"),
        ({"negative_prompt": 1}, "negative_prompt"),
    ],
)
def test_what_cannot_be_made_is_refused_by_its_field(fields, field):
    assert wrong(check_text, **fields) == field


@pytest.mark.parametrize("image", [None, "", 5, [], [URI, URI], {"url": 5}, {"other": URI}])
def test_a_film_from_a_picture_needs_one_picture(image):
    assert wrong(check_image, image=image) == "image"


def test_other_names_mean_the_same():
    checked = check_image(
        {
            "model": "m",
            "image_url": URI,
            "frames_per_second": 24,
            "duration": 2.0,
            "size": "640x360",
            "num_frames": None,
        }
    )
    assert checked == {
        "model": "m",
        "image": [URI],
        "fps": 24,
        "num_frames": 49,
        "width": 640,
        "height": 360,
    }
    assert video.from_body(checked).prompt == video.ANIMATE
    assert check_image({**BODY, "image": {"image_url": URI}})["image"] == [URI]
    assert check_text({**BODY, "size": "auto", "width": 64, "height": 64})["width"] == 64


def test_what_is_not_said_is_usual():
    asked = video.from_body(check_text(BODY))
    assert asked == video.VideoInput(BODY["prompt"], 1280, 720, 81, 16)
    assert video.VideoInput.from_dict({**asked.as_dict(), "unknown": 1}) == asked
    from_picture = video.from_body(check_image({**BODY, "image": URI}))
    assert (from_picture.width, from_picture.height) == (None, None)
    assert from_picture.image == ({"type": "image", "url": URI},)


@pytest.mark.parametrize(
    ("seconds", "fps", "frames"), [(5, 16, 81), (0.01, 16, 1), (1, 4, 5), (2, 24, 49), (1.1, 8, 9)]
)
def test_seconds_become_the_nearest_number_of_frames(seconds, fps, frames):
    assert video.frames_of(seconds, fps) == frames
    video.check_frames(frames)


def test_the_bound_of_a_film_is_its_length():
    asked = video.from_body(check_text({**BODY, "num_frames": 33, "fps": 24})).as_dict()
    for task in video.TASKS:
        units = most_units(task, asked, Limits(None, 0, 7))
        assert (units["video_ms"], units["compute_ms"], units["images"]) == (1375, 7, 0)


@pytest.mark.django_db
def test_a_film_may_cost_what_its_length_does():
    Price.objects.create(model_id="m", unit="video_ms", amount=Decimal("50.00"))
    model = Model(1, "s", "m", "q", frozenset(video.TASKS), is_demo=False)
    body = check_text({**BODY, "num_frames": 81, "fps": 16})
    ceiling = body_ceiling(
        model=model, task=video.TEXT_TO_VIDEO, body=body, now=datetime(2126, 1, 1, tzinfo=UTC)
    )
    assert ceiling == Decimal("0.25315")  # 5.063 s


def test_a_result_tells_of_one_film_and_its_seed():
    film = {"url": "/outputs/a.mp4", "content_type": "video/mp4", "fps": 16}
    for task in video.TASKS:
        surface = MEDIA_TASKS[task]
        assert surface.result_body([{**film, "seed": 3}], created=1) == {"video": film, "seed": 3}


def test_the_picture_of_a_job_is_loaded_like_any_other():
    work = Work(
        job_id="j",
        task=video.IMAGE_TO_VIDEO,
        request=check_image({**BODY, "image": URI}),
        organization_id=1,
        token_id=None,
        user_id=None,
        salt="1",
        model_id="m",
        created_at=timezone.now(),
        is_claimed=True,
    )
    desk = ImageDesk(
        takes_images=True, contract_of=Work.contract, on_loaded=lambda work, failure: None
    )
    try:
        assert (desk.holds(work), desk.must_fetch(work)) == (True, False)
        assert desk.contract(work)["image"] == [{"type": "image", "data": b"\x00\x00\x00"}]
    finally:
        desk.close()


def test_films_may_take_longer_than_all_else(settings):
    settings.START_TO_CLOSE_SECONDS = 300
    assert {start_to_close(task) for task in video.TASKS} == {1800}
    assert start_to_close("openai/image-generation") == 300


def test_the_memory_of_films_is_judged_by_the_folder(tmp_path):
    folder = tiny_videos.from_both(tmp_path / "m")
    small, large = (
        estimates.estimate_films(folder, dtype="float32", options={"native_side": side})
        for side in (64, 128)
    )
    assert large.cpu - small.cpu == (128**2 - 64**2) * (6 * 4 * 8 // 4 + 9 * 121) * 4
    assert small.accelerator - small.cpu == 256 * estimates.MIB
    assert estimates.estimate_films(None, dtype="auto", options={}).cpu == 512 * estimates.MIB
