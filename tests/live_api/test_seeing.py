"""Images through the whole product: a tiny model that sees, and addresses nobody may reach."""

from __future__ import annotations

import base64
import random
import socket
import threading

import openai
import pytest

from tests.inference.tiny_vision import picture, save_seeing
from tests.live import wait_until
from tests.live_api.site import DEMO

SEEING = "test/seeing"


@pytest.fixture(scope="module")
def seeing(site, tmp_path_factory):
    folder = save_seeing(tmp_path_factory.mktemp("seeing") / "model")
    site.live.python(
        "from inference.models import ModelSpec\n"
        f"ModelSpec.objects.create(model_id={SEEING!r}, engine='chat', source={str(folder)!r},"
        " tasks=['openai/chat-completion'], dtype='float32', slots=4, keep_loaded=True)"
    )
    wait_until(lambda: site.live.status_of(SEEING) == "online", seconds=90, what=SEEING)
    yield SEEING
    site.live.python(
        "from inference.models import ModelSpec\n"
        f"ModelSpec.objects.filter(model_id={SEEING!r}).update(enabled=False, keep_loaded=False)"
    )


@pytest.fixture
def inside():
    """A listener on the server's own host; `accepted` are its connections."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    accepted = []

    def serve():
        while True:
            try:
                accepted.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/a.png", accepted
    listener.close()


def shown(*urls, text="What is this?"):
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]


def data_url(number=1, width=60, height=40):
    data = picture(random.Random(number), width, height)
    return "data:image/png;base64," + base64.b64encode(data).decode()


def ask(sdk, model, messages, **settings):
    return sdk.chat.completions.create(
        model=model, messages=messages, max_tokens=12, temperature=0, **settings
    )


def test_an_image_in_the_request_is_seen(sdk, seeing):
    answers = [ask(sdk, seeing, shown(data_url(number))) for number in (1, 1, 2)]
    texts = [answer.choices[0].message.content for answer in answers]
    assert texts[0] == texts[1] != texts[2]
    # scaled to 64 x 32 pixels, it is 4 x 2 features of 16 x 16 between two marks
    plain = ask(sdk, seeing, shown())
    assert answers[0].usage.prompt_tokens == plain.usage.prompt_tokens + 10


def test_a_stream_with_an_image_gives_the_same(sdk, seeing):
    whole = ask(sdk, seeing, shown(data_url()))
    stream = ask(sdk, seeing, shown(data_url()), stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content


def test_addresses_on_the_inside_are_never_reached(sdk, seeing, inside):
    url, accepted = inside
    texts = set()
    for place in (url, "http://127.0.0.1/", "http://169.254.169.254/latest", "http://[::1]/"):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(sdk, seeing, shown(data_url(), place))
        assert (caught.value.code, caught.value.param) == (
            "unsafe_url",
            "messages[0].content[2]",
        )
        texts.add(caught.value.body["message"])
    assert len(texts) == 1
    assert accepted == []


def test_a_model_that_reads_only_refuses_images_unfetched(sdk, demo, inside):
    url, accepted = inside
    for place in (url, data_url()):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(sdk, DEMO, shown(place))
        assert caught.value.param.startswith("messages")
    assert accepted == []


def test_a_broken_image_is_named(sdk, seeing):
    broken = "data:image/png;base64," + base64.b64encode(b"no image").decode()
    with pytest.raises(openai.BadRequestError) as caught:
        ask(sdk, seeing, shown(data_url(), broken))
    assert (caught.value.code, caught.value.param) == ("invalid_image", "messages[0].content[2]")


def test_a_job_with_an_image_ends_like_the_request(site, http, sdk, seeing, ended):
    messages = shown(data_url())
    whole = ask(sdk, seeing, messages)
    body = {
        "task": "openai/chat-completion",
        "model_id": seeing,
        "input": {"messages": messages, "max_tokens": 12, "temperature": 0},
    }
    job = http.post("/api/jobs", json=body).json()
    job = ended(job["id"], 60)
    assert job["result"]["choices"][0]["message"]["content"] == whole.choices[0].message.content


def test_the_spec_says_how_it_is_run(site, seeing):
    told = site.live.python(
        "from inference.models import ModelSpec\n"
        f"print(ModelSpec.objects.get(model_id={SEEING!r}).loaded_as)"
    )
    assert told == "hybrid, images"
