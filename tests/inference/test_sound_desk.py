"""Sounds are fetched and read beside the engine, from wherever a request names."""

from __future__ import annotations

import base64
import io
import wave

import numpy as np
import pytest
from django.utils import timezone

from casola_site.core import outputs
from inference.contracts import chat, transcription
from inference.runners.base import Busy, Failed, InvalidInput
from inference.sounds import RATE, SoundDesk
from inference.work import Work

SAMPLES = (np.sin(np.arange(RATE) / 7) * 9000).astype("<i2")


def wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(SAMPLES.tobytes())
    return file.getvalue()


DATA = "data:audio/wav;base64," + base64.b64encode(wav()).decode()


@pytest.fixture
def desk():
    found = SoundDesk(contract_of=Work.contract, on_loaded=lambda work, failure: None)
    yield found
    found.close()


@pytest.fixture
def media(settings, tmp_path):
    settings.MEDIA_ROOT = str(tmp_path)


def stored(content: bytes, extension: str) -> str:
    name = outputs.new_name(organization_id=1, attempt=1, extension=extension, now=timezone.now())
    outputs.write(name, io.BytesIO(content))
    return name


def work(*, task=transcription.TASK, claimed=False, **request) -> Work:
    return Work(
        job_id="j",
        task=task,
        request=request,
        organization_id=1,
        token_id=1,
        user_id=1,
        salt="",
        model_id="m",
        created_at=timezone.now(),
        is_claimed=claimed,
    )


def refusal(desk, **request) -> tuple[str, str]:
    with pytest.raises(InvalidInput) as error:
        desk.contract(work(**request))
    return error.value.code, error.value.param


def test_a_data_url_is_read(desk):
    asked = work(url=DATA, language="en")
    assert (desk.holds(asked), desk.must_fetch(asked)) == (True, True)
    contract = desk.contract(asked)
    assert (contract["samples"].tolist(), contract["language"]) == (SAMPLES.tolist(), "en")
    asked.loaded = contract
    assert desk.must_fetch(asked) is False
    assert desk.contract(asked) is contract


def test_a_job_holds_the_body(desk):
    contract = desk.contract(work(claimed=True, url=DATA, model="m", response_format="srt"))
    assert len(contract["samples"]) == RATE


@pytest.mark.usefixtures("media")
def test_an_upload_is_read_from_the_storage(desk):
    contract = desk.contract(work(upload=stored(wav(), "bin"), kind="wav"))
    assert contract["samples"].tolist() == SAMPLES.tolist()
    bare = desk.contract(work(upload=stored(bytes(48_000), "bin"), kind="pcm"))
    assert len(bare["samples"]) == pytest.approx(RATE, abs=50)


@pytest.mark.usefixtures("media")
def test_our_own_address_needs_no_fetch(desk):
    name = stored(wav(), "wav")
    address = "http://127.0.0.1:9" + outputs.address(name, now=timezone.now())
    assert len(desk.contract(work(url=address))["samples"]) == RATE
    assert refusal(desk, url=address[:-1] + "x") == ("invalid_audio", "url")


@pytest.mark.usefixtures("media")
def test_what_is_gone_or_forbidden_is_said(desk):
    assert refusal(desk, upload="2026112700/a/b-1.bin") == ("invalid_audio", "file")
    assert refusal(desk, url="http://127.0.0.1:9/a.wav") == ("unsafe_url", "url")
    assert refusal(desk, url="data:audio/wav,x") == ("invalid_audio", "url")


def test_other_tasks_have_no_sound(desk):
    asked = work(task=chat.TASK, messages=[])
    assert (desk.holds(asked), desk.must_fetch(asked)) == (False, False)
    assert desk.contract(asked) == {"messages": []}


def test_who_finds_no_helper_is_told_to_come_again(desk, monkeypatch):
    def busy(*args, **options):
        raise Busy(retry_after=7)

    monkeypatch.setattr(desk._guard, "sound", busy)
    assert desk._load(work(claimed=True, url=DATA)) == Failed(
        "j", "model_unavailable", "The model is busy", retryable=True, retry_after=7
    )
