"""The persisted lane of a Runner: Jobs taken from the queue while there is room, suspects alone."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import Error as DatabaseTrouble
from django.utils import timezone
from redis.exceptions import RedisError

from casola_site.core.database import fresh
from inference import frames
from inference.work import Work
from jobs.events import queue_signals
from jobs.models import Job
from jobs.services import claim_jobs, claim_suspects, release_jobs, suspect_waits

if TYPE_CHECKING:
    from inference.execution import RunnerHost

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0


class Claims:
    """Feeds one RunnerHost. Everything here runs on its event loop."""

    def __init__(self, host: RunnerHost) -> None:
        """Nothing happens before `run`."""
        self.host = host
        self.wake = asyncio.Event()
        self.exclusive: str = ""  # "", "wanted" (suspects wait for an empty engine) or "running"
        self._suspects_since = 0.0
        self._suspects_after = 0.0
        self._is_unsure = False
        self._database = ThreadPoolExecutor(max_workers=1, thread_name_prefix="claims")

    async def run(self) -> None:
        """Claim whenever woken, and once a second; never returns."""
        host = self.host
        while True:
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self.wake.wait()
            except TimeoutError:
                pass
            self.wake.clear()
            if host.is_draining or not host.keeper.is_live:
                continue  # a crash before the row says `live` would count as a failure to load
            try:
                await self._claim_once()
            except DatabaseTrouble as error:
                self._is_unsure = True
                logger.warning("cannot claim: %s", type(error).__name__)

    async def hear_signals(self) -> None:
        """Wakes and cancels that others send; never returns."""
        work = self.host.work
        while True:
            try:
                async for signal in queue_signals(self.host.spec.queue_id):
                    if signal["type"] == "wake":
                        self.wake.set()
                    elif signal["type"] == "cancel" and signal["job_id"] in work:
                        # Whoever sent it has ended the row.
                        self.host.cancel(work[signal["job_id"]], frames.MOVED)
            except (RedisError, OSError):
                await asyncio.sleep(1)

    def close(self) -> None:
        """Wait for the claim under way."""
        self._database.shutdown()

    def one_stopped(self, work: Work) -> None:
        """This work takes no slot any more."""
        host = self.host
        if work.is_suspect and not host.running:
            self._end_suspects()
        if (work.is_claimed and not host.waiting) or (self.exclusive and not host.running):
            self.wake.set()

    async def _claim_once(self) -> None:
        host = self.host
        if self._is_unsure:
            # The claim may have been committed although its answer was lost.
            await self._in_database(
                release_jobs, runner_id=host.row.pk, crashed=False, keep=list(host.work)
            )
            self._is_unsure = False
        if self.exclusive == "running":
            return
        moment = timezone.now()
        queue_id = host.spec.queue_id
        if time.monotonic() >= self._suspects_after and await self._in_database(
            suspect_waits, queue_id=queue_id, now=moment
        ):
            self.exclusive = "wanted"
            await self._claim_suspects(moment)
            return
        self.exclusive = ""
        free = host.row.capacity - host.running - len(host.waiting) - host.images.loading
        if free <= 0 and not any(work.is_claimed for work in host.work.values()):
            free = 1  # persisted work always has a slot, however long the interactive line is
        jobs = await self._in_database(
            claim_jobs, runner_id=host.row.pk, queue_id=queue_id, free=free, now=moment
        )
        if jobs:
            host.waiting.extendleft(reversed([self._claimed(job) for job in jobs]))
            host.admit()
            if len(jobs) == free:
                self.wake.set()
        elif host.waiting:
            host.admit()

    async def _claim_suspects(self, moment: datetime) -> None:
        host = self.host
        if host.running:
            return
        jobs = await self._in_database(
            claim_suspects,
            runner_id=host.row.pk,
            queue_id=host.spec.queue_id,
            free=host.row.capacity,
            now=moment,
        )
        if not jobs:
            self.exclusive = ""
            host.admit()
            return
        self.exclusive = "running"
        self._suspects_since = time.monotonic()
        for job in jobs:
            work = self._claimed(job)
            work.is_suspect = True
            host.submit(work)

    def _end_suspects(self) -> None:
        """Others have the engine for as long as the suspects had it."""
        self.exclusive = ""
        now = time.monotonic()
        self._suspects_after = 2 * now - self._suspects_since
        self.wake.set()

    def _claimed(self, job: Job) -> Work:
        work = Work(
            job_id=str(job.pk),
            task=job.task,
            request=job.input or {},
            organization_id=job.organization_id,
            token_id=job.token_id,
            user_id=job.user_id,
            salt=str(job.organization_id),
            model_id=job.model_id,
            created_at=job.created_at,
            attempt=job.attempts,
            is_claimed=True,
        )
        self.host.work[work.job_id] = work
        return work

    async def _in_database(self, function: Any, **arguments: Any) -> Any:
        checked = fresh(function)
        return await self.host.loop.run_in_executor(self._database, lambda: checked(**arguments))
