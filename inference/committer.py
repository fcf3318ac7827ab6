"""Group commit: whatever ended while the last transaction ran is written in the next one."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, close_old_connections, connection

from casola_site.core.clock import now
from jobs.enums import Lane
from jobs.services import Outcome, finish_jobs, retry_job

logger = logging.getLogger(__name__)

MAX_GROUP = 200
PATIENCE_SECONDS = 3.0

# Called with (outcome, state): "accepted", "refused" (somebody was faster) or "unknown" (no database).
OnWritten = Callable[[list[tuple[Outcome, str]]], None]


class Committer:
    """One thread with one connection. The final frame of an answer waits for `on_written`."""

    def __init__(self, on_written: OnWritten) -> None:
        self.on_written = on_written
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
        open_ = True
        while open_:
            group = [self._queue.get()]
            while len(group) < MAX_GROUP:
                try:
                    group.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            open_ = None not in group
            items = [item for item in group if item is not None]
            if items:
                self.on_written(self._write(items))
        connection.close()

    def _write(self, items: list[tuple[Outcome, bool]]) -> list[tuple[Outcome, str]]:
        ends = [outcome for outcome, retry in items if not retry]
        again = [outcome for outcome, retry in items if retry]
        written = self._try(ends)
        for outcome in again:
            written += self._try_again(outcome)
        return written

    def _try(self, outcomes: list[Outcome]) -> list[tuple[Outcome, str]]:
        """Write them; interactive answers give up after a few seconds, persisted ones go on."""
        if not outcomes:
            return []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                close_old_connections()
                accepted = finish_jobs(outcomes)
                return [(o, "accepted" if o.job_id in accepted else "refused") for o in outcomes]
            except DatabaseError as error:
                logger.warning("cannot write %d end(s): %s", len(outcomes), type(error).__name__)
                connection.close()
            if time.monotonic() > deadline:
                # A persisted Job stays `processing`; its lease brings it back if we cannot.
                for outcome in outcomes:
                    if outcome.lane is Lane.PERSISTED:
                        self._queue.put((outcome, False))
                return [(o, "unknown") for o in outcomes if o.lane is Lane.INTERACTIVE]
            time.sleep(0.2)

    def _try_again(self, outcome: Outcome) -> list[tuple[Outcome, str]]:
        try:
            close_old_connections()
            held = retry_job(outcome=outcome, now=now())
        except DatabaseError as error:
            logger.warning("cannot put a job back: %s", type(error).__name__)
            connection.close()
            return [(outcome, "refused")]
        return [(outcome, "accepted" if held else "refused")]
