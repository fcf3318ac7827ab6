"""Hosts one Runner in its process: frames and claims in, events out, leases kept.

Threads: this one runs the event loop (frames, admission, events); the engine has its own; the
committer writes ends; the keeper renews the lease and reads orders, on a connection no model call
can block. Interactive requests and claimed Jobs share one admission and one batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.utils import timezone

from inference import frames, parcels
from inference.claims import Claims
from inference.committer import Committer
from inference.contracts.surfaces import SOUND_TASKS
from inference.deadlines import cancel_grace, start_to_close
from inference.delivery import Deliveries
from inference.frames import BEAT_SECONDS, SILENCE_SECONDS
from inference.images import ImageDesk
from inference.keeper import Keeper
from inference.models import ModelSpec
from inference.runners import base
from inference.sounds import SoundDesk
from inference.work import OUR_FAULT, Memory, Work
from jobs.enums import JobStatus
from jobs.link import Frame, Link
from jobs.models import Runner as RunnerRow
from jobs.services import Outcome

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
MAX_WAITING = 4_000
SMALL_REQUEST = 20_000  # characters
PREPARING = 4  # threads


class RunnerHost:
    """Runs until told to stop, drained or fenced."""

    def __init__(
        self, *, spec: ModelSpec, runner: base.Runner, row: RunnerRow, keeper: Keeper
    ) -> None:
        self.spec = spec
        self.runner = runner
        self.row = row
        self.keeper = keeper
        self.work: dict[str, Work] = {}
        self.waiting: deque[Work] = deque()
        self.running = 0
        self.claims = Claims(self)
        self.is_draining = False
        self.drain_until = float("inf")
        self.memory = Memory()
        self.parcels: set[asyncio.Future[dict[str, Any]]] = set()

    # -- life -------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve; returns when drained."""
        asyncio.run(self._main())

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.link = Link("runner")
        self.stopped = asyncio.Event()
        self.preparing = ThreadPoolExecutor(PREPARING, thread_name_prefix="prepare")
        self.images = self._desk()
        self.committer = Committer(
            lambda written: self._from_thread(self._on_written, written),
            self.keeper.abort,
            has_company=lambda: self.running > 0,
        )
        self.deliveries = Deliveries(
            self.link.put, self._say_last, self.preparing, self.committer.put
        )
        self.link.start()
        listening = asyncio.create_task(self._listen())
        await asyncio.sleep(0)
        self.runner.start(lambda events: self._from_thread(self._on_events, events))
        self.keeper.go_live(channel=self.link.name, host=self)
        tasks = [
            listening,
            asyncio.create_task(self.claims.run()),
            asyncio.create_task(self.claims.hear_signals()),
            asyncio.create_task(self._watch()),
        ]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        await self.stopped.wait()
        for task in tasks:
            task.cancel()
        await self.loop.run_in_executor(None, self.committer.close)
        await self.link.close()
        self.runner.unload()
        self.claims.close()
        self.preparing.shutdown(wait=False, cancel_futures=True)
        self.images.close()

    def _desk(self) -> ImageDesk:
        """What loads the files of requests, of the kind that this Runner takes."""
        if self.runner.tasks & SOUND_TASKS:
            return SoundDesk(contract_of=Work.contract, on_loaded=self._on_loaded)
        return ImageDesk(
            takes_images=self.runner.takes_images,
            contract_of=Work.contract,
            on_loaded=self._on_loaded,
        )

    def _from_thread(self, callback: Callable[[Any], None], argument: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, nobody wants it any more
            self.loop.call_soon_threadsafe(callback, argument)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.critical("the runner host broke", exc_info=task.exception())
            self.keeper.abort("internal error")

    def go(self) -> None:
        """The row says that this Runner is live (called by the keeper)."""
        self._from_thread(lambda _: self.claims.wake.set(), None)

    # -- interactive lane ---------------------------------------------------------------------

    async def _listen(self) -> None:
        async for sender, batch in self.link.receive():
            for frame in batch:
                try:
                    self._take_frame(sender, frame)
                except Exception:  # one odd frame must not end the others' answers
                    logger.exception("a frame of a web process could not be taken")
            self.admit()

    def _take_frame(self, sender: str, frame: Frame) -> None:
        match frame:
            case [frames.REQUEST, job_id, attempt, request]:
                self._take_request(sender, job_id, attempt, request)
            case [frames.CANCEL, job_id, reason]:
                work = self.work.get(job_id)
                if work is not None and work.reply == sender:
                    self.cancel(work, reason)
            case [frames.MORE, job_id, taken]:
                self.deliveries.on_more(self.work.get(job_id), sender, taken)
            case [frames.BEAT, job_ids]:
                self._take_beat(sender, set(job_ids))
            case _:
                return

    def _take_request(
        self, sender: str, job_id: str, attempt: int, request: dict[str, Any]
    ) -> None:
        self.link.put_soon(sender, [frames.ACK, job_id, attempt])
        if job_id in self.work:
            return
        if job_id in self.memory:
            if (final := self.memory.final(job_id, attempt)) is not None:
                self.link.put(sender, final)
            return
        work = Work.asked(job_id, attempt, request, sender=sender, model_id=self.spec.model_id)
        self.work[job_id] = work
        if self.is_draining:
            self._send_away(work)
        elif len(self.waiting) + self.images.loading >= MAX_WAITING:
            error = {"code": "model_unavailable", "message": "The model is busy"}
            self._say_last(work, [frames.ERROR, work.job_id, work.attempt, error])
        else:
            self.waiting.append(work)

    def _take_beat(self, sender: str, waited_for: set[str]) -> None:
        """What the web process does not wait for any more was cancelled, but we did not hear it."""
        for work in list(self.work.values()):
            if work.reply == sender and work.is_open and work.job_id not in waited_for:
                self.cancel(work, frames.LOST)

    # -- admission ----------------------------------------------------------------------------

    def admit(self) -> None:
        """Begin what waits, as far as there is room."""
        while self.waiting and self.running < self.row.capacity and not self.claims.exclusive:
            work = self.waiting.popleft()
            if not work.is_ended:
                self.submit(work)

    def submit(self, work: Work) -> None:
        """Hand it to the engine, what takes long in another thread."""
        if not work.is_suspect and self.images.must_fetch(work):
            self.images.fetch(work)
            return
        self.running += 1
        work.submitted = time.monotonic()
        has_images = self.images.holds(work)
        if not has_images and work.size() <= SMALL_REQUEST and not work.takes_preparing():
            self._prepare(work)
            return
        # Tokenising or compiling here would hold up every stream of this Runner.
        threads = self.images.threads if has_images else self.preparing
        done = self.loop.run_in_executor(threads, self._prepare, work)
        done.add_done_callback(lambda _: self._was_prepared(work))

    def _on_loaded(self, work: Work, failure: base.Failed | None) -> None:
        """Its images are here: it is next, unless it has ended or must go elsewhere."""
        if work.is_ended:
            return
        if failure is not None:
            self._on_events([failure])
        elif self.is_draining and not work.is_claimed:
            self._send_away(work)
        else:
            self.waiting.appendleft(work)
            self.admit()

    def _was_prepared(self, work: Work) -> None:
        if work.cancelled is not None and not work.is_ended:
            self.runner.cancel(work.job_id)  # the engine did not know it when it was cancelled

    def _prepare(self, work: Work) -> None:
        """Hand it to the engine; whatever that refuses ends this request only."""
        refusal = None
        try:
            contract = self.images.contract(work)
            work.expect(contract)
            self.runner.submit(work.job_id, work.task, contract, salt=work.salt)
        except base.InvalidInput as error:
            refusal = base.Failed(work.job_id, error.code, str(error), param=error.param)
        except base.Busy as error:
            refusal = base.Failed(
                work.job_id, error.code, str(error), retryable=True, retry_after=error.retry_after
            )
        except Exception:  # the runner's edge: one request must not end the others
            logger.exception("a request could not be submitted")
            message = "The model runner failed on this request"
            refusal = base.Failed(work.job_id, "worker_error", message)
        if refusal is not None:
            self._from_thread(self._on_events, [refusal])

    # -- events -------------------------------------------------------------------------------

    def _on_events(self, events: list[base.Event]) -> None:
        for event in events:
            work = self.work.get(event.request_id)
            if work is None or work.is_ended:
                continue
            try:
                self._on_event(work, event)
            except Exception:  # one odd event must not end the others' answers
                logger.exception("an event of the engine could not be taken")
                self.runner.cancel(work.job_id)
                message = "The model runner failed on this request"
                self._fail(work, "worker_error", message, charged=False)
        self.admit()

    def _on_event(self, work: Work, event: base.Event) -> None:
        match event:
            case base.Started():
                self._on_started(work, event)
            case base.Delta():
                self._on_delta(work, event)
            case base.Chunk():
                self.deliveries.on_chunk(work, event)
            case base.Progress():
                work.used, work.progress = event.units, (event.fraction, event.message)
            case base.Ended():
                self._on_ended(work, event)
            case base.Failed() if work.cancelled == frames.MOVED:
                self._drop(work)
            case base.Failed():
                work.prompt_tokens = event.units.prompt_tokens or work.prompt_tokens
                work.completion_tokens = event.units.completion_tokens
                self._fail(
                    work,
                    event.code,
                    event.message,
                    param=event.param,
                    retryable=event.retryable,
                    retry_after=event.retry_after,
                    charged=False,
                )

    def _on_started(self, work: Work, event: base.Started) -> None:
        work.started = time.monotonic()
        work.started_at = timezone.now()
        work.prompt_tokens = event.prompt_tokens
        if work.reply is not None and work.streams:
            queue_ms = round((work.started - work.arrived) * 1000)
            self.link.put(
                work.reply,
                [frames.START, work.job_id, work.attempt, event.prompt_tokens, queue_ms],
            )

    def _on_delta(self, work: Work, event: base.Delta) -> None:
        if work.first_output_at is None:
            work.first_output_at = timezone.now()
        work.completion_tokens = event.completion_tokens
        if (frame := work.say(event)) is not None:
            assert work.reply is not None  # noqa: S101 - it is streamed
            self.link.put(work.reply, frame)

    def _on_ended(self, work: Work, event: base.Ended) -> None:
        work.prompt_tokens = event.units.prompt_tokens
        work.completion_tokens = event.units.completion_tokens
        units = {key: value for key, value in asdict(event.units).items() if value}
        if work.cancelled == frames.MOVED:
            self._drop(work)
            return
        if work.cancelled in OUR_FAULT:
            self._end(work, self._outcome(work, JobStatus.FAILED, units, fault=work.cancelled))
            return
        if event.reason == "cancelled":
            self._end(work, self._outcome(work, JobStatus.CANCELLED, units))
            return
        outcome = self._outcome(work, JobStatus.COMPLETED, units)
        if event.media and work.stores_files:
            self._stop(work)
            outcome.end_reason = event.reason
            self.deliveries.store(work, event.media, outcome)
            return
        if event.media:
            self.deliveries.hold(work, event.media[0])
        elif work.is_claimed:
            outcome.result = work.result(event)
        elif event.result is not None:
            work.value = event.result
            if parcels.must_be_sent(event.result):
                self._stop(work)
                self._send_parcel(work, outcome, event)
                return
        self._end(work, outcome, reason=event.reason)

    def _send_parcel(self, work: Work, outcome: Outcome, event: base.Ended) -> None:
        """What is too large for a frame goes ahead, the end follows it."""
        sending = asyncio.ensure_future(parcels.send(event.result))
        self.parcels.add(sending)

        def sent(done: asyncio.Future[dict[str, Any]]) -> None:
            self.parcels.discard(done)
            if done.cancelled():
                return
            if done.exception() is not None:
                logger.warning("a result could not be sent: %s", type(done.exception()).__name__)
                outcome_lost = self._outcome(work, JobStatus.FAILED, {}, fault=frames.LOST)
                self.committer.put(outcome_lost)
                return
            work.value = done.result()
            outcome.end_reason = event.reason
            self.committer.put(outcome)

        sending.add_done_callback(sent)

    def _fail(
        self,
        work: Work,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retryable: bool = False,
        retry_after: int | None = None,
        charged: bool = True,
    ) -> None:
        error = {"code": code, "message": message, "param": param}
        outcome = self._outcome(work, JobStatus.FAILED, work.units(), error=error, charged=charged)
        outcome.retry_after = retry_after
        self._end(work, outcome, retry=retryable and work.is_claimed)

    def _send_away(self, work: Work) -> None:
        """Have an interactive request that was not begun run elsewhere; nothing is recorded."""
        self._stop(work)
        self._say_last(work, [frames.AWAY, work.job_id, work.attempt])

    def _drop(self, work: Work) -> None:
        """Somebody else ends it; should it come back, it is run."""
        self._stop(work)
        self.work.pop(work.job_id, None)

    def _say_last(self, work: Work, final: Frame) -> None:
        assert work.reply is not None  # noqa: S101 - it is interactive
        work.is_ended = True
        self._forget(work)
        self.memory.keep(final)
        self.link.put(work.reply, final)

    def _outcome(
        self,
        work: Work,
        status: JobStatus,
        units: dict[str, int],
        *,
        error: dict[str, Any] | None = None,
        charged: bool = True,
        fault: str | None = None,
    ) -> Outcome:
        if fault is not None:
            code, message = OUR_FAULT[fault]
            error, charged = {"code": code, "message": message, "param": None}, False
        return work.outcome(
            status,
            units,
            error=error,
            charged=charged,
            queue_id=self.spec.queue_id,
            runner_id=self.row.pk,
            prices=self.keeper.prices,
        )

    def _end(self, work: Work, outcome: Outcome, *, reason: str = "", retry: bool = False) -> None:
        """The engine is done with it; the answer waits until its end is written."""
        self._stop(work)
        outcome.end_reason = reason
        self.committer.put(outcome, retry=retry)

    def _stop(self, work: Work) -> None:
        """It takes no slot any more."""
        work.is_ended = True
        if work.submitted is not None:
            self.running -= 1
        self.claims.one_stopped(work)

    def _on_written(self, written: list[tuple[Outcome, str]]) -> None:
        for outcome, state in written:
            work = self.work.get(outcome.job_id)
            if work is None or not work.is_ended:
                continue  # claimed once more meanwhile
            if outcome.attempt is not None and outcome.attempt != work.attempt:
                continue
            if work.reply is None or (final := work.last_frame(outcome, state)) is None:
                self._forget(work)
            elif not self.deliveries.on_written(work, outcome, state):
                self._say_last(work, final)
        self.admit()

    def _forget(self, work: Work) -> None:
        if work.delivery is not None:
            work.delivery.close()
        self.work.pop(work.job_id, None)
        self.memory.add(work.job_id)

    # -- cancelling ---------------------------------------------------------------------------

    def cancel(self, work: Work, reason: str) -> None:
        """Stop it, for one of the reasons in `frames`."""
        if work.is_ended and self.deliveries.abandon(work):
            self._forget(work)
        if work.is_ended or work.cancelled is not None:
            return
        work.cancelled = reason
        work.cancelled_at = time.monotonic()
        if work.submitted is not None:
            self.runner.cancel(work.job_id)
            return
        with contextlib.suppress(ValueError):  # just taken out to be begun
            self.waiting.remove(work)
        if reason == frames.MOVED:
            self._drop(work)
        elif reason == frames.LEFT:
            self._end(work, self._outcome(work, JobStatus.CANCELLED, {}))
        else:
            self._end(work, self._outcome(work, JobStatus.FAILED, {}, fault=reason))

    # -- watching -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        last_beat, last_tick, judge_after = 0.0, time.monotonic(), 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            if now - last_tick > BEAT_SECONDS:
                judge_after = now + BEAT_SECONDS  # it was we who were away: hear the others first
            last_tick = now
            if now - last_beat >= BEAT_SECONDS:
                last_beat = now
                self._beat()
            self._watch_work(now, may_judge=now >= judge_after)
            self._watch_orders(now)

    def _beat(self) -> None:
        working: dict[str, dict[str, list[int]]] = {}
        for work in self.work.values():
            if work.reply is not None:
                working.setdefault(work.reply, {})[work.job_id] = [work.attempt, work.offset]
        for channel, works in working.items():
            self.link.put(channel, [frames.BEAT, works])

    def _watch_work(self, now: float, *, may_judge: bool) -> None:
        for work in list(self.work.values()):
            if not work.is_open:
                continue
            if (
                may_judge
                and work.reply is not None
                and self.link.silent_for(work.reply, work.arrived) > SILENCE_SECONDS
            ):
                self.cancel(work, frames.LOST)
            if work.is_ended:
                continue
            if work.submitted is not None and now - work.submitted > start_to_close(work.task):
                self.cancel(work, frames.TIMEOUT)
            if (
                work.cancelled_at is not None
                and work.submitted is not None
                and now - work.cancelled_at > cancel_grace(work.task)
            ):
                self.keeper.abort("the engine hangs")

    def _watch_orders(self, now: float) -> None:
        for job_id, attempt in self.keeper.take_lost():
            work = self.work.get(job_id)
            if work is not None and work.attempt == attempt:
                self.cancel(work, frames.MOVED)
        if self.keeper.should_stop and not self.is_draining:
            self.is_draining = True
            self.drain_until = now + max(0.0, settings.DRAIN_SECONDS - 3)
            for work in [work for work in self.waiting if not work.is_claimed]:
                self._send_away(work)
            self.waiting = deque(work for work in self.waiting if work.is_claimed)
        if self.is_draining and (not self.work or now > self.drain_until):
            self._leave()

    def _leave(self) -> None:
        """What is claimed goes back with the lease; callers who have seen nothing go elsewhere."""
        for work in list(self.work.values()):
            if work.is_ended or work.is_claimed:
                continue
            if work.submitted is not None:
                self.runner.cancel(work.job_id)
            if work.offset:
                message = "The model is restarting"
                self._fail(work, "model_unavailable", message, charged=False)
            else:
                self._send_away(work)
        self.stopped.set()
