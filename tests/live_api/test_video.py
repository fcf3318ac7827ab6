"""Films over HTTP: jobs, their progress, files, cancelling, a killed runner."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.live import wait_until
from tests.live_api.envelope import (
    FILMS,
    assert_envelope,
    bearer,
    image_body,
    job_body,
    video_job,
)

pytestmark = pytest.mark.usefixtures("filming")
RED, BLUE = (220, 40, 40), (40, 80, 210)


def decoded(content: bytes) -> tuple[list[Image.Image], Fraction, str]:
    """Frames, their rate, the codec."""
    with av.open(io.BytesIO(content)) as file:
        stream = file.streams.video[0]
        frames = [frame.to_image() for frame in file.decode(stream)]
        return frames, stream.average_rate, stream.codec_context.name


def first_picture(size=(96, 64)) -> str:
    """A red square on the left of a blue ground, as an address."""
    picture = Image.new("RGB", size, BLUE)
    picture.paste(RED, (8, 20, 32, 44))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def submit(http, task="fal/text-to-video", **fields) -> str:
    made = http.post("/api/jobs", json=video_job(task, **fields))
    assert made.status_code == 201, made.text
    return made.json()["id"]


@pytest.mark.sqlite
def test_a_job_shows_how_far_it_is_and_ends_with_a_film(site, http, bare, ended):
    made = http.post(
        "/api/jobs",
        json=video_job(size="320x192", num_frames=33, fps=24, num_inference_steps=100, seed=3),
    )
    assert made.status_code == 201, made.text
    assert set(made.json()) == {"id", "queue_id"}
    assert made.headers["x-casola-weights"] == "demo"
    job_id, seen = made.json()["id"], []

    def has_ended() -> bool:
        job = http.get(f"/api/jobs/{job_id}").json()
        seen.append(job["progress"])
        return job["status"] == "completed"

    wait_until(has_ended, seconds=120, what="the job")
    assert (seen, seen[-1]) == (sorted(seen), 1.0)
    job = ended(job_id)
    film = job["result"]["video"]
    assert job["result"] == {"video": film, "seed": 3}
    assert film["url"].startswith(f"{site.url}/outputs/")
    assert {**film, "url": ""} == {
        "url": "",
        "content_type": "video/mp4",
        "width": 320,
        "height": 192,
        "num_frames": 33,
        "fps": 24,
        "duration": 1.375,
    }
    assert (job["model_id"], job["task"]) == (FILMS, "fal/text-to-video")
    assert job["usage"]["video_ms"] == 1375
    file = bare.get(film["url"])
    assert file.headers["content-type"] == "video/mp4"
    frames, rate, codec = decoded(file.content)
    assert (len(frames), frames[0].size, rate, codec) == (33, (320, 192), 24, "h264")
    part = bare.get(film["url"], headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    code = (
        "import json; from jobs.models import JobEvent;"
        f"rows = JobEvent.objects.filter(job_id={job_id!r}, type='progress').order_by('seq');"
        "print(json.dumps([row.data for row in rows]))"
    )
    told = json.loads(site.live.python(code).splitlines()[-1])
    assert told
    assert all(0 < data["progress"] < 1 and data["message"].startswith("step ") for data in told)


def test_equal_seeds_give_equal_films(http, bare, ended):
    names = [submit(http, seed=seed) for seed in (7, 7, 8)]
    films = [
        np.asarray(decoded(bare.get(ended(name)["result"]["video"]["url"]).content)[0][-1], int)
        for name in names
    ]
    # In company the last bit of a pixel may differ.
    assert abs(films[0] - films[1]).mean() < 1
    assert abs(films[0] - films[2]).mean() > 1


def test_a_film_from_a_picture_begins_with_it(http, bare, ended):
    wish = {"image_url": first_picture(), "prompt": "it moves to the right", "size": None}
    job = ended(submit(http, "fal/image-to-video", **wish))
    assert job["status"] == "completed", job
    frames, _, _ = decoded(bare.get(job["result"]["video"]["url"]).content)
    assert frames[0].size == (96, 64)
    pixels = np.asarray(frames[0], int)
    assert abs(pixels[26:38, 14:26] - RED).mean() < 40
    assert abs(pixels[:, 60:] - BLUE).mean() < 40


def test_a_drawn_picture_of_ours_comes_to_life(http, bare, ended, drawing):
    (drawn,) = http.post("/openai/v1/images/generations", json=image_body()).json()["data"]
    wish = {"image": drawn["url"], "prompt": "", "size": "128x128", "num_frames": 5}
    job = ended(submit(http, "fal/image-to-video", **wish))
    frames, _, _ = decoded(bare.get(job["result"]["video"]["url"]).content)
    assert (len(frames), frames[0].size) == (5, (128, 128))


@pytest.mark.parametrize(
    ("task", "fields", "param"),
    [
        ("fal/text-to-video", {"num_frames": 10}, "input.num_frames"),
        ("fal/text-to-video", {"num_frames": 261}, "input.num_frames"),
        ("fal/text-to-video", {"size": "1922x64"}, "input.size"),
        ("fal/text-to-video", {"size": None, "width": 65, "height": 64}, "input.width"),
        ("fal/text-to-video", {"prompt": ""}, "input.prompt"),
        ("fal/image-to-video", {}, "input.image"),
    ],
)
def test_what_cannot_be_made_is_refused(http, task, fields, param):
    refused = http.post("/api/jobs", json=video_job(task, **fields))
    assert assert_envelope(refused, 400)["param"] == param


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("data:image/png;base64,AAAA", "invalid_image"),
        ("data:text/plain,no", "invalid_image"),
        ("http://127.0.0.1:1/x.png", "unsafe_url"),
        ("file:///etc/passwd", "unsafe_url"),
    ],
)
def test_a_wrong_picture_fails_the_job_and_nothing_else(http, ended, address, code):
    job = ended(submit(http, "fal/image-to-video", image=address))
    assert (job["status"], job["error"]["code"], job["result"]) == ("failed", code, None)
    assert job["usage"].get("video_ms", 0) == 0


def test_films_are_made_by_jobs_alone(http):
    wish = {"model": FILMS, "prompt": "x"}
    response = http.post("/openai/v1/images/generations", json=wish)
    assert_envelope(response, 404, code="model_not_found")


def test_a_cancelled_job_ends_between_two_steps(http, ended):
    made = submit(http, num_inference_steps=100, num_frames=257, size="1280x720")
    wait_until(lambda: http.get(f"/api/jobs/{made}").json()["status"] == "processing")
    assert http.post(f"/api/jobs/{made}/cancel").json()["status"] == "cancelled"
    assert ended(submit(http))["status"] == "completed"


def test_who_asks_pays_for_seconds(site, http, ended):
    headers = bearer(site.beta["admin_write"])
    path = f"/api/organizations/{site.beta['id']}/usage"

    def counted():
        totals = http.get(path, headers=headers).json()["usage"]["totals"]
        return totals["video_ms"], float(totals["amount"])

    before = counted()
    made = http.post("/api/jobs", json=video_job(num_frames=17, fps=16), headers=headers).json()
    assert ended(made["id"], key=site.beta["user_read"])["status"] == "completed"
    wait_until(lambda: counted()[0] == before[0] + 1063)
    assert round(counted()[1] - before[1], 6) == 0.05315


@pytest.mark.slow
def test_a_killed_runner_loses_no_film_and_leaves_no_half_one(site, http, bare, ended):
    (old,) = [row for row in site.live.runners() if row["model_id"] == FILMS]
    wish = {"size": "1280x720", "num_frames": 65, "num_inference_steps": 100}
    names = [submit(http, seed=seed, **wish) for seed in range(3)]
    wait_until(lambda: http.get(f"/api/jobs/{names[0]}").json()["progress"] > 0, seconds=60)
    os.kill(old["pid"], signal.SIGKILL)
    jobs = [ended(name, seconds=240) for name in names]
    assert [job["status"] for job in jobs] == ["completed"] * 3
    assert max(job["attempts"] for job in jobs) == 2
    for job in jobs:
        frames, _, _ = decoded(bare.get(job["result"]["video"]["url"]).content)
        assert (len(frames), frames[0].size) == (65, (1280, 720))
    kept = {job["result"]["video"]["url"].split("?")[0].rpartition("/")[2] for job in jobs}
    lying = [file.name for file in Path(site.live.var_dir, "media").rglob("*") if file.is_file()]
    assert kept <= set(lying)
    assert not [name for name in lying if name.endswith(".part")]


def test_only_demo_weights_are_told_of(http):
    made = http.post("/api/jobs", json=job_body())
    assert (made.status_code, "x-casola-weights" in made.headers) == (201, False)
