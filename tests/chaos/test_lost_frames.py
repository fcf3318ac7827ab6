"""Frames that never arrive: Hub and RunnerHost in one process, with a thief between them."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from inference import frames
from inference.claims import Claims
from inference.contracts.answers import Part
from inference.execution import RunnerHost
from inference.hub import Finished, Hub, RunnerLost, Started, Text
from inference.runners.base import RunnerConfig
from inference.runners.echo import EchoRunner
from inference.selectors import Catalog, LiveRunner, Model
from jobs import link as links
from tests.chaos.checker import words

QUEUE = "q_lost"


class Recorder:
    """Takes the ends instead of a database; the first end of a Job wins."""

    def __init__(
        self,
        on_written: Callable[[list], None],
        on_broken: Callable[[str], None],
        *,
        has_company: Callable[[], bool],
    ) -> None:
        self.on_written = on_written

    def put(self, outcome: Any, *, retry: bool = False) -> None:
        fresh = outcome.job_id not in ENDS
        ENDS.setdefault(outcome.job_id, []).append(outcome)
        self.on_written([(outcome, "accepted" if fresh else "refused")])

    def close(self) -> None:
        pass


ENDS: dict[str, list] = {}


class Keeper:
    """Says nothing, stops nobody."""

    should_stop = False
    is_live = False
    prices: dict = {}

    def go_live(self, *, channel: str, host: RunnerHost) -> None:
        self.channel = channel

    def take_lost(self) -> set:
        return set()

    def abort(self, reason: str) -> None:
        raise AssertionError(reason)


class Line:
    """One Hub, some Runners, and rules about which frames are stolen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.thefts: list[Callable[[links.Frame], bool]] = []
        self.stolen: list[links.Frame] = []
        self.sent: list[links.Frame] = []
        self.hosts: list[RunnerHost] = []
        self.catalog = Catalog(read_at=time.monotonic() + 3600)
        monkeypatch.setattr("inference.execution.Committer", Recorder)
        monkeypatch.setattr("inference.hub.catalog_in_memory", lambda: self.catalog)
        monkeypatch.setattr(Claims, "run", _nothing)
        monkeypatch.setattr(Claims, "hear_signals", _nothing)
        send = links.Link._send

        async def steal(link: links.Link, channel: str, batch: list[links.Frame]) -> None:
            kept = [frame for frame in batch if not self._steals(frame)]
            self.sent += kept
            if kept:
                await send(link, channel, kept)

        monkeypatch.setattr(links.Link, "_send", steal)

    def _steals(self, frame: links.Frame) -> bool:
        for theft in self.thefts:
            if theft(frame):
                self.stolen.append(frame)
                return True
        return False

    def steal(self, kind: str, times: int = 1, first: int = 0) -> None:
        """Steal some frames of a kind, after letting `first` pass."""
        left = {"pass": first, "times": times}

        def theft(frame: links.Frame) -> bool:
            if frame[0] != kind or not left["times"]:
                return False
            if left["pass"]:
                left["pass"] -= 1
                return False
            left["times"] -= 1
            return True

        self.thefts.append(theft)

    async def start(self, runners: int = 1) -> Hub:
        self.tasks = []
        for _ in range(runners):
            await self.add_runner()
        self.hub = Hub()
        self.hub.start()
        await asyncio.sleep(0.2)
        return self.hub

    async def add_runner(self) -> RunnerHost:
        config = RunnerConfig(model_id="m", path="", slots=8, options={"token_ms": 10})
        runner, keeper = EchoRunner(config), Keeper()
        row = SimpleNamespace(pk=len(self.hosts) + 1, capacity=8)
        spec = SimpleNamespace(model_id="m", queue_id=QUEUE)
        host = RunnerHost(spec=spec, runner=runner, row=row, keeper=keeper)
        self.hosts.append(host)
        self.tasks.append(asyncio.create_task(host._main()))
        while not hasattr(keeper, "channel"):
            await asyncio.sleep(0.01)
        live = LiveRunner(f"run_{row.pk}", row.pk, QUEUE, keeper.channel, 0)
        self.catalog.runners.setdefault(QUEUE, []).append(live)
        return host

    async def stop(self) -> None:
        for task in [*self.hub._tasks, *self.tasks]:
            task.cancel()
        await self.hub.link.close()
        for host in self.hosts:
            await host.link.close()
            host.runner.unload()

    async def ask(
        self, tokens: int = 20, *, stream: bool = True, wait: float = 20, **wishes: Any
    ) -> tuple:
        """(text, last piece or error, seconds, job id)."""
        job_id, began, text = str(uuid.uuid4()), time.monotonic(), ""
        content = f"!tokens {tokens}"
        request = {
            "task": "openai/chat-completion",
            "input": {"messages": [{"role": "user", "content": content}], **wishes},
            "stream": stream,
            "who": [1, 1, 1, "org_1"],
            "created_at": time.time(),
        }
        model = Model(1, "spec", "m", QUEUE, frozenset(), False)
        pieces = self.hub.run(job_id=job_id, model=model, request=request, wait_seconds=wait)
        last: Any = None
        try:
            async for piece in pieces:
                last = piece
                if isinstance(piece, Text | Part):
                    text += piece.text
                elif isinstance(piece, Finished):
                    text += "".join(choice["message"]["content"] for choice in piece.choices)
                assert isinstance(piece, Started | Text | Part | Finished)
        except Exception as error:  # noqa: BLE001 - the scene judges it
            last = error
        finally:
            await pieces.aclose()
        return text, last, time.monotonic() - began, job_id


async def _nothing(_claims: Claims) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch):
    """Run a scene: `play(scene, runners=1)` with `scene(line)`."""
    ENDS.clear()

    def run(scene: Callable[[Line], Any], runners: int = 1) -> None:
        async def main() -> None:
            line = Line(monkeypatch)
            await line.start(runners)
            try:
                async with asyncio.timeout(40):
                    await scene(line)
            finally:
                await line.stop()

        asyncio.run(main())

    return run


def expected(tokens: int) -> str:
    return "".join(f"w{index} " for index in range(tokens))


def assert_recorded_once(job_id: str, status: str = "completed") -> None:
    assert [outcome.status for outcome in ENDS[job_id]] == [status]


@pytest.mark.parametrize("stream", [True, False])
def test_nothing_is_lost(play, stream):
    async def scene(line):
        text, last, _, job_id = await line.ask(stream=stream)
        assert text == expected(20)
        assert isinstance(last, Finished)
        assert_recorded_once(job_id)
        assert not [frame for frame in line.sent if frame[0] == frames.CANCEL]

    play(scene)


@pytest.mark.parametrize("kind", [frames.REQUEST, frames.ACK])
def test_a_lost_request_or_acknowledgement(play, kind):
    async def scene(line):
        line.steal(kind)
        text, last, seconds, job_id = await line.ask(200 if kind == frames.ACK else 20)
        assert isinstance(last, Finished), last
        assert text == expected(200 if kind == frames.ACK else 20)
        assert seconds < 10
        assert_recorded_once(job_id)

    play(scene)


def test_a_lost_text_ends_the_stream(play):
    async def scene(line):
        line.steal(frames.TEXT, first=5)
        text, last, _, job_id = await line.ask(300)
        assert isinstance(last, RunnerLost)
        assert words(len(text)).startswith(text)
        await asyncio.sleep(0.3)
        assert ENDS[job_id][0].status == "failed"
        assert not ENDS[job_id][0].charged

    play(scene)


@pytest.mark.parametrize("wishes", [{"n": 3}, {"top_logprobs": 2}])
def test_a_lost_part_ends_the_stream(play, wishes):
    async def scene(line):
        line.steal(frames.PART, first=5)
        _, last, _, job_id = await line.ask(300, **wishes)
        assert len(line.stolen) == 1
        assert isinstance(last, RunnerLost)
        await asyncio.sleep(0.3)
        assert not ENDS[job_id][0].charged

    play(scene)


@pytest.mark.parametrize("stream", [True, False])
def test_no_part_is_lost(play, stream):
    async def scene(line):
        text, last, _, job_id = await line.ask(n=3, top_logprobs=0, stream=stream)
        assert isinstance(last, Finished), last
        assert sorted(text.split()) == sorted(expected(20).split() * 3)
        assert len(last.choices) == (0 if stream else 3)
        assert_recorded_once(job_id)

    play(scene)


def test_a_lost_text_is_noticed_by_the_beat(play):
    """When nothing follows for long, the next sign of life shows the gap."""

    async def scene(line):
        line.steal(frames.TEXT, times=10_000, first=5)
        line.steal(frames.END, times=10)
        text, last, seconds, _ = await line.ask(300)
        assert isinstance(last, RunnerLost)
        assert text == expected(5)
        assert seconds < 10

    play(scene)


@pytest.mark.parametrize("stream", [True, False])
def test_a_lost_end_is_said_again(play, stream):
    async def scene(line):
        other = asyncio.create_task(line.ask(400))  # keeps the beats coming
        line.steal(frames.END)
        text, last, seconds, job_id = await line.ask(stream=stream)
        assert isinstance(last, Finished), last
        assert text == expected(20)
        assert seconds < 10
        assert_recorded_once(job_id)
        assert isinstance((await other)[1], Finished)

    play(scene)


def test_a_lost_cancel_is_noticed_by_the_beat(play):
    async def scene(line):
        other = asyncio.create_task(line.ask(300))
        line.steal(frames.CANCEL)
        leaving = asyncio.create_task(line.ask(5000))
        await asyncio.sleep(0.5)
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving
        (job_id,) = [i for i in line.hosts[0].work if i not in line.hub.exchanges]
        await asyncio.sleep(1.5)
        assert ENDS[job_id][0].status == "failed"
        assert not ENDS[job_id][0].charged
        await other

    play(scene)


def test_late_frames_of_an_earlier_attempt_are_ignored(play):
    async def scene(line):
        first = line.hosts[0]
        put, held = first.link.put, []
        first.link.put = lambda channel, frame: held.append((channel, frame))  # it falls silent
        asking = asyncio.create_task(line.ask(150, stream=False))
        await asyncio.sleep(1.0)
        await line.add_runner()
        while not any(host.work for host in line.hosts[1:]):
            await asyncio.sleep(0.05)
        first.link.put = put
        for channel, frame in held:
            put(channel, frame)
        text, last, _, job_id = await asking
        assert isinstance(last, Finished), last
        assert text == expected(150)
        assert [outcome.status for outcome in ENDS[job_id]][:1] == ["completed"]

    play(scene)


def test_a_runner_that_leaves_sends_requests_on(play):
    async def scene(line):
        line.hosts[0].is_draining = True
        answers = await asyncio.gather(*(line.ask() for _ in range(5)))
        assert all(isinstance(last, Finished) for _, last, *_ in answers)
        assert max(seconds for *_, seconds, _ in answers) < 10
        for *_, job_id in answers:
            assert_recorded_once(job_id)

    play(scene, runners=2)


def test_a_frame_that_cannot_be_packed_harms_only_itself(play):
    async def scene(line):
        other = asyncio.create_task(line.ask(100))
        await asyncio.sleep(0.2)
        line.hub.link.put(line.hosts[0].link.name, ["odd", object()])
        assert isinstance((await other)[1], Finished)
        assert isinstance((await line.ask())[1], Finished)

    play(scene)


def test_a_deaf_link_subscribes_anew(play):
    async def scene(line):
        await line.hub.link._layer.flush()  # as if the subscription were gone
        await asyncio.sleep(links.DEAF_SECONDS + links.ECHO_SECONDS * 2 + 0.5)
        assert line.hub.link.is_up
        assert isinstance((await line.ask())[1], Finished)

    play(scene)
