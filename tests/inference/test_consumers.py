"""The consumer's edge: what it says when the caller's rights change or the server goes away."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from casola_site.core.errors import Unavailable
from casola_site.core.guard.rules import Draining
from inference.api import consumers
from inference.api.consumers import InteractiveConsumer
from inference.api.interactive import Call
from inference.api.openai.chat import ChatCompletionViewSet
from inference.api.openai.speech import SpeechViewSet
from inference.hub import Bytes, Finished, RunnerLost, Sized, Text
from tokens import keys
from usage import admission
from usage.limits import UNLIMITED
from usage.throttling import StaleIdentity

SECRET = keys.new_secret()
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
JSON_BODY = json.dumps(BODY).encode()
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/openai/v1/chat/completions",
    "client": ("127.0.0.1", 1),
    "headers": [
        (b"authorization", f"Bearer {SECRET}".encode()),
        (b"content-type", b"application/json"),
    ],
}


class View(ChatCompletionViewSet):
    """Answers with one piece of text and then waits, or fails."""

    error: Exception | None = None
    was_closed = False

    @classmethod
    async def prepare(cls, hub, identity, data):
        model = SimpleNamespace(is_demo=False)
        return Call("0197-job", identity, model, "m", data)

    @classmethod
    async def pieces(cls, hub, call):
        if cls.error is not None:
            raise cls.error
        try:
            yield Text("Hello")
            await asyncio.Event().wait()
        finally:
            cls.was_closed = True


class Sound(SpeechViewSet):
    """Answers with the pieces it is given."""

    script: list = []

    @classmethod
    async def prepare(cls, hub, identity, data):
        return Call("0197-job", identity, SimpleNamespace(is_demo=True), "m", {"stream": False})

    @classmethod
    async def pieces(cls, hub, call):
        for step in cls.script:
            if isinstance(step, Exception):
                raise step
            if step is None:
                await asyncio.Event().wait()
            yield step


class Client:
    """Sends one request and keeps what comes back."""

    def __init__(self, view, body=JSON_BODY, content_type=b"application/json"):
        self.sent: list[dict] = []
        self.consumer = InteractiveConsumer(view)
        self.inbox = asyncio.Queue()
        for at in range(0, len(body), 65_536):
            part, more = body[at : at + 65_536], at + 65_536 < len(body)
            self.inbox.put_nowait({"type": "http.request", "body": part, "more_body": more})
        headers = [SCOPE["headers"][0], (b"content-type", content_type)]
        scope = {**SCOPE, "headers": headers}
        self.app = asyncio.create_task(self.consumer(scope, self.inbox.get, self.send))

    async def send(self, message):
        self.sent.append(message)

    async def until(self, condition):
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.01)

    @property
    def text(self) -> str:
        return b"".join(m.get("body", b"") for m in self.sent).decode()

    @property
    def is_complete(self) -> bool:
        return any(m.get("more_body") is False for m in self.sent)


@pytest.fixture
def admissions(monkeypatch):
    """How often the identity turns out to be stale before it is admitted."""
    left = [0]
    identity = SimpleNamespace(allowed_ips=None, scopes={"user:write"})

    async def load(digest):
        return identity

    async def admit(identity, rate_class):
        if left[0]:
            left[0] -= 1
            raise StaleIdentity
        return UNLIMITED

    monkeypatch.setattr(consumers, "hub", lambda: None)
    monkeypatch.setattr(admission, "load_identity", load)
    monkeypatch.setattr(admission, "admit_async", admit)
    return left


@pytest.fixture
def _draining():
    Draining.value = True
    yield
    Draining.value = False


@pytest.fixture
def view():
    return type("FreshView", (View,), {})


def run(scenario):
    return asyncio.run(scenario())


@pytest.mark.parametrize(("stale", "answer"), [(0, 200), (2, 200), (4, 200), (5, 503)])
def test_rights_that_change_all_the_time_are_no_server_error(view, admissions, stale, answer):
    admissions[0] = stale

    async def scenario():
        client = Client(view)
        await client.until(lambda: client.sent)
        client.inbox.put_nowait({"type": "http.disconnect"})
        await client.app
        return client.sent[0]["status"]

    assert run(scenario) == answer


@pytest.mark.usefixtures("admissions")
def test_an_error_of_the_runner_names_the_job(view):
    view.error = Unavailable("The model 'm' is offline", code="model_unavailable")

    async def scenario():
        client = Client(view)
        await client.until(lambda: client.is_complete)
        client.app.cancel()
        return client.sent[0]["status"], dict(client.sent[0]["headers"])

    status, headers = run(scenario)
    assert (status, headers[b"x-casola-job-id"]) == (503, b"0197-job")
    assert headers[b"retry-after"] == b"5"


@pytest.mark.usefixtures("admissions", "_draining")
def test_a_drained_stream_ends_with_an_error_event(view):
    async def scenario():
        client = Client(view)
        await client.until(lambda: "Hello" in client.text)
        client.app.cancel()
        await asyncio.gather(client.app, return_exceptions=True)
        return client

    client = run(scenario)
    assert client.is_complete
    *_, error, done, _ = client.text.split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "service_unavailable"
    assert done == "data: [DONE]"


@pytest.mark.usefixtures("admissions")
@pytest.mark.parametrize("end", ["cancel", "disconnect"])
def test_the_work_ends_with_its_request(view, end):
    async def scenario():
        client = Client(view)
        await client.until(lambda: "Hello" in client.text)
        if end == "cancel":
            client.app.cancel()
        else:
            client.inbox.put_nowait({"type": "http.disconnect"})
        await asyncio.gather(client.app, return_exceptions=True)
        return view.was_closed

    assert run(scenario)


def sound(*script):
    """(status, headers, bytes, whether the end came) of an answer made of these pieces."""

    async def scenario():
        client = Client(type("FreshSound", (Sound,), {"script": script}))
        if script[-1] is None:
            await client.until(lambda: b"half" in b"".join(m.get("body", b"") for m in client.sent))
            client.app.cancel()
        await asyncio.wait([client.app], timeout=0.5)
        is_over = client.app.done()
        client.app.cancel()
        return client, is_over

    client, is_over = run(scenario)
    start, *bodies = client.sent
    content = b"".join(message["body"] for message in bodies)
    return start["status"], dict(start["headers"]), content, client.is_complete, is_over


END = Finished("stop", {"characters": 1}, [], 1, 2)


@pytest.mark.usefixtures("admissions")
def test_a_finished_file_is_sent_with_its_size():
    status, headers, content, is_complete, _ = sound(
        Sized(6, 1, 2), Bytes(b"abc"), Bytes(b"def"), END
    )
    assert (status, content, is_complete) == (200, b"abcdef", True)
    assert headers[b"content-length"] == b"6"
    assert headers[b"content-type"] == b"audio/mpeg"
    assert headers[b"x-casola-weights"] == b"demo"


@pytest.mark.usefixtures("admissions")
def test_bytes_that_come_as_they_are_made_have_no_size():
    _, headers, content, is_complete, _ = sound(Bytes(b"abc"), Bytes(b"def"), END)
    assert (content, is_complete) == (b"abcdef", True)
    assert b"content-length" not in headers


@pytest.mark.usefixtures("admissions")
def test_an_error_before_the_first_byte_is_json():
    status, headers, content, is_complete, _ = sound(RunnerLost())
    assert (status, is_complete) == (502, True)
    assert json.loads(content)["error"]["code"] == "worker_error"
    assert headers[b"content-type"] == b"application/json"


@pytest.mark.usefixtures("admissions")
@pytest.mark.parametrize("first", [(), (Sized(9, 1, 2),)])
def test_bytes_that_break_off_have_no_end_and_no_text(first):
    """The app ends without its last message: the server hangs up."""
    _, _, content, is_complete, is_over = sound(*first, Bytes(b"half"), RunnerLost())
    assert (content, is_complete, is_over) == (b"half", False, True)


@pytest.mark.usefixtures("admissions", "_draining")
def test_drained_bytes_break_off():
    _, _, content, is_complete, is_over = sound(Bytes(b"half"), None)
    assert (content, is_complete, is_over) == (b"half", False, True)


class Reader(View):
    """Tells how large the file of a form is."""

    takes_forms = True
    body_cap = 1_000_000
    given: list = []

    @classmethod
    async def prepare(cls, hub, identity, data):
        cls.given.append(data)
        return await super().prepare(hub, identity, {"stream": False})

    @classmethod
    async def pieces(cls, hub, call):
        content = cls.given[-1]["file"].content.read()
        yield Finished("stop", {}, [], 0, 0, {"size": len(content)})

    @classmethod
    async def render(cls, call, finished):
        return json.dumps(finished.result).encode()


def form(size: int) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return head + b"a" * size + b"\r\n--x--\r\n"


@pytest.mark.usefixtures("admissions")
@pytest.mark.parametrize(("size", "status"), [(600_000, 200), (1_100_000, 413)])
def test_a_form_is_read_up_to_the_cap_and_its_files_go_with_the_request(size, status):
    async def scenario():
        client = Client(Reader, form(size), b"multipart/form-data; boundary=x")
        await client.until(lambda: client.is_complete)
        client.app.cancel()
        return client

    client = run(scenario)
    assert client.sent[0]["status"] == status
    if status == 200:
        assert json.loads(client.text) == {"size": size}
        assert Reader.given[-1]["file"].content.closed
    assert client.consumer.file is None or client.consumer.file.closed


@pytest.mark.usefixtures("admissions")
def test_a_form_is_no_json(view):
    async def scenario():
        client = Client(view, form(10), b"multipart/form-data; boundary=x")
        await client.until(lambda: client.is_complete)
        client.app.cancel()
        return client.sent[0]["status"]

    assert run(scenario) == 415
