"""Addresses of images become bytes, within the caps of one request."""

from __future__ import annotations

import base64
import http.server
import threading

import pytest

from casola_site.core.fetch import UnsafeUrl
from inference import images
from inference.images import has_images, load_images
from inference.runners.base import InvalidInput


def data_url(content=b"abc"):
    return "data:image/png;base64," + base64.b64encode(content).decode()


def contract(*urls):
    parts = [{"type": "text", "text": "look"}, *({"type": "image", "url": url} for url in urls)]
    return {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}],
        "max_tokens": 5,
    }


class Files(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        type(self).asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from afar")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(settings):
    Files.asked = 0
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def test_data_and_web_addresses_become_bytes(server, settings):
    settings.FETCH_ALLOW = [server]
    given = contract(data_url(), f"{server}/a.png")
    loaded = load_images(given)
    assert loaded["messages"][1]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image", "data": b"abc"},
        {"type": "image", "data": b"from afar"},
    ]
    assert (loaded["messages"][0], loaded["max_tokens"]) == (given["messages"][0], 5)
    assert "data" not in given["messages"][1]["content"][1]


def test_a_private_address_is_refused_and_named(server):
    with pytest.raises(InvalidInput) as caught:
        load_images(contract(data_url(), f"{server}/a.png"))
    assert caught.value.code == "unsafe_url"
    assert caught.value.param == "messages[1].content[2]"
    assert str(caught.value) == UnsafeUrl.message
    assert Files.asked == 0


@pytest.mark.parametrize("url", ["data:image/png;base64,!", None, 5, {}])
def test_broken_addresses_are_refused(url):
    with pytest.raises(InvalidInput) as caught:
        load_images(contract(url))
    assert caught.value.param == "messages[1].content[1]"


def test_the_images_of_a_request_share_one_cap(monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    assert load_images(contract(data_url(b"x" * 6), data_url(b"y" * 4)))
    with pytest.raises(InvalidInput) as caught:
        load_images(contract(data_url(b"x" * 6), data_url(b"y" * 5)))
    assert caught.value.param == "messages[1].content[2]"


def test_too_many_images_are_refused():
    with pytest.raises(InvalidInput) as caught:
        load_images(contract(*[data_url()] * 17))
    assert caught.value.param == "messages"


def test_requests_without_images_are_known():
    assert has_images(contract(data_url()))
    assert not has_images(contract())
    assert not has_images({"messages": [{"role": "user", "content": None}], "prompts": ["a"]})
    assert not has_images({})
