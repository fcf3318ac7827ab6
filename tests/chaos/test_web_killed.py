"""A web process is killed while it streams, or told to end."""

from __future__ import annotations

import contextlib
import signal
import time

import httpx
import psutil
import pytest

from tests.chaos.world import Stream, World
from tests.live import wait_until

pytestmark = pytest.mark.slow


def serving(world: World, stream: Stream) -> int:
    """The web process at the other end of the stream."""
    for worker in world.web_workers():
        for connection in worker.net_connections("tcp"):
            if connection.raddr and connection.raddr.port == stream.port:
                return worker.pid
    raise AssertionError("nobody serves this stream")


def test_killed_while_streaming(world: World):
    streams = [world.open_stream(300) for _ in range(6)]
    for stream in streams:
        stream.read(words=2)
    served = {stream.seen.job_id: serving(world, stream) for stream in streams}
    victim = served[streams[0].seen.job_id]
    job_id = world.submit(duration_ms=1500, units=2)
    began = time.monotonic()
    psutil.Process(victim).kill()
    for stream in streams:
        if served[stream.seen.job_id] != victim:
            assert stream.read().is_whole
            continue
        seen = stream.read()
        assert seen.failure
        assert not seen.is_done
        row = world.wait_row(seen.job_id, 6)
        assert (row["status"], row["amount"]) == ("failed", 0)
    noticed = max(
        (world.row(job)["completed_at"] for job, pid in served.items() if pid == victim),
        default=None,
    )
    print(f"web process killed: {list(served.values()).count(victim)} streams recorded {noticed}")
    assert world.wait_row(job_id)["status"] == "completed"
    wait_until(
        lambda: len([p for p in world.web_workers() if p.status() != psutil.STATUS_ZOMBIE]) == 2,
        seconds=5,
        what="another web process",
    )
    assert world.ask().is_whole
    print(f"all served again {time.monotonic() - began:.1f} s after the kill")
    for stream in streams:
        stream.close()


def test_sigterm_lets_streams_finish(world: World):
    streams = [world.open_stream(150) for _ in range(4)]
    for stream in streams:
        stream.read(words=2)
    kept = httpx.Client(base_url=world.url, timeout=5)
    assert kept.get("/readyz").status_code == 200
    world.processes["web"].send_signal(signal.SIGTERM)
    try:
        time.sleep(0.3)
        with contextlib.suppress(httpx.HTTPError):  # it may be closed at once
            assert kept.get("/readyz").status_code == 503
        seen = [stream.read() for stream in streams]
        assert all(one.is_whole for one in seen), seen
        assert world.processes["web"].wait(10) == 0
    finally:
        kept.close()
        for stream in streams:
            stream.close()
        if world.processes["web"].poll() is None:
            world.processes["web"].kill()
        world.start_process("web", "web")
        world.wait_ready()
