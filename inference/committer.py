"""Group commit: whatever ended while the last transaction ran is written in the next one."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from django.db import InterfaceError, OperationalError, close_old_connections, connection

from casola_site.core.clock import now
from jobs.enums import JobStatus, Lane
from jobs.models import Job
from jobs.services import Outcome, finish_jobs, retry_job

logger = logging.getLogger(__name__)

MAX_GROUP = 200
SMALL_GROUP = 8
LINGER_SECONDS = 0.004
PATIENCE_SECONDS = 3.0
PAUSE_SECONDS = 0.2
CHECK_SECONDS = 5.0
AWAY = (OperationalError, InterfaceError)

# (outcome, state): "accepted", "refused" (somebody was faster) or "unknown" (no database).
Written = list[tuple[Outcome, str]]


class Committer:
    """One thread with one connection. The final frame of an answer waits for `on_written`."""

    def __init__(
        self,
        on_written: Callable[[Written], None],
        on_broken: Callable[[str], None],
        *,
        has_company: Callable[[], bool] = lambda: False,
    ) -> None:
        """`has_company` says whether more may end any moment: then a small group waits a little."""
        self.on_written = on_written
        self.on_broken = on_broken
        self.has_company = has_company
        self._checked_at = 0.0
        self._queue: queue.SimpleQueue[tuple[Outcome, bool] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def put(self, outcome: Outcome, *, retry: bool = False) -> None:
        """Write this end; `retry` puts a persisted Job back instead, if it may be run again."""
        self._queue.put((outcome, retry))

    def close(self) -> None:
        """Write what is queued, then end the thread."""
        self._queue.put(None)
        self._thread.join(timeout=PATIENCE_SECONDS * 2)

    def _run(self) -> None:
        try:
            self._write_all()
        except Exception:
            logger.exception("ends can no longer be written")
            self.on_broken("internal error")
        connection.close()

    def _write_all(self) -> None:
        open_ = True
        # What could not be written yet stands in the queue once more, also after the last word.
        while open_ or not self._queue.empty():
            group = [self._queue.get()]
            self._gather(group)
            if len(group) < SMALL_GROUP and None not in group and self.has_company():
                time.sleep(LINGER_SECONDS)
                self._gather(group)
            open_ = open_ and None not in group
            items = [item for item in group if item is not None]
            if items:
                self.on_written(self._write(items))

    def _check_connection(self) -> None:
        """Asking the server each time would cost a round trip; a broken one shows at once anyway."""
        if time.monotonic() - self._checked_at > CHECK_SECONDS:
            close_old_connections()
            self._checked_at = time.monotonic()

    def _gather(self, group: list[tuple[Outcome, bool] | None]) -> None:
        with contextlib.suppress(queue.Empty):
            while len(group) < MAX_GROUP:
                group.append(self._queue.get_nowait())

    def _write(self, items: list[tuple[Outcome, bool]]) -> Written:
        ends = [outcome for outcome, retry in items if not retry]
        # In one order everywhere, or two transactions could wait for each other's rows.
        written = self._finish(sorted(ends, key=lambda outcome: outcome.job_id))
        for outcome, retry in items:
            if retry:
                written += self._put_back(outcome)
        return written

    def _finish(self, outcomes: list[Outcome]) -> Written:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while outcomes:
            try:
                self._check_connection()
                accepted = finish_jobs(outcomes)
                return [(o, _state(o, accepted)) for o in outcomes]
            except AWAY as error:
                logger.warning("cannot write %d end(s): %s", len(outcomes), type(error).__name__)
                connection.close()
            except Exception as error:  # noqa: BLE001 - one odd end must not hold up the others
                if len(outcomes) == 1:
                    return self._replace(outcomes[0], error)
                return [state for outcome in outcomes for state in self._finish([outcome])]
            if time.monotonic() > deadline:
                return self._give_up(outcomes)
            time.sleep(PAUSE_SECONDS)
        return []

    def _replace(self, outcome: Outcome, error: Exception) -> Written:
        """An end that the database will never take becomes a plain failure."""
        logger.error("the end of job %s cannot be written", outcome.job_id, exc_info=error)
        if outcome.status == JobStatus.FAILED and not outcome.charged:
            return [(outcome, "refused")]
        return self._finish([_failed(outcome, "worker_error", "The result could not be kept")])

    def _give_up(self, outcomes: list[Outcome]) -> Written:
        """Nobody waits for a persisted Job: it is tried again. An answer cannot be confirmed, so its
        caller is told so, and once the database is back it is written as our failure."""
        unknown = []
        for outcome in outcomes:
            if outcome.lane is Lane.PERSISTED:
                self._queue.put((outcome, False))
                continue
            unknown.append((outcome, "unknown"))
            if outcome.status == JobStatus.COMPLETED:
                message = "The service was temporarily unavailable"
                outcome = _failed(outcome, "model_unavailable", message)
            self._queue.put((outcome, False))
        return unknown

    def _put_back(self, outcome: Outcome) -> Written:
        try:
            self._check_connection()
            held = retry_job(outcome=outcome, now=now())
        except AWAY as error:
            logger.warning("cannot put a job back: %s", type(error).__name__)
            connection.close()
            time.sleep(PAUSE_SECONDS)
            self._queue.put((outcome, True))
            return []
        except Exception:
            logger.exception("job %s cannot be put back", outcome.job_id)
            return self._finish([outcome])
        return [(outcome, "accepted" if held else "refused")]


def _state(outcome: Outcome, accepted: set[str]) -> str:
    """`refused` also for an answer that an earlier attempt has completed: it may be given."""
    if outcome.job_id in accepted:
        return "accepted"
    if outcome.status != JobStatus.COMPLETED or outcome.lane is Lane.PERSISTED:
        return "refused"
    completed = Job.objects.filter(pk=outcome.job_id, status=JobStatus.COMPLETED)
    return "refused" if completed.exists() else "unknown"


def _failed(outcome: Outcome, code: str, message: str) -> Outcome:
    error = {"code": code, "message": message, "param": None}
    return replace(
        outcome, status=JobStatus.FAILED, result=None, error=error, charged=False, end_reason="",
        files=(),
    )  # fmt: skip
