"""A process's one permanent channel on the channel layer, and the frames that travel on it.

Frames are small lists `[kind, job_id, …]`; everything put for one channel while a send is under way
leaves as one message, so a decode step costs one message per web process. The layer delivers at
most once and says nothing when it does not: whoever uses a Link checks acknowledgements, offsets
and the sender's signs of life himself (`last_heard`).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from channels.layers import get_channel_layer
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

Frame = list[Any]
SEND_SECONDS = 2.0


class Link:
    """One process's end. `name` is what others send to."""

    def __init__(self, kind: str, on_lost: Callable[[Frame], None] | None = None) -> None:
        """`on_lost` is told of every frame that could not be sent."""
        self.name = f"casola.{kind}.{uuid.uuid4().hex}"
        self.on_lost = on_lost
        self.is_up = True
        self.last_heard: dict[str, float] = {}
        self._out: dict[str, list[Frame]] = {}
        self._ready = asyncio.Event()
        self._layer = get_channel_layer()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send; receiving begins with the first `receive`."""
        self._tasks = [asyncio.create_task(self._send_all())]

    async def close(self) -> None:
        """Send what is queued, then stop."""
        deadline = time.monotonic() + SEND_SECONDS
        while self._out and self.is_up and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await self._layer.flush()

    def put(self, channel: str, frame: Frame) -> None:
        """Queue a frame for a channel; never blocks."""
        queued = self._out.get(channel)
        if queued is None:
            self._out[channel] = [frame]
            self._ready.set()
        else:
            queued.append(frame)

    async def _send_all(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            out, self._out = self._out, {}
            for channel, frames in out.items():
                await self._send(channel, frames)

    async def _send(self, channel: str, frames: list[Frame]) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._layer.send(channel, {"type": "frames", "from": self.name, "f": frames})
            self.is_up = True
        except (RedisError, OSError, TimeoutError):
            if self.is_up:
                logger.warning("frames are lost: Redis is away")
            self.is_up = False
            if self.on_lost is not None:
                for frame in frames:
                    self.on_lost(frame)

    async def receive(self) -> AsyncIterator[tuple[str, list[Frame]]]:
        """(sender, frames) of every message, for ever."""
        while True:
            try:
                message = await self._layer.receive(self.name)
            except (RedisError, OSError):
                self.is_up = False
                await asyncio.sleep(0.5)
                continue
            self.last_heard[message["from"]] = time.monotonic()
            yield message["from"], message["f"]

    def silent_for(self, channel: str, since: float) -> float:
        """Seconds since the other end was heard, counted from `since` at the earliest."""
        return time.monotonic() - max(since, self.last_heard.get(channel, 0.0))

    def forget(self, channel: str) -> None:
        """Drop what is kept about an end that has gone."""
        self.last_heard.pop(channel, None)
        self._out.pop(channel, None)
