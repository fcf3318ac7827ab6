"""A process's one permanent channel on the channel layer, and the frames that travel on it.

Frames are small lists `[kind, job_id, …]`; everything put for one channel while a send is under way
leaves as one message, so a decode step costs one message per web process. The layer delivers in
order, at most once, and says nothing when it does not: whoever uses a Link checks acknowledgements,
offsets and the sender's signs of life himself (`last_heard`). A Link sends itself an echo every
second: it is up while those return, and subscribes anew when they do not.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

Frame = list[Any]
SEND_SECONDS = 2.0
SOON_SECONDS = 0.01
ECHO_SECONDS = 1.0
DEAF_SECONDS = 3.0
ECHO = "echo"


class Link:
    """One process's end. `name` is what others send to."""

    def __init__(self, kind: str, on_lost: Callable[[Frame], None] | None = None) -> None:
        """`on_lost` is told of every frame that could not be sent."""
        self.name = f"casola.{kind}.{uuid.uuid4().hex}"
        self.on_lost = on_lost
        self.is_up = True
        self.last_heard: dict[str, float] = {}
        self._out: dict[str, list[Frame]] = {}
        self._soon: asyncio.TimerHandle | None = None
        self._is_sending = False
        self._ready = asyncio.Event()
        self._inbox: asyncio.Queue[tuple[str, list[Frame]]] = asyncio.Queue()
        # A layer of its own, so that subscribing anew disturbs nobody else.
        self._layer = channel_layers.make_backend(DEFAULT_CHANNEL_LAYER)
        self._hearing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send and to listen."""
        self._echoed = time.monotonic()
        self._hearing = asyncio.create_task(self._hear())
        self._tasks = [asyncio.create_task(self._send_all()), asyncio.create_task(self._check())]

    async def close(self) -> None:
        """Send what is queued, then stop."""
        deadline = time.monotonic() + SEND_SECONDS
        while (self._out or self._is_sending) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await self._unsubscribe()

    # -- out --------------------------------------------------------------------------------

    def put(self, channel: str, frame: Frame) -> None:
        """Queue a frame for a channel; never blocks."""
        self._out.setdefault(channel, []).append(frame)
        self._ready.set()

    def put_soon(self, channel: str, frame: Frame) -> None:
        """Queue a frame that can wait for company: it leaves with the next, or after a few ms."""
        self._out.setdefault(channel, []).append(frame)
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(SOON_SECONDS, self._send_soon)

    def _send_soon(self) -> None:
        self._soon = None
        self._ready.set()

    async def _send_all(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            out, self._out = self._out, {}
            self._is_sending = True
            for channel, frames in out.items():
                await self._send(channel, frames)
            self._is_sending = False

    async def _send(self, channel: str, frames: list[Frame]) -> None:
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._layer.send(channel, {"type": "frames", "from": self.name, "f": frames})
        except (RedisError, OSError):  # TimeoutError is an OSError
            self._is_down()
            self._lost(frames)
        except Exception:  # a frame that cannot be packed must not take the others along
            if len(frames) == 1:
                logger.exception("a frame could not be packed")
                self._lost(frames)
                return
            for frame in frames:
                await self._send(channel, [frame])

    def _lost(self, frames: list[Frame]) -> None:
        if self.on_lost is not None:
            for frame in frames:
                self.on_lost(frame)

    def _is_down(self) -> None:
        if self.is_up:
            logger.warning("frames are lost: Redis is away")
        self.is_up = False

    # -- in ---------------------------------------------------------------------------------

    async def receive(self) -> AsyncIterator[tuple[str, list[Frame]]]:
        """(sender, frames) of every message, for ever."""
        while True:
            yield await self._inbox.get()

    async def _hear(self) -> None:
        while True:
            message = await self._layer.receive(self.name)
            sender, moment = message["from"], time.monotonic()
            self.last_heard[sender] = moment
            if sender != self.name:
                self._inbox.put_nowait((sender, message["f"]))
                continue
            self._echoed = moment
            if not self.is_up:
                logger.warning("Redis is back")
                self.is_up = True

    async def _check(self) -> None:
        while True:
            self.put(self.name, [ECHO])
            await asyncio.sleep(ECHO_SECONDS)
            if time.monotonic() - self._echoed > DEAF_SECONDS:
                self._is_down()
                await self._unsubscribe()
                self._hearing = asyncio.create_task(self._hear())

    async def _unsubscribe(self) -> None:
        """Flush first: cancelling a receive on a known channel would talk to Redis once more."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._layer.flush()
        except Exception as error:  # noqa: BLE001 - a connection that breaks while it is closed
            logger.debug("flushing the layer: %s", type(error).__name__)
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.gather(self._hearing, return_exceptions=True)

    def silent_for(self, channel: str, since: float) -> float:
        """Seconds since the other end was heard, counted from `since` at the earliest."""
        return time.monotonic() - max(since, self.last_heard.get(channel, 0.0))
