"""Processes are named by pid and start, and what belongs to a qnode is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest
from django_q.cluster import get_mp_context

from casola_site.core import processes
from inference import node_lock, stopping
from inference.management.commands.qnode import MendableQueue
from inference.worker_board import WorkerBoard
from tests.waiting import until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def child():
    process = subprocess.Popen(SLEEP, env={**os.environ, node_lock.MARKER: "mark"})
    yield process
    process.kill()
    process.wait()


def test_a_process_is_known_by_its_start(child):
    start = processes.started_at(child.pid)
    assert processes.is_running(child.pid, start)
    assert not processes.is_running(child.pid, start + 1)
    assert not processes.kill_process(child.pid, start + 1)
    assert processes.own_start() == processes.started_at(os.getpid())
    assert processes.kill_process(child.pid, start)
    until(lambda: not processes.is_running(child.pid, start), 5)  # a zombie counts as gone
    assert not processes.is_running(0)


def test_the_start_is_that_of_the_kernel(child):
    uptime = processes.started_at(child.pid)
    assert abs(psutil.boot_time() + uptime - psutil.Process(child.pid).create_time()) < 2


def test_descendants_are_found_by_their_marker(child, tmp_path):
    until(lambda: node_lock.belonging("mark", tmp_path / "x") == {child.pid}, 5)
    assert node_lock.belonging("other", tmp_path / "x") == set()
    assert node_lock.kill_belonging("mark", tmp_path / "x") == 0
    assert child.wait(5) == -signal.SIGKILL


def test_the_lock_refuses_while_the_holder_lives_and_ends_its_leftovers(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import os, sys, subprocess, time, pathlib; from inference import node_lock as p;"
        "lock = p.NodeLock(pathlib.Path(sys.argv[1])); lock.acquire(os.environ[p.MARKER]);"
        f"subprocess.Popen({SLEEP!r}, start_new_session=True); print('ready', flush=True); os.fork(); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, node_lock.MARKER: "first"},
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"ready\n"
    until(lambda: len(node_lock.belonging("first", path)) == 3, 5)
    with pytest.raises(node_lock.AlreadyRunningError, match=str(holder.pid)):
        node_lock.NodeLock(path).acquire("second")
    assert holder.poll() is None
    holder.kill()
    holder.wait()
    assert node_lock.NodeLock(path).acquire("second") == 2
    assert node_lock.belonging("first", path) == set()


def test_the_flag_is_shared_with_forked_processes():
    flag = stopping.Flag()
    assert not flag.wait(0.01)
    if os.fork() == 0:
        flag.set()
        os._exit(0)
    os.wait()
    assert flag.is_set()
    assert flag.wait(10)


def test_no_stop_is_requested_outside_a_qnode(monkeypatch):
    monkeypatch.setattr(stopping, "_node", [])
    assert not stopping.stop_requested()
    stopping.request_stop()
    assert stopping.stop_requested()


def test_the_board_counts_living_busy_workers(child):
    board = WorkerBoard(3)
    board.write(0, pid=child.pid, busy=True)
    board.write(1, pid=os.getpid(), busy=False)
    board.write(2, pid=2**22 + 1, busy=True)
    assert board.busy() == 1
    board.write(0, pid=child.pid, busy=False)
    assert board.busy() == 0


def test_a_lock_is_freed_whose_holder_died_before_it_said_so():
    queue = MendableQueue()
    reader = get_mp_context().Process(target=queue._rlock.acquire)
    reader.start()
    reader.join()
    queue.put("kept")
    assert queue.mend(reader.pid)
    assert queue.get() == "kept"
    assert not queue.mend(reader.pid)  # nobody holds it now
    queue.put("next")
    assert queue.get() == "next"
