"""Pictures to be edited on their way to the Runner: files, addresses, our own answers' files."""

from __future__ import annotations

import io

import pytest
from django.utils import timezone

from casola_site.core import outputs
from inference.contracts import images
from inference.images import ImageDesk, has_images, load_images
from inference.runners.base import InvalidInput
from inference.work import Work

URI = "data:image/png;base64,AAAA"
BODY = {"prompt": "x", "model": "m"}


def contract(**fields):
    return images.from_body({**BODY, **fields}).as_dict()


def work_with(request, *, claimed=False):
    return Work(
        job_id="j",
        task=images.EDIT,
        request=request,
        organization_id=1,
        token_id=None,
        user_id=None,
        salt="1",
        model_id="m",
        created_at=timezone.now(),
        is_claimed=claimed,
    )


def test_addresses_become_bytes_and_files_stay():
    made = contract(image=[URI, b"file"], mask=URI)
    loaded = load_images(made)
    assert loaded["image"] == [
        {"type": "image", "data": b"\x00\x00\x00"},
        {"type": "image", "data": b"file"},
    ]
    assert loaded["mask"] == {"type": "image", "data": b"\x00\x00\x00"}
    assert images.ImageInput.from_dict(loaded).prompt == "x"
    assert not has_images(contract(image=[b"file"]))
    assert not has_images(contract())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"image": ["http://127.0.0.1/a.png"]}, "image"),
        ({"image": [URI, "ftp://x/a"]}, "image[1]"),
        ({"image": [URI], "mask": "https://localhost/"}, "mask"),
        ({"image": [URI] * 18}, "image"),
    ],
)
def test_what_cannot_be_loaded_is_named(fields, param):
    with pytest.raises(InvalidInput) as raised:
        load_images(contract(**fields))
    assert raised.value.param == param


def test_only_what_is_elsewhere_is_fetched_first():
    desk = ImageDesk(
        takes_images=True, contract_of=Work.contract, on_loaded=lambda work, failure: None
    )
    try:
        for body in ({"image": [URI]}, {"image": [URI], "mask": "https://example.com/m.png"}):
            for work in (
                work_with(contract(**body)),
                work_with({**BODY, **body}, claimed=True),
            ):
                assert desk.holds(work)
                assert desk.must_fetch(work) == ("mask" in body)
        uploaded = work_with(contract(image=[b"file"]))
        assert (desk.holds(uploaded), desk.must_fetch(uploaded)) == (True, False)
        assert not desk.holds(work_with(contract()))
        claimed = work_with({**BODY, "image": [URI]}, claimed=True)
        assert desk.contract(claimed)["image"] == [{"type": "image", "data": b"\x00\x00\x00"}]
    finally:
        desk.close()


def test_a_file_of_ours_is_read_from_storage(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    now = timezone.now()
    name = outputs.new_name(organization_id=1, attempt=1, extension="png", now=now)
    outputs.write(name, io.BytesIO(b"a picture"))
    address = "http://127.0.0.1:1" + outputs.address(name, now=now)
    loaded = load_images(contract(image=[address]))
    assert loaded["image"] == [{"type": "image", "data": b"a picture"}]
    with pytest.raises(InvalidInput):
        load_images(contract(image=[address + "0"]))


def test_what_is_not_said_is_the_models_own():
    assert contract() == {
        "prompt": "x",
        "count": 1,
        "width": 1024,
        "height": 1024,
        "format": "png",
        "quality": 95,
        "negative_prompt": "",
        "image": [],
    }
    assert "width" not in contract(image=[URI])
    assert images.most_pixels(contract(n=2)) == 2 * 1024 * 1024
    assert images.most_pixels(contract(image=[URI])) == 2048 * 2048
