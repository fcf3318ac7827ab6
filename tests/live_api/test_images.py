"""Pictures over HTTP: the official client, forms, formats, streams, jobs, files."""

from __future__ import annotations

import base64
import io
import json
import time

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from tests.live import wait_until
from tests.live_api.envelope import EDITS, IMAGES, assert_envelope, bearer, image_body

pytestmark = pytest.mark.usefixtures("drawing")
BLUE, RED = (40, 80, 210), (220, 40, 40)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def from_base64(text: str) -> Image.Image:
    return opened(base64.b64decode(text))


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def plane(size=(128, 96), colour=BLUE) -> Image.Image:
    return Image.new("RGB", size, colour)


def hole(size=(128, 96), box=(64, 0, 128, 96)) -> Image.Image:
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), box)
    return mask


def data_uri(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()


def submit(http, task="openai/image-generation", **fields):
    made = http.post(
        "/api/jobs", json={"model_id": "flux", "task": task, "input": image_body(**fields)}
    )
    assert made.status_code == 201, made.text
    return made.json()["id"]


@pytest.mark.sqlite
def test_an_answer_tells_where_its_pictures_are(site, http, bare, ended):
    response = http.post(IMAGES, json=image_body(n=2, size="200x100", seed=3))
    assert response.status_code == 200
    assert response.headers["x-casola-weights"] == "demo"
    body = response.json()
    assert (body["output_format"], body["size"]) == ("png", "200x100")
    assert abs(body["created"] - time.time()) < 60
    assert [set(item) for item in body["data"]] == [{"url"}] * 2
    files = [bare.get(item["url"]) for item in body["data"]]
    assert all(item["url"].startswith(f"{site.url}/outputs/") for item in body["data"])
    assert [file.headers["content-type"] for file in files] == ["image/png"] * 2
    assert [opened(file.content).size for file in files] == [(200, 100)] * 2
    assert files[0].content != files[1].content
    part = bare.get(body["data"][0]["url"], headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, b"\x89PNG\r\n\x1a\n")
    job = ended(response.headers["x-casola-job-id"])
    assert (job["status"], job["result"], job["task"]) == (
        "completed",
        None,
        "openai/image-generation",
    )
    assert (job["usage"]["images"], job["usage"]["pixels"]) == (2, 40_000)


@pytest.mark.parametrize(("name", "kind"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_every_format_as_content(http, name, kind):
    wish = image_body(response_format="b64_json", output_format=name, seed=1)
    body = http.post(IMAGES, json=wish).json()
    ((text,),) = (item.values() for item in body["data"])
    assert (from_base64(text).format, from_base64(text).size) == (kind, (64, 64))
    assert body["output_format"] == name


def test_equal_seeds_give_equal_pictures(http):
    def picture(**fields):
        wish = image_body(response_format="b64_json", **fields)
        (item,) = http.post(IMAGES, json=wish).json()["data"]
        return np.asarray(from_base64(item["b64_json"]), int)

    assert (picture(seed=5) == picture(seed=5)).all()
    assert (picture(seed=5) != picture(seed=6)).any()
    assert (picture(seed=5) != picture(seed=5, negative_prompt="a green square")).any()
    assert (picture(seed=5) != picture(seed=5, num_inference_steps=2)).any()
    assert (picture(seed=5) != picture(seed=5, guidance_scale=4.0)).any()


def test_what_other_services_take_is_taken(http):
    wish = image_body(
        quality="hd", style="vivid", user="me", background="auto", moderation="low", seed=None
    )
    assert http.post(IMAGES, json=wish).status_code == 200


@pytest.mark.sqlite
def test_the_official_client_draws_and_changes(sdk, tmp_path):
    drawn = sdk.images.generate(model="flux", prompt="a red circle on blue", size="256x256", n=1)
    assert httpx.get(drawn.data[0].url).status_code == 200
    streamed = sdk.images.generate(
        model="flux", prompt="a star", size="512x512", response_format="b64_json", quality="high"
    )
    assert from_base64(streamed.data[0].b64_json).size == (512, 512)
    (tmp_path / "a.png").write_bytes(png(plane()))
    with (tmp_path / "a.png").open("rb") as image:
        edited = sdk.images.edit(
            model="flux",
            image=image,
            mask=("mask.png", png(hole()), "image/png"),
            prompt="a yellow square on blue",
            n=2,
            response_format="b64_json",
            extra_body={"seed": 4, "num_inference_steps": 4},
        )
    for item in edited.data:
        pixels = np.asarray(from_base64(item.b64_json).convert("RGB"))
        assert (pixels[:, :64] == BLUE).all()
        assert (pixels[:, 70:] != BLUE).any()
    both = sdk.images.edit(
        model="flux", image=[png(plane()), png(plane(colour=RED))], prompt="two", size="128x64"
    )
    assert from_base64(both.data[0].b64_json).size == (128, 64)
    assert httpx.get(both.data[0].url).status_code == 200


def test_the_official_client_streams(sdk):
    events = list(
        sdk.images.generate(
            model="flux", prompt="a star on green", size="256x256", stream=True, partial_images=2
        )
    )
    assert [event.type for event in events] == ["image_generation.completed"]
    assert from_base64(events[0].b64_json).size == (256, 256)
    with sdk.images.with_streaming_response.edit(
        model="flux", image=png(plane()), prompt="a star", stream=True
    ) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: {")]
    assert [json.loads(line[6:])["type"] for line in lines] == ["image_edit.completed"]


def test_the_official_client_is_told_what_is_wrong(sdk):
    with pytest.raises(openai.BadRequestError) as raised:
        sdk.images.edit(model="flux", image=b"nothing", prompt="x")
    assert (raised.value.code, raised.value.param) == ("invalid_image", "image")
    with pytest.raises(openai.NotFoundError):
        sdk.images.generate(model="test/echo", prompt="x")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": " "}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": "1"}, "n"),
        ({"size": "64"}, "size"),
        ({"size": "63x64"}, "size"),
        ({"size": "64x4096"}, "size"),
        ({"size": "0x0"}, "size"),
        ({"response_format": "file"}, "response_format"),
        ({"output_format": "gif"}, "output_format"),
        ({"num_inference_steps": 101}, "num_inference_steps"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_drawn_is_refused(http, fields, param):
    assert assert_envelope(http.post(IMAGES, json=image_body(**fields)), 400)["param"] == param


@pytest.mark.parametrize(
    ("files", "fields", "param"),
    [
        ({}, {}, "image"),
        ({"image": b""}, {}, "image"),
        ({"image": b"<svg/>"}, {}, "image"),
        ({"image": png(plane())}, {"n": "0"}, "n"),
        ({"image": png(plane())}, {"n": "many"}, "n"),
        ({"image": png(plane())}, {"strength": "1.5"}, "strength"),
        ({"image": png(plane()), "mask": b"no"}, {}, "mask"),
        ({"image": png(plane()), "mask": png(hole((64, 64), (0, 0, 9, 9)))}, {}, "mask"),
        ({"image": png(plane()), "mask": png(Image.new("RGBA", (128, 96)))[:60]}, {}, "mask"),
    ],
)
def test_forms_that_cannot_be_followed_are_refused(http, files, fields, param):
    form = {"model": "flux", "prompt": "a star", **fields}
    sent = {name: (f"{name}.png", content) for name, content in files.items()}
    response = http.post(EDITS, data=form, files=sent or {"other": b"x"})
    assert assert_envelope(response, 400)["param"] == param


def test_an_edit_as_json_takes_addresses(http):
    wish = {"model": "flux", "prompt": "a star on blue", "seed": 2}
    for source in (
        {"image": data_uri(plane())},
        {"image": [data_uri(plane())]},
        {"images": [{"image_url": data_uri(plane())}]},
    ):
        response = http.post(EDITS, json={**wish, **source, "mask": data_uri(hole())})
        (item,) = response.json()["data"]
        pixels = np.asarray(from_base64(item["b64_json"]))
        assert (pixels[:, :64] == BLUE).all()
    for address in ("http://127.0.0.1:1/x.png", "file:///etc/passwd", "https://localhost/"):
        refused = http.post(EDITS, json={**wish, "image": address})
        assert assert_envelope(refused, 400, code="unsafe_url")["param"] == "image"


def test_an_answers_file_can_be_changed_in_turn(http):
    (drawn,) = http.post(IMAGES, json=image_body()).json()["data"]
    wish = image_body(image=drawn["url"], size=None, strength=0.3)
    assert http.post(EDITS, json=wish).json()["size"] == "64x64"
    forged = drawn["url"][:-1] + ("0" if drawn["url"][-1] != "0" else "1")
    assert_envelope(http.post(EDITS, json={**wish, "image": forged}), 400, code="unsafe_url")


@pytest.mark.sqlite
def test_a_job_tells_how_far_it_is_and_then_where_its_files_are(site, http, bare, ended):
    made = submit(http, n=10, size="1024x1024", num_inference_steps=100, seed=1)
    seen = []

    def has_ended() -> bool:
        job = http.get(f"/api/jobs/{made}").json()
        seen.append(job["progress"])
        return job["status"] == "completed"

    wait_until(has_ended, seconds=120, what="the job")
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    result = ended(made)["result"]
    assert set(result) == {"created", "data"}
    assert [set(item) for item in result["data"]] == [{"url"}] * 10
    assert all(
        opened(bare.get(item["url"]).content).size == (1024, 1024) for item in result["data"]
    )
    code = (
        "from jobs.models import JobEvent;"
        f"rows = JobEvent.objects.filter(job_id={made!r}).order_by('seq');"
        "print([(row.type, row.data) for row in rows])"
    )
    events = eval(site.live.python(code).splitlines()[-1])
    told = [data for kind, data in events if kind == "progress"]
    assert all(0 < data["progress"] < 1 and data["message"].startswith("step ") for data in told)
    assert told


def test_an_edit_as_a_job(http, bare, ended):
    wish = {"image": data_uri(plane()), "mask": data_uri(hole()), "size": None}
    job = ended(submit(http, "openai/image-edit", **wish))
    assert job["status"] == "completed"
    (item,) = job["result"]["data"]
    pixels = np.asarray(opened(bare.get(item["url"]).content))
    assert pixels.shape == (96, 128, 3)
    assert (pixels[:, :64] == BLUE).all()


def test_a_cancelled_job_ends_between_two_steps(http, ended):
    made = submit(http, n=10, num_inference_steps=100)
    wait_until(lambda: http.get(f"/api/jobs/{made}").json()["status"] == "processing")
    cancelled = http.post(f"/api/jobs/{made}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert http.post(IMAGES, json=image_body()).status_code == 200


def test_who_asks_pays_for_pictures(site, http):
    headers = bearer(site.beta["admin_write"])
    path = f"/api/organizations/{site.beta['id']}/usage"

    def counted():
        totals = http.get(path, headers=headers).json()["usage"]["totals"]
        return totals["images"], totals["pixels"], float(totals["amount"])

    before = counted()
    response = http.post(IMAGES, json=image_body(n=3), headers=headers)
    assert response.status_code == 200
    wait_until(lambda: counted()[0] == before[0] + 3)
    images, pixels, amount = (now - then for now, then in zip(counted(), before, strict=True))
    assert (images, pixels, round(amount, 6)) == (3, 3 * 64 * 64, 0.009)


def test_at_the_plans_cap_of_files_no_picture_is_drawn(site, http, bare):
    capped = bearer(site.full["one"])
    drawn = bare.post(IMAGES, json=image_body(), headers=capped)
    assert drawn.status_code == 200, drawn.text
    refused = bare.post(IMAGES, json=image_body(), headers=capped)
    assert_envelope(refused, 429, code="queue_full")
    assert 86_000 < int(refused.headers["retry-after"]) <= 86_400
    wish = {"model_id": "flux", "task": "openai/image-generation", "input": image_body()}
    assert_envelope(bare.post("/api/jobs", json=wish, headers=capped), 429, code="queue_full")
    assert http.post(IMAGES, json=image_body()).status_code == 200
