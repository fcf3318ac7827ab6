"""Keeps a Runner's lease: one thread, one connection, no model call can block it."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import close_old_connections, connection
from django.db.models.functions import Now

from casola_site.core.clock import now
from inference import stopping
from inference.enums import PlacementState
from inference.models import Placement
from jobs.enums import JobStatus, RunnerState
from jobs.leases import LeaseLost, heartbeat
from jobs.models import Job, Runner
from jobs.services import checkpoint_units
from usage.pricing import Snapshot
from usage.services import price_snapshot

if TYPE_CHECKING:
    from inference.execution import RunnerHost
    from inference.work import Work

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
CHECK_SECONDS = 1.0
PRICE_SECONDS = 30.0
EXIT_FENCED = 75


class Keeper:
    """Renews the lease, keeps the units of running Jobs, and reads orders to stop."""

    def __init__(self, *, row: Runner, placement_id: str) -> None:
        self.row = row
        self.placement_id = placement_id
        self.host: RunnerHost | None = None
        self.should_stop = False
        self.left_because = ""
        self.is_live = False
        self.prices: Snapshot = {}
        self._news: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._lost: set[tuple[str, int]] = set()
        self._kept: dict[str, Any] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin to renew. Call right after the row was made."""
        self._thread.start()

    def progress(self, fraction: float, text: str) -> None:
        """Loading progress for the row (0-1)."""
        self._tell(progress=fraction, detail=text[:500])

    def report_memory(self, total: int) -> None:
        """What the loaded weights, cache and workspace really take, in bytes."""
        self._tell(memory_bytes=total)

    def go_live(self, *, channel: str, host: RunnerHost) -> None:
        """The Runner takes requests from now on; the next tick writes it."""
        with self._lock:  # a tick sees both or neither
            self._news.update(
                state=RunnerState.LIVE, channel=channel, live_at=Now(), progress=1.0, detail=""
            )
            self.host = host

    def take_lost(self) -> set[tuple[str, int]]:
        """(Job, attempt) that were found to be no longer ours."""
        with self._lock:
            lost, self._lost = self._lost, set()
        return lost

    def _tell(self, **news: Any) -> None:
        with self._lock:
            self._news.update(news)

    def leave(self, reason: str) -> None:
        """Drain and return: the Runner cannot work for now, and is started anew."""
        self.left_because = reason
        self.should_stop = True

    def abort(self, reason: str) -> None:
        """End this process at once: its Jobs come back through the lease."""
        logger.critical("runner %s ends: %s", self.row.public_id, reason)
        os._exit(EXIT_FENCED)

    def close(self) -> None:
        """Stop renewing."""
        self._closed.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        last_beat = last_check = last_prices = 0.0
        while not self._closed.wait(TICK_SECONDS):
            moment = time.monotonic()
            self.should_stop = self.should_stop or stopping.stop_requested()
            try:
                if moment - last_prices > PRICE_SECONDS:
                    self.prices = price_snapshot(model_id=self.row.model_id, now=now())
                    last_prices = moment
                if moment - last_check > CHECK_SECONDS:
                    last_check = moment
                    self._check()
                if self._news or moment - last_beat > min(
                    settings.HEARTBEAT_SECONDS, settings.LEASE_SECONDS / 3
                ):
                    self._write()
                    last_beat = moment
                close_old_connections()
            except Exception as error:  # noqa: BLE001 - the lease itself says when it is too late
                logger.warning("cannot renew the lease: %s", type(error).__name__)
                connection.close()
        connection.close()

    def _write(self) -> None:
        with self._lock:
            news, self._news = self._news, {}
            host = self.host
        outstanding = {} if host is None else {"outstanding": len(host.work)}
        try:
            heartbeat(runner_id=self.row.pk, **news, **outstanding)
            if host is not None and not self.is_live:
                self.is_live = True
                host.go()
        except LeaseLost:
            self.abort("its lease was lost")
        except Exception:
            with self._lock:
                self._news = {**news, **self._news}
            raise

    def _check(self) -> None:
        placement = Placement.objects.filter(public_id=self.placement_id)
        state = placement.values_list("state", flat=True).first()
        if state != PlacementState.WANTED:
            self.should_stop = True
        host = self.host
        if host is None:
            return
        if self.should_stop:
            self._tell(state=RunnerState.DRAINING)
        works = list(host.work.values())
        if works:
            placement.update(used_at=now())
        claimed = {work.job_id: work for work in works if work.is_claimed and not work.is_ended}
        self._checkpoint(claimed)

    def _checkpoint(self, claimed: dict[str, Work]) -> None:
        """Keep what running Jobs have produced, and find those that are no longer ours."""
        if not claimed:
            return
        held = Job.objects.filter(
            pk__in=list(claimed), runner_id=self.row.pk, status=JobStatus.PROCESSING
        )
        ours = {str(pk) for pk in held.values_list("pk", flat=True)}
        kept = {job_id: (claimed[job_id].units(), claimed[job_id].progress) for job_id in ours}
        changed = {job_id: news for job_id, news in kept.items() if self._kept.get(job_id) != news}
        if changed:
            checkpoint_units(
                runner_id=self.row.pk,
                units={job_id: units for job_id, (units, _) in changed.items()},
                progress={job_id: far for job_id, (_, far) in changed.items() if far is not None},
                now=now(),
            )
        self._kept = kept
        with self._lock:
            self._lost |= {(i, work.attempt) for i, work in claimed.items() if i not in ours}
