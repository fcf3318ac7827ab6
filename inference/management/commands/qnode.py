"""`manage.py qnode <cluster>`: a django-q cluster that can be killed in any way and be started again.

The main process is the agent (inference/agent.py). Below it: the sentinel, in a session of its own so
that a signal to the main process's group reaches the main process only, and its workers, pusher and
monitor. Each dies with its parent. What django-q does not survive by itself is mended here; the tests
in tests/hosting show each case.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import multiprocessing.queues
import os
import re
import signal
import struct
import sys
import time
import uuid
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections
from django_q.brokers import get_broker
from django_q.cluster import Sentinel, get_mp_context
from django_q.conf import Conf
from django_q.signals import post_execute_in_worker, pre_execute
from django_q.worker import worker

from casola_site.core import queue
from casola_site.core.processes import die_with_parent
from inference import node_lock, stopping
from inference.agent import Agent
from inference.devices import find_devices
from inference.worker_board import WorkerBoard

CYCLE_SECONDS = 0.5
LOOK_SECONDS = 0.1
TIMER_SECONDS = 0.5
LOOKS = 5  # at a lock that is held although no reader says so
FLUSH_SECONDS = 3.0  # results on their way to the database when the last worker has ended
CLUSTER = re.compile(r"default|gpu-[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
PID = struct.Struct("=I")
RESTART = 3  # exit code: start me again

logger = logging.getLogger(__name__)


class MendableQueue(multiprocessing.queues.Queue):
    """A queue whose read lock can be taken back from a reader that was killed while it waited.

    django-q's own workers wait for tasks while holding that lock: killing an idle one leaves the
    others waiting for ever. It also counts its items without a lock.
    """

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize, ctx=get_mp_context())
        self._reader_pid = mmap.mmap(-1, PID.size)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next item. Both arguments are there for the signature only."""
        with self._rlock:
            PID.pack_into(self._reader_pid, 0, os.getpid())
            try:
                packed = self._recv_bytes()
            finally:
                PID.pack_into(self._reader_pid, 0, 0)
        self._sem.release()
        return ForkingPickler.loads(packed)

    def mend(self, dead: int) -> bool:
        """Free the read lock if this dead process held it."""
        if not dead:
            return False
        if PID.unpack_from(self._reader_pid, 0)[0] != dead and not self._is_held_by_nobody():
            return False
        PID.pack_into(self._reader_pid, 0, 0)
        self._rlock.release()
        return True

    def _is_held_by_nobody(self) -> bool:
        """A reader that was killed just before it said that it had the lock, or just after."""
        for _ in range(LOOKS):
            if PID.unpack_from(self._reader_pid, 0)[0]:
                return False
            if self._rlock.acquire(block=False):
                self._rlock.release()
                return False
            time.sleep(LOOK_SECONDS / LOOKS)
        return True


class Timer:
    """A worker's countdown, shared with the guard. The stock one is read under a lock that a killed
    worker may hold, and the guard would wait for it for ever."""

    def __init__(self) -> None:
        self._cell = get_mp_context().RawValue("f", -1)
        self._lock = get_mp_context().Lock()

    @property
    def value(self) -> float:
        """Seconds left; -1 idle, -2 recycled, 0 too late."""
        return self._cell.value

    @value.setter
    def value(self, seconds: float) -> None:
        self._cell.value = seconds

    @contextlib.contextmanager
    def get_lock(self) -> Iterator[None]:
        """The lock, or none when its holder does not give it back soon."""
        held = self._lock.acquire(timeout=TIMER_SECONDS)
        try:
            yield
        finally:
            if held:
                self._lock.release()


class HostedSentinel(Sentinel):
    """django-q's sentinel: its children die with it, a killed idle worker does no harm, and it
    stops although some workers have ended for good."""

    def __init__(self, stop: stopping.Flag, started: stopping.Flag, board: WorkerBoard) -> None:
        super().__init__(stop, started, uuid.uuid4(), start=False)
        self.event_out = stopping.Flag()
        self.task_queue = MendableQueue(Conf.QUEUE_LIMIT)
        self.result_queue = MendableQueue()
        self._board = board
        self.start()

    def spawn_worker(self) -> None:
        """Start a worker with a countdown of ours."""
        self.spawn_process(worker, self.task_queue, self.result_queue, Timer(), self.timeout)

    def spawn_process(self, target: Callable[..., None], *args: Any) -> BaseProcess:
        """Start a worker (known to the board), the pusher or the monitor."""
        taken = {process.cell for process in self.pool}
        cell = next(i for i in range(self._board.size + 1) if i not in taken)
        child = get_mp_context().Process(
            target=_child,
            args=(os.getpid(), self._board, cell, target, args),
            name=f"Process-{uuid.uuid4().hex}",
        )
        child.daemon = True
        if target is worker:
            child.daemon = Conf.DAEMONIZE_WORKERS
            child.timer, child.cell = args[2], cell
            self.pool.append(child)
        child.start()
        return child

    def reincarnate(self, process: BaseProcess) -> None:
        """Replace a dead child, first taking back a lock it may have held."""
        for shared in (self.task_queue, self.result_queue):
            if shared.mend(process.pid):
                logger.warning("took back the queue's lock from the killed process %d", process.pid)
        super().reincarnate(process)

    def stop(self) -> None:
        """Let every worker finish what it does, then the monitor what they did."""
        self.event_out.set()
        self._end_pusher()
        while self.pool:
            for process in list(self.pool):
                if not process.is_alive():
                    self.task_queue.mend(process.pid)
                    self.pool.remove(process)
            # Workers that end by themselves take no pill, so never queue more than is taken.
            with contextlib.suppress(multiprocessing.queues.Full):
                self.task_queue.put("STOP", block=False)
            time.sleep(stopping.POLL_SECONDS)
        self.result_queue.put("STOP")
        self.monitor.join(FLUSH_SECONDS)
        for process in (self.monitor, self.pusher):
            process.kill()
        os._exit(0)  # nothing to join: a queue whose reader is gone would be waited for

    def _end_pusher(self) -> None:
        """It may wait for a free worker while all are busy for good."""
        self.pusher.join(1.0)
        if self.pusher.is_alive():
            self.pusher.kill()


def _sentinel(main: int, stop: stopping.Flag, started: stopping.Flag, board: WorkerBoard) -> None:
    os.setsid()
    die_with_parent(main)
    HostedSentinel(stop, started, board)


def _child(
    sentinel: int, board: WorkerBoard, cell: int, target: Callable[..., None], args: tuple[Any, ...]
) -> None:
    die_with_parent(sentinel)
    if target is worker:
        board.write(cell, pid=os.getpid(), busy=False)
        _report_to(board, cell)
    target(*args)


def _report_to(board: WorkerBoard, cell: int) -> None:
    """In a worker: tell the board about each task, and take it from the queue when it is done.

    django-q hands an unacknowledged task out again after `retry` seconds, even while it runs, so a
    Runner's is acknowledged before it begins; and it leaves that to the monitor, so that a function
    would run twice if the monitor, or the cluster, were killed with its result on the way.
    """

    def begin(task: dict[str, Any], **_: Any) -> None:
        board.write(cell, pid=os.getpid(), busy=True)
        if str(task["name"]).startswith(queue.RUNNER_PREFIX):
            acknowledge(task)  # if it cannot, the agent drops the task once it sees the Runner

    def end(task: dict[str, Any], **_: Any) -> None:
        if task.get("success") or task.get("ack_failure"):
            acknowledge(task)  # if it cannot, the monitor does it
        board.write(cell, pid=os.getpid(), busy=False)

    def acknowledge(task: dict[str, Any]) -> None:
        try:
            get_broker().acknowledge(task["ack_id"])
        except Exception:
            logger.exception("could not acknowledge %s", task["name"])

    pre_execute.connect(begin, weak=False, dispatch_uid="qnode")
    post_execute_in_worker.connect(end, weak=False, dispatch_uid="qnode")


class Command(BaseCommand):
    """Host background functions (`default`) or Runners (`gpu-<node>`) until a signal comes."""

    help = "Run a queue node: `default`, or `gpu-<node>` for the runners of this host"
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the cluster's name."""
        parser.add_argument("cluster", help="default, or gpu-<node>")

    def handle(self, *args: Any, cluster: str, **options: Any) -> None:
        """Prepare the environment (by an exec), take the lock, then be the main process."""
        if not CLUSTER.fullmatch(cluster):
            raise CommandError(f"{cluster!r} is neither `default` nor `gpu-<node>`.")
        marker = node_lock.new_marker(cluster)
        if os.environ.get(node_lock.MARKER) != marker:
            _start_again(cluster, marker)
        lock = node_lock.NodeLock(Path(settings.VAR_DIR) / f"qnode-{cluster}.lock")
        try:
            ended = lock.acquire(marker)
        except node_lock.AlreadyRunningError as error:
            raise CommandError(f"qnode {cluster} cannot start: {error}.") from None
        if ended:
            logger.warning("ended %d process(es) that a killed qnode had left", ended)
        code = Main(cluster, marker, lock.path).run()
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)  # not through multiprocessing's exit, which waits for children


def _start_again(cluster: str, marker: str) -> None:
    """Exec this command with the environment that django-q and the number libraries read at import."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi numbers them
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["Q_CLUSTER_NAME"] = cluster
    os.environ[node_lock.MARKER] = marker
    connections.close_all()
    script = str(Path(settings.BASE_DIR) / "manage.py")
    os.execv(sys.executable, [sys.executable, script, "qnode", cluster])  # noqa: S606 - ourselves


class Main:
    """The main process of a qnode: forks the sentinel, then only loops and sleeps."""

    def __init__(self, cluster: str, marker: str, lock: Path) -> None:
        self.cluster = cluster
        self.marker = marker
        self.lock = lock
        self.stop = stopping.prepare()
        self.signalled = False
        self.board = WorkerBoard(Conf.WORKERS)
        node = cluster.removeprefix("gpu-") if cluster.startswith("gpu-") else None
        self.agent = Agent(
            cluster=cluster,
            node=node,
            slots=Conf.WORKERS,
            busy=self.board.busy,
            devices=find_devices(memory_mb=settings.RUNNER_MEMORY_MB) if node else (),
        )
        self.sentinel: BaseProcess | None = None

    def run(self) -> int:
        """Until a signal or a defect; returns the exit code. No process is left afterwards."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self._fork()
        try:
            code, crashed, detail = self._loop()
        finally:
            node_lock.kill_belonging(self.marker, self.lock)
        self._attempt(lambda: self.agent.end(crashed=crashed, detail=detail))
        return code

    def _on_signal(self, *_: Any) -> None:
        self.signalled = True
        self.stop.set()

    def _fork(self) -> None:
        """Start the cluster; no connection may be open, or parent and child would share it."""
        self._attempt(self.agent.begin)
        connections.close_all()
        self.sentinel = get_mp_context().Process(
            target=_sentinel,
            args=(os.getpid(), self.stop, stopping.Flag(), self.board),
            name="sentinel",
        )
        self.sentinel.start()
        logger.info("qnode %s serves with %d worker(s)", self.cluster, Conf.WORKERS)

    def _loop(self) -> tuple[int, bool, str]:
        """Exit code, whether the Runners crashed, and what to write on their rows."""
        next_cycle = 0.0
        while not self.stop.is_set():
            if not self.sentinel.is_alive():
                logger.error("the sentinel died: ending what is left")
                return RESTART, True, "the cluster died"
            if time.monotonic() >= next_cycle:
                next_cycle = time.monotonic() + CYCLE_SECONDS
                if defect := self._attempt(self.agent.cycle):
                    logger.error("the cluster is wedged (%s): starting afresh", defect)
                    self.stop.set()
            time.sleep(LOOK_SECONDS)
        self._drain()
        return (
            (0, False, "drained") if self.signalled else (RESTART, False, "the cluster was wedged")
        )

    def _attempt(self, action: Callable[[], Any]) -> Any:
        """Do it; a database that is away, or any other trouble, must not end the main process."""
        try:
            return action()
        except Exception as error:
            # Known trouble needs no traceback twice a second.
            known = isinstance(error, DatabaseError)
            logger.error(  # noqa: TRY400
                "the agent could not do its work (%s); trying again",
                type(error).__name__,
                exc_info=None if known else error,
            )
            self.agent.pause()
            with contextlib.suppress(Exception):
                connections.close_all()
            return None

    def _drain(self) -> None:
        """Wait until the Runners have returned, but no longer than allowed."""
        logger.info(
            "qnode %s stops: up to %d s for its tasks", self.cluster, settings.DRAIN_SECONDS
        )
        deadline = time.monotonic() + settings.DRAIN_SECONDS
        idle_until = None
        while self.sentinel.is_alive() and time.monotonic() < deadline:
            if self.board.busy():
                idle_until = None
            elif idle_until is None:
                idle_until = time.monotonic() + FLUSH_SECONDS
            elif time.monotonic() > idle_until:
                return  # nothing to wait for, but a sentinel that does not end
            time.sleep(LOOK_SECONDS)
