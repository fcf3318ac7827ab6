"""Slots: how many interactive requests of an Organization are in flight, over all processes.

A request beyond its Plan's caps waits in line, first come, first served over all processes, until
another one ends. Slots and places in line live in Redis and are given by one script, on its clock.
Each is a lease that its web process renews every second, so what a killed process held comes free
by itself. Who has won a slot is told by a message; the next renewal says it as well, for a message
may get lost. While Redis is away each process grants its share of the caps; when it is back, or has
forgotten everything, nothing is granted until every process has told what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from redis.exceptions import RedisError

from casola_site.core import redis
from casola_site.core.errors import ApiError, QueueFull, Timeout
from tokens.identity import Identity
from usage.limits import Caps
from usage.slot_script import CHANNEL, HELD, NEW, SCRIPT, WAITING, entry_id, keys_of

LEASE_SECONDS = 5.0
RENEW_SECONDS = 1.0
SETTLE_SECONDS = 2.0  # after Redis forgot everything: longer than from one renewal to the next
RETRY_AFTER = 5


def caps_of(identity: Identity) -> Caps:
    """The Plan's, as the caller's Identity has them."""
    return Caps(
        identity.max_running_jobs, identity.max_streams, identity.max_queued_jobs, identity.plan
    )


class Slot:
    """One request's slot or place in line. Let it go with `release`, whatever happened."""

    def __init__(self, desk: Desk, job_id: str, *, stream: bool) -> None:
        self.desk = desk
        self.job_id = job_id
        self.is_stream = stream
        self.id = entry_id(desk.slots.process, job_id, stream=stream)
        self.state = NEW
        self.place: Any = 0
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def release(self) -> None:
        """Let the next in line have it."""
        await self.desk.leave(self)

    def grant(self) -> None:
        """It is ours now."""
        self.state = HELD
        if not self.granted.done():
            self.granted.set_result(None)

    def refuse(self, error: ApiError) -> None:
        """It never will be."""
        if not self.granted.done():
            self.granted.set_exception(error)
            self.granted.exception()  # seen, also where the caller has left


class Desk:
    """What this process's requests of one Organization hold, and their talk with Redis."""

    def __init__(self, slots: Slots, organization_id: str) -> None:
        self.slots = slots
        self.keys = keys_of(organization_id)
        self.all: dict[str, Slot] = {}
        self.leaving: list[tuple[str, asyncio.Future[None]]] = []
        self.caps = Caps(None, None, None, "")
        self.caps_are_news = False  # Redis has yet to hear of them
        self.has_come = False
        self.must_renew = False
        self.talk: asyncio.Task[None] | None = None

    def enter(self, job_id: str, caps: Caps, *, stream: bool) -> Slot:
        """Ask for a slot; `granted` says when it is there."""
        slot = self.all[job_id] = Slot(self, job_id, stream=stream)
        self.caps, self.caps_are_news, self.has_come = caps, True, True
        self._say()
        return slot

    async def leave(self, slot: Slot) -> None:
        """Give back a slot or a place; returns when Redis was told, or could not be."""
        if self.all.pop(slot.job_id, None) is None:
            return
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.leaving.append((slot.id, told))
        self._say()
        await asyncio.shield(told)

    def renew(self) -> None:
        """Tell Redis of everything that is here once more."""
        self.must_renew = True
        self._say()

    @property
    def is_empty(self) -> bool:
        """Whether nobody holds, waits or leaves."""
        return not self.all and not self.leaving and self.talk is None

    def _say(self) -> None:
        if self.talk is None:
            self.talk = asyncio.create_task(self._talk())

    async def _talk(self) -> None:
        """One exchange at a time, so that what is said later also arrives later."""
        leaving: list[tuple[str, asyncio.Future[None]]] = []
        try:
            while self.leaving or self.has_come or self.must_renew:
                leaving, self.leaving = self.leaving, []
                renews = self.must_renew
                present = [s for s in self.all.values() if renews or s.state == NEW]
                arguments = self._arguments([told[0] for told in leaving], present)
                self.must_renew = self.has_come = self.caps_are_news = False
                try:
                    answer = await self.slots.script(keys=self.keys, args=arguments)
                except RedisError:
                    self.caps_are_news = True
                    self._serve_alone()
                else:
                    self._take(present, answer)
                for _, told in leaving:
                    told.set_result(None)
                leaving = []
        finally:
            self.talk = None
            for _, told in leaving:
                told.cancel()

    def _arguments(self, leaving: list[str], present: list[Slot]) -> list[Any]:
        caps = self.caps
        numbers = [-1 if cap is None else cap for cap in (caps.running, caps.streams, caps.waiting)]
        moments = [int(LEASE_SECONDS * 1e6), int(SETTLE_SECONDS * 1e6)]
        stay = [part for slot in present for part in (slot.id, slot.state, slot.place)]
        head = [*numbers, int(self.caps_are_news), *moments, CHANNEL, len(leaving)]
        return [*head, *leaving, *stay]

    def _take(self, present: list[Slot], answer: list[Any]) -> None:
        states = zip(answer[::2], answer[1::2], strict=True)
        for slot, (state, place) in zip(reversed(present), states, strict=True):
            if state == HELD:
                slot.grant()
            elif state == WAITING:
                slot.state, slot.place = WAITING, place
            else:
                self._refuse(slot)

    def _refuse(self, slot: Slot) -> None:
        self.all.pop(slot.job_id, None)
        error = QueueFull(
            self.caps.waiting or 0,
            plan=self.caps.plan,
            what="requests",
            retry_after=RETRY_AFTER,
        )
        slot.refuse(error)

    def _serve_alone(self) -> None:
        """Grant this process's share, in the order of arrival; who is not granted waits on."""
        caps = self.caps.share(settings.WEB_WORKERS)
        held = [slot for slot in self.all.values() if slot.state == HELD]
        running, streams = len(held), sum(slot.is_stream for slot in held)
        waiting = 0
        for slot in [slot for slot in self.all.values() if slot.state != HELD]:
            has_room = caps.running is None or running < caps.running
            if has_room and (not slot.is_stream or caps.streams is None or streams < caps.streams):
                slot.grant()
                running, streams = running + 1, streams + slot.is_stream
                continue
            waiting += 1
            if slot.state == NEW and caps.waiting is not None and waiting > caps.waiting:
                self._refuse(slot)
            slot.state = WAITING


class Slots:
    """All capped requests of an event loop."""

    def __init__(self) -> None:
        self.process = uuid.uuid4().hex
        self.desks: dict[str, Desk] = {}
        self.script = redis.async_client().register_script(SCRIPT)
        self._tasks: list[asyncio.Task[None]] = []

    async def take(
        self, identity: Identity, *, job_id: str, stream: bool, wait_seconds: float
    ) -> Slot | None:
        """A slot for the request, at once or after its turn in line; None where no cap holds.

        Raises QueueFull when the line is full, Timeout when its turn did not come in time.
        """
        if identity.max_running_jobs is None and (not stream or identity.max_streams is None):
            return None
        self._start()
        desk = self.desks.get(identity.organization_id)
        if desk is None:
            desk = self.desks[identity.organization_id] = Desk(self, identity.organization_id)
        slot = desk.enter(job_id, caps_of(identity), stream=stream)
        try:
            async with asyncio.timeout(wait_seconds):
                await slot.granted
        except TimeoutError:
            await slot.release()
            raise Timeout(
                headers={"x-should-retry": "false"}, extra={"request_id": job_id}
            ) from None
        except BaseException:
            await slot.release()
            raise
        return slot

    def end(self, job_id: str, error: ApiError) -> None:
        """Refuse a request that is still in line."""
        for slot in self._found(job_id):
            slot.refuse(error)

    async def close(self) -> None:
        """Stop listening and renewing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _found(self, job_id: str) -> Iterator[Slot]:
        return (desk.all[job_id] for desk in self.desks.values() if job_id in desk.all)

    def _start(self) -> None:
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._renew())]

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for organization_id, desk in list(self.desks.items()):
                if desk.is_empty:
                    del self.desks[organization_id]
                elif desk.all:
                    desk.renew()

    async def _listen(self) -> None:
        """Hear of slots that others' leaving has won for us."""
        while True:
            with contextlib.suppress(RedisError, OSError):
                await self._hear()
            await asyncio.sleep(RENEW_SECONDS)

    async def _hear(self) -> None:
        listening = redis.async_client().pubsub(ignore_subscribe_messages=True)
        try:
            await listening.subscribe(CHANNEL + self.process)
            while True:
                message = await listening.get_message(timeout=30)
                if message is None:
                    continue
                for slot in self._found(message["data"].decode().rpartition("/")[2]):
                    slot.grant()
        finally:
            await listening.aclose()


_all: dict[asyncio.AbstractEventLoop, Slots] = {}


def slots() -> Slots:
    """The running loop's Slots."""
    loop = asyncio.get_running_loop()
    found = _all.get(loop)
    if found is None:
        for stale in [other for other in _all if other.is_closed()]:
            del _all[stale]
        found = _all[loop] = Slots()
    return found
