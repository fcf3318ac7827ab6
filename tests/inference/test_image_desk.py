"""Images are fetched beside the engine: a slow address holds up nobody else."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading

import pytest
from django.utils import timezone

from inference.contracts.chat import TASK
from inference.images import ImageDesk
from inference.runners.base import InvalidInput
from inference.work import Work

DATA = "data:image/png;base64," + base64.b64encode(b"abc").decode()


@pytest.fixture
def slow(settings):
    """A server that answers when told to; `accepted` are its connections."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    go = threading.Event()
    accepted = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(connection)
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection):
        go.wait(20)
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nfar")
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings.FETCH_ALLOW = [url]
    yield url, go, accepted
    go.set()
    listener.close()


def work_with(name, *urls, claimed=False):
    parts = [{"type": "image", "url": url} for url in urls]
    if claimed:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return Work(
        job_id=name,
        task=TASK,
        request={"messages": [{"role": "user", "content": parts or "text"}]},
        organization_id=1,
        token_id=None,
        user_id=None,
        salt="1",
        model_id="m",
        created_at=timezone.now(),
        is_claimed=claimed,
    )


class Told:
    def __init__(self, *, takes_images=True):
        self.loaded = []
        self.event = asyncio.Event()
        self.desk = ImageDesk(
            takes_images=takes_images, contract_of=lambda work: work.request, on_loaded=self.note
        )

    def note(self, work, failure):
        self.loaded.append((work, failure))
        self.event.set()

    async def next(self):
        await asyncio.wait_for(self.event.wait(), 30)
        self.event.clear()
        return self.loaded[-1]


def parts_of(contract):
    return [part.get("data") for part in contract["messages"][0]["content"]]


def test_only_what_is_elsewhere_must_be_fetched():
    async def main():
        desk = Told().desk
        assert not desk.holds(work_with("a"))
        assert desk.holds(work_with("b", DATA))
        assert not desk.must_fetch(work_with("b", DATA))
        for claimed in (False, True):
            assert desk.must_fetch(work_with("c", DATA, "http://a.test/", claimed=claimed))
        assert parts_of(desk.contract(work_with("b", DATA))) == [b"abc"]

    asyncio.run(main())


def test_slow_addresses_hold_up_nobody(slow):
    url, go, _ = slow

    async def main():
        told = Told()
        first, second = work_with("slow", f"{url}/1"), work_with("bad", "http://127.0.0.1:1/")
        told.desk.fetch(first)
        told.desk.fetch(second)
        assert told.desk.loading == 2
        work, failure = await told.next()
        assert (work, failure.code) == (second, "unsafe_url")
        assert failure.param == "messages[0].content[0]"
        assert told.desk.loading == 1
        go.set()
        work, failure = await told.next()
        assert (work, failure, told.desk.loading) == (first, None, 0)
        assert not told.desk.must_fetch(first)
        assert parts_of(told.desk.contract(first)) == [b"far"]

    asyncio.run(main())


def test_a_runner_without_eyes_has_nothing_fetched(slow):
    url, go, accepted = slow
    go.set()

    async def main():
        desk = Told(takes_images=False).desk
        work = work_with("a", f"{url}/1")
        assert not desk.holds(work)
        assert not desk.must_fetch(work)
        assert desk.contract(work) is work.request

    asyncio.run(main())
    assert accepted == []


def test_nothing_is_fetched_for_who_has_left(slow):
    url, _, accepted = slow

    async def main():
        told = Told()
        work = work_with("gone", f"{url}/1")
        work.is_ended = True
        told.desk.fetch(work)
        assert await told.next() == (work, None)

    asyncio.run(main())
    assert accepted == []


def test_a_suspect_fetches_where_it_is_prepared():
    async def main():
        with pytest.raises(InvalidInput) as caught:
            Told().desk.contract(work_with("a", DATA, "file:///etc/passwd"))
        assert caught.value.param == "messages[0].content[1]"

    asyncio.run(main())
