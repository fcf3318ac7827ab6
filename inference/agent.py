"""The agent: what a qnode's main process does twice a second. Knows nothing of django-q.

It tells the database that the node lives, fences Runners whose process is gone, kills processes whose
Runner is fenced, asks the cluster for the Runners that placements want (one loading at a time, with
backoff), and notices when the cluster no longer takes tasks. All decisions about time use this
process's monotonic clock; leases use the database's.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import Max, Q
from django.db.models.functions import Now

from casola_site.core import processes, queue
from casola_site.core.clock import now
from inference import hosting
from inference.devices import DeviceMemory
from inference.enums import PlacementState
from inference.models import Placement
from inference.placement import Candidate, backoff_seconds, next_to_load
from jobs import deadlines, housekeeping, leases
from jobs.enums import HOLDS_LEASE, RunnerState
from jobs.models import Runner

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0  # the node's sign of life
SWEEP_SECONDS = 5.0
TASK_BEAT_SECONDS = 30.0
CRASH_SECONDS = 0.5  # a Runner that had served comes back after this, however often it crashes
STEADY_SECONDS = 60.0  # a Runner that served this long has not failed to start
AWAY_SECONDS = 10.0  # looking whether an upstream is back costs little
ENDED_SECONDS = 10.0  # a Runner that ended its lease has this long to end its process
LEAVING_SECONDS = 120.0  # a Runner told to stop has this long to finish its work


@dataclass(slots=True)
class Start:
    """One attempt to have a Runner for a placement."""

    after: int  # Runner rows newer than this belong to the attempt
    taken_at: float | None = None
    runner: int | None = None
    live_at: float | None = None


@dataclass(slots=True)
class Memory:
    """What the agent remembers between cycles, by placement, Runner or task."""

    starts: dict[str, Start] = field(default_factory=dict)
    retry_at: dict[str, float] = field(default_factory=dict)
    leaving: dict[int, float] = field(default_factory=dict)
    watched: dict[int, float | None] = field(default_factory=dict)
    tasks: dict[int, float] = field(default_factory=dict)
    free_since: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)


class Agent:
    """One per qnode. `node` is None for a cluster of ordinary background functions."""

    def __init__(
        self,
        *,
        cluster: str,
        node: str | None,
        slots: int,
        busy: Callable[[], int],
        devices: Iterable[DeviceMemory] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cluster = cluster
        self.node = node
        self.slots = slots
        self._busy = busy
        self._devices = [{"name": d.name, "memory_bytes": d.memory_bytes} for d in devices]
        self._clock = clock
        self._memory = Memory()
        self._next: dict[str, float] = {}
        self._begun = False
        self._now: datetime | None = None  # the database's, at the latest sign of life

    # --- edges --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Forget what an earlier start of this node left in the queue and in the tables."""
        if self.node is None:
            queue.drop_tasks(self.cluster, queue.BEAT_PREFIX)
        else:
            queue.drop_tasks(self.cluster)
            self._check_runners()
        self._begun = True

    def cycle(self) -> str | None:
        """Look once; returns why the cluster has to be started afresh, or None."""
        if not self._begun:
            self.begin()
        if self._is_time("sweep", SWEEP_SECONDS):
            leases.sweep()
        if self._is_time("deadlines", deadlines.EVERY_SECONDS):
            deadlines.fail_overdue(now=now())
        if self._is_time("housekeeping", housekeeping.EVERY_SECONDS):
            housekeeping.keep()
        if self.node is None:
            prefix = queue.BEAT_PREFIX
            tasks = queue.waiting(self.cluster, prefix)
            if not tasks and self._is_time("beat", TASK_BEAT_SECONDS):
                queue.send_beat(self.cluster)
        else:
            tasks = self._host(self.node)
        return self._wedged(tasks)

    def pause(self) -> None:
        """A cycle failed (the database is away): what waited meanwhile proves nothing."""
        self._memory.tasks.clear()
        self._memory.free_since = None
        # Runners could not renew their leases either: give them time before looking for expired ones.
        self._next["sweep"] = self._clock() + settings.LEASE_SECONDS

    def end(self, *, crashed: bool, detail: str) -> None:
        """Give back what the Runners of this node held; their processes are gone."""
        if self.node is None:
            return
        rows = hosting.lease_holders().filter(node=self.node)
        for pk in rows.values_list("pk", flat=True):
            leases.fence_runner(runner_id=pk, crashed=crashed, detail=detail)
        queue.drop_tasks(self.cluster)

    # --- hosting ------------------------------------------------------------------------------

    def _host(self, node: str) -> list[queue.WaitingTask]:
        if self._is_time("alive", BEAT_SECONDS) or self._now is None:
            self._now = hosting.beat(
                node=node, pid=os.getpid(), slots=self.slots, devices=self._devices
            )
        runners = self._check_runners()
        self._reconcile(node, self._now)
        tasks = queue.waiting(self.cluster, queue.RUNNER_PREFIX)
        left = self._serve_placements(node, runners, tasks)
        self._record(runners, self._now)
        return left

    def _reconcile(self, node: str, now: datetime) -> None:
        reasons = hosting.reconcile(node=node, now=now)
        for spec_id, reason in reasons.items():
            if self._memory.reasons.get(spec_id) != reason:
                logger.info("%s is not placed: %s", spec_id, reason)
        self._memory.reasons = reasons

    def _check_runners(self) -> list[Runner]:
        """Fence what died, kill what is fenced; returns the Runners that hold a lease and live."""
        watched = self._memory.watched
        rows = Runner.objects.filter(node=self.node).filter(
            Q(state__in=HOLDS_LEASE) | Q(pk__in=list(watched))
        )
        alive = []
        for row in rows.order_by("pk"):
            running = processes.is_running(row.pid, row.pid_start)
            if row.state in HOLDS_LEASE and running:
                watched[row.pk] = None
                alive.append(row)
            elif row.state in HOLDS_LEASE:
                logger.warning("%s (%s) died", row.public_id, row.model_id)
                leases.fence_runner(runner_id=row.pk, crashed=True, detail="its process is gone")
                watched.pop(row.pk, None)
            elif running:
                self._see_ended(row)
            else:
                watched.pop(row.pk, None)
        return alive

    def _see_ended(self, row: Runner) -> None:
        """A process outlives its lease: at once too long when fenced, soon when it ended itself."""
        since = self._memory.watched.get(row.pk)
        if since is None:
            self._memory.watched[row.pk] = since = self._clock()
        if row.state == RunnerState.DEAD or self._clock() - since > ENDED_SECONDS:
            logger.warning("kill process %d of %s (%s)", row.pid, row.public_id, row.state)
            processes.kill_process(row.pid, row.pid_start)

    def _serve_placements(
        self, node: str, runners: list[Runner], tasks: list[queue.WaitingTask]
    ) -> list[queue.WaitingTask]:
        """Start, follow and finish the Runners of this node's placements; returns the tasks left."""
        active = list(Placement.objects.filter(node=node).exclude(state=PlacementState.STOPPED))
        by_placement = {runner.placement_id: runner for runner in runners}
        by_name = {task.name.removeprefix(queue.RUNNER_PREFIX): task for task in tasks}
        candidates = []
        for row in active:
            runner, task = by_placement.get(row.public_id), by_name.get(row.public_id)
            if row.state == PlacementState.STOPPING:
                self._see_leaving(row, runner, task)
            else:
                candidates.append(self._follow(row, runner, task))
        self._see_orphans(runners, {row.public_id for row in active})
        chosen = next_to_load(candidates)
        if chosen and self._free_slot(runners, tasks):
            self._start(chosen, node)
        self._forget({row.public_id for row in active})
        return [
            t for t in tasks if by_placement.get(t.name.removeprefix(queue.RUNNER_PREFIX)) is None
        ]

    def _follow(
        self, row: Placement, runner: Runner | None, task: queue.WaitingTask | None
    ) -> Candidate:
        """Where a wanted placement is on its way to a Runner."""
        start = self._memory.starts.get(row.public_id)
        loading = due = False
        if runner is not None:
            self._see_runner(row, runner, start)
            loading = runner.state == RunnerState.LOADING
            if task is not None:  # taken, but its acknowledgement was lost
                queue.drop([task.id])
        elif task is not None or (start is not None and self._just_taken(row, start)):
            loading = True
        else:
            if start is not None:
                self._see_failure(row, start)
            due = self._clock() >= self._memory.retry_at.get(row.public_id, 0.0)
        return Candidate(
            id=row.public_id,
            loading=loading,
            due=due,
            failures=row.failures,
            wanted_since=row.created_at.timestamp(),
        )

    def _see_runner(self, row: Placement, runner: Runner, start: Start | None) -> None:
        if start is None:
            start = self._memory.starts[row.public_id] = Start(after=runner.pk - 1)
        start.runner = runner.pk
        if runner.state != RunnerState.LOADING and start.live_at is None:
            start.live_at = self._clock()
        if (
            row.failures
            and start.live_at is not None
            and self._clock() - start.live_at > STEADY_SECONDS
        ):
            hosting.forgive_failures(placement_id=row.public_id)

    def _just_taken(self, row: Placement, start: Start) -> bool:
        """Its task was taken a moment ago and its Runner may register any time, or has just done so."""
        latest = self._latest_runner(row, start)
        if latest is not None:
            return latest.state in HOLDS_LEASE  # since this cycle read the Runners
        if start.runner is not None:
            return False
        if start.taken_at is None:
            start.taken_at = self._clock()
        return self._clock() - start.taken_at < settings.RUNNER_START_SECONDS

    def _latest_runner(self, row: Placement, start: Start) -> Runner | None:
        """The Runner of this attempt, however short its life was."""
        mine = Runner.objects.filter(placement_id=row.public_id, pk__gt=start.after)
        return mine.order_by("-pk").first()

    def _see_failure(self, row: Placement, start: Start) -> None:
        """The Runner ended, or never came, although it is wanted."""
        del self._memory.starts[row.public_id]
        last = self._latest_runner(row, start)
        detail = last.detail if last else "the runner did not start"
        if last is not None and last.live_at is not None:
            # What it worked on killed it; that is counted against those Jobs.
            self._memory.retry_at[row.public_id] = self._clock() + CRASH_SECONDS
            logger.warning("%s lost its runner (%s)", row.public_id, detail)
            return
        hosting.count_failure(placement_id=row.public_id, detail=detail)
        row.failures += 1
        delay = backoff_seconds(row.failures)
        if row.spec.engine == hosting.UPSTREAM:
            delay = min(delay, AWAY_SECONDS)
        self._memory.retry_at[row.public_id] = self._clock() + delay
        logger.warning("%s lost its runner (%s); again in %g s", row.public_id, detail, delay)

    def _see_leaving(
        self, row: Placement, runner: Runner | None, task: queue.WaitingTask | None
    ) -> None:
        """Finish a stopping placement once nothing of it is left."""
        if task is not None:
            queue.drop([task.id])
        if runner is not None:
            self._hurry(runner)
            return
        start = self._memory.starts.get(row.public_id)
        if start is not None and task is None and self._just_taken(row, start):
            return
        if not self._process_left(row.public_id):
            hosting.finish_placement(placement_id=row.public_id)

    def _process_left(self, placement_id: str) -> bool:
        """Whether a process of its latest Runners lives on, also one that ended between cycles."""
        latest = Runner.objects.filter(placement_id=placement_id).order_by("-pk")[:5]
        left = [row.pk for row in latest if processes.is_running(row.pid, row.pid_start)]
        for pk in left:
            self._memory.watched.setdefault(pk, None)
        return bool(left)

    def _see_orphans(self, runners: list[Runner], active: set[str]) -> None:
        """Runners whose placement is gone are to leave like those told to."""
        for runner in runners:
            if runner.placement_id not in active:
                self._hurry(runner)

    def _hurry(self, runner: Runner) -> None:
        """It has been told to leave; after a while it is ended, its Jobs go back unharmed."""
        since = self._memory.leaving.setdefault(runner.pk, self._clock())
        if self._clock() - since > LEAVING_SECONDS:
            logger.warning("%s did not leave in time", runner.public_id)
            leases.fence_runner(runner_id=runner.pk, crashed=False, detail="did not leave in time")
            processes.kill_process(runner.pid, runner.pid_start)

    def _record(self, runners: list[Runner], now: datetime) -> None:
        hosting.record_progress(
            progress=[
                hosting.Progress(r.placement_id, r.memory_bytes, r.outstanding)
                for r in runners
                if r.state != RunnerState.LOADING and (r.memory_bytes or r.outstanding)
            ],
            now=now,
        )

    def _free_slot(self, runners: list[Runner], tasks: list[queue.WaitingTask]) -> bool:
        return max(self._busy(), len(runners)) + len(tasks) < self.slots

    def _start(self, placement_id: str, node: str) -> None:
        newest = Runner.objects.aggregate(newest=Max("pk"))["newest"] or 0
        with transaction.atomic():
            wanted = Placement.objects.filter(public_id=placement_id, state=PlacementState.WANTED)
            if wanted.update(enqueued_at=Now()):
                queue.host_runner(placement_id=placement_id, node=node)
        self._memory.starts[placement_id] = Start(after=newest)

    def _forget(self, active: set[str]) -> None:
        memory = self._memory
        memory.starts = {key: value for key, value in memory.starts.items() if key in active}
        memory.retry_at = {key: value for key, value in memory.retry_at.items() if key in active}
        memory.leaving = {
            key: value for key, value in memory.leaving.items() if key in memory.watched
        }

    # --- wedge --------------------------------------------------------------------------------

    def _wedged(self, tasks: list[queue.WaitingTask]) -> str | None:
        """A task that nobody takes although a worker is free: the cluster is broken inside."""
        memory, now = self._memory, self._clock()
        memory.tasks = {task.id: memory.tasks.get(task.id, now) for task in tasks}
        if self._busy() >= self.slots:
            memory.free_since = None
        elif memory.free_since is None:
            memory.free_since = now
        if not memory.tasks or memory.free_since is None:
            return None
        waited = now - max(min(memory.tasks.values()), memory.free_since)
        if waited <= settings.RUNNER_START_SECONDS:
            return None
        return f"a task was not taken for {waited:.0f} s although a worker is free"

    def _is_time(self, what: str, every: float) -> bool:
        now = self._clock()
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + every
        return True
