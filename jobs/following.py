"""The events of Jobs as they happen, for everybody in this process who follows one.

The rows are the truth and are only ever read, each follower from where it stands: so nothing is
lost, doubled or out of order, whatever becomes of a connection. A signal through Redis says which
Jobs have news; as signals may get lost, all are looked at every few seconds. Reads that come
together share one query, and nobody is read for who has not taken what was read before.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator

from django.db import InterfaceError, OperationalError
from redis.exceptions import RedisError

from casola_site.core.database import in_thread
from casola_site.core.errors import ApiError
from casola_site.core.guard.rules import draining
from jobs import events
from jobs.selectors import MOST_EVENTS, Told, events_after

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
LOOK_SECONDS = 5.0
AWAY = (OperationalError, InterfaceError)
AT_ONCE = 100  # Jobs in one query
Reading = list[Told] | None

events_after_async = in_thread(events_after)


class Follower:
    """One reader of one Job's events, `after` which it stands."""

    def __init__(self, desk: Desk, job_id: uuid.UUID, after: int) -> None:
        self.desk = desk
        self.job_id = job_id
        self.after = after
        self.has_news = asyncio.Event()
        self.has_news.set()
        self.error: ApiError | None = None

    async def follow(self, *, is_over: bool, quiet_seconds: float) -> AsyncGenerator[list[Told]]:
        """The events, some at a time, until the last one; an empty list where all was quiet.

        `is_over` says that the Job had ended already. Raises the error that `end` was given; ends
        early when this process is about to.
        """
        self.desk.add(self)
        clock = asyncio.get_running_loop().time
        until = clock() + quiet_seconds
        try:
            while not draining():
                has_news = await self._wait(max(0.0, until - clock()))
                found = await self._read() if has_news else None
                if found == [] and is_over:
                    return
                if found:
                    self.after = found[-1].seq
                if found or clock() >= until:
                    until = clock() + quiet_seconds
                    yield found or []
                if found and found[-1].is_last:
                    return
        finally:
            self.desk.remove(self)

    def end(self, error: ApiError) -> None:
        """Stop it with this error."""
        self.error = error
        self.has_news.set()

    async def _wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.has_news.wait()
        except TimeoutError:
            return False
        self.has_news.clear()
        if self.error is not None:
            raise self.error
        return True

    async def _read(self) -> Reading:
        try:
            return await self.desk.read(self)
        except AWAY:
            return None  # the next look will find what there is


class Desk:
    """All followers of an event loop."""

    def __init__(self) -> None:
        self.followers: dict[bytes, set[Follower]] = {}
        self.is_listening = False
        self._waiting: list[tuple[Follower, asyncio.Future[Reading]]] = []
        self._reading: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, follower: Follower) -> None:
        """It wants to be told of news."""
        self.followers.setdefault(follower.job_id.bytes, set()).add(follower)
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._tick())]

    def remove(self, follower: Follower) -> None:
        """It has left."""
        others = self.followers.get(follower.job_id.bytes, set())
        others.discard(follower)
        if not others:
            self.followers.pop(follower.job_id.bytes, None)

    async def read(self, follower: Follower) -> Reading:
        """What comes after where it stands; None where others' events left no room for it."""
        answer: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()
        self._waiting.append((follower, answer))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        return await answer

    async def _read_all(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                await self._read_group(group)
        finally:
            self._reading = None

    async def _read_group(self, group: list[tuple[Follower, asyncio.Future[Reading]]]) -> None:
        positions: dict[uuid.UUID, int] = {}
        for follower, _ in group:
            known = positions.get(follower.job_id, follower.after)
            positions[follower.job_id] = min(known, follower.after)
        try:
            found = await events_after_async(list(positions.items()))
        except Exception as error:  # noqa: BLE001 - it is raised where the events are waited for
            for _, answer in group:
                if not answer.done():
                    answer.set_exception(error)
            return
        is_cut = sum(map(len, found.values())) >= MOST_EVENTS
        for follower, answer in group:
            told = [e for e in found.get(follower.job_id, ()) if e.seq > follower.after]
            if is_cut:
                follower.has_news.set()  # to read on
            if not answer.done():
                answer.set_result(told or None if is_cut else told)

    def _look(self) -> None:
        for followers in self.followers.values():
            for follower in followers:
                follower.has_news.set()

    async def _listen(self) -> None:
        while True:
            try:
                async for job_ids in events.news():
                    if not self.is_listening:
                        self.is_listening = True
                        self._look()
                    for job_id in job_ids & self.followers.keys():
                        for follower in self.followers[job_id]:
                            follower.has_news.set()
            except (RedisError, OSError):
                self.is_listening = False
            await asyncio.sleep(TICK_SECONDS)

    async def _tick(self) -> None:
        """Look at all followed Jobs now and then, each second while no signals come."""
        looked = 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            is_due = loop.time() - looked > LOOK_SECONDS
            if is_due or not self.is_listening or draining():
                looked = loop.time()
                self._look()


_desks: dict[asyncio.AbstractEventLoop, Desk] = {}


def follower(job_id: uuid.UUID, after: int) -> Follower:
    """A follower at the running loop's Desk."""
    loop = asyncio.get_running_loop()
    desk = _desks.get(loop)
    if desk is None:
        for stale in [other for other in _desks if other.is_closed()]:
            del _desks[stale]
        desk = _desks[loop] = Desk()
    return Follower(desk, job_id, after)
