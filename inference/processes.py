"""Processes of one host: who is alive, who belongs to a qnode, and how none is left behind.

Pure: no Django. A process is named by its pid and the moment it started, because pids are reused.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

PROC = Path("/proc")
MARKER = "CASOLA_QNODE"  # in the environment of everything a qnode starts
PR_SET_PDEATHSIG = 1
SAME_START = 0.005  # seconds; the kernel counts in hundredths
KILL_SECONDS = 5.0


class AlreadyRunningError(Exception):
    """Another qnode of this name lives; the text says which."""


def started_at(pid: int) -> float | None:
    """When the process started, in seconds since boot (no clock can move it); None if it is gone.

    A zombie counts as gone.
    """
    if not PROC.joinpath("self").exists():
        return _started_at_portable(pid)
    try:
        fields = PROC.joinpath(str(pid), "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _started_at_portable(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def own_start() -> float:
    """The start of this process: what a Runner row keeps as `pid_start`."""
    return started_at(os.getpid()) or 0.0


def is_running(pid: int, pid_start: float | None = None) -> bool:
    """Whether this very process lives (any process of that pid when no start is given)."""
    start = started_at(pid) if pid > 0 else None
    return start is not None and (pid_start is None or abs(start - pid_start) < SAME_START)


def kill_process(pid: int, pid_start: float) -> bool:
    """SIGKILL this very process; False if it is gone already."""
    if not is_running(pid, pid_start):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies, also when it has died already."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def new_marker(name: str) -> str:
    """What marks the descendants of this start of a qnode; the same after an exec."""
    return f"{name}.{os.getpid()}.{own_start()}"


def belonging(marker: str, lock: Path) -> set[int]:
    """Every other process that carries the marker, or holds the lock file open and carries none.

    (One with another marker is a qnode that is about to be refused.)
    """
    found = set()
    for pid in _other_pids():
        carried = _marker_of(pid)
        if carried == marker or (carried is None and _has_open(pid, str(lock))):
            found.add(pid)
    return found


def _other_pids() -> Iterator[int]:
    own = os.getpid()
    for name in os.listdir(PROC) if PROC.is_dir() else ():
        if name.isdigit() and int(name) != own:
            yield int(name)


def _marker_of(pid: int) -> str | None:
    prefix = f"{MARKER}=".encode()
    try:
        entries = PROC.joinpath(str(pid), "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((e[len(prefix) :].decode() for e in entries if e.startswith(prefix)), None)


def _has_open(pid: int, target: str) -> bool:
    folder = PROC / str(pid) / "fd"
    try:
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(folder / name) == target:
                    return True
    except OSError:
        return False
    return False


def kill_belonging(marker: str, lock: Path, *, seconds: float = KILL_SECONDS) -> int:
    """SIGKILL all of them until none is left; returns how many were still there at the end."""
    deadline = time.monotonic() + seconds
    while left := {pid for pid in belonging(marker, lock) if is_running(pid)}:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return len(left)
        time.sleep(0.02)
    return 0


class NodeLock:
    """One qnode of a name per VAR_DIR. Its forked processes inherit the lock, so it also tells
    whether any of them is left when the main process is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self, marker: str) -> int:
        """Take the lock, first ending what a killed predecessor left; returns how many that were.

        Raises AlreadyRunningError while the predecessor's main process lives.
        """
        ended = 0
        deadline = time.monotonic() + KILL_SECONDS
        while not self._try():
            record = self._read()
            if record and is_running(int(record["pid"]), float(record["started"])):
                raise AlreadyRunningError(f"it already runs as process {record['pid']}")
            if time.monotonic() > deadline:
                raise AlreadyRunningError(f"{self.path} is held by a process that cannot be ended")
            if record:
                ended += self._end(record)
            time.sleep(0.02)
        ended += self._end(self._read())  # what exec made forget the lock
        self._write({"pid": os.getpid(), "started": own_start(), "marker": marker})
        return ended

    def _end(self, record: dict[str, Any]) -> int:
        if not record:
            return 0
        found = len(belonging(str(record["marker"]), self.path))
        kill_belonging(str(record["marker"]), self.path)
        return found

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _read(self) -> dict[str, Any]:
        try:
            record = json.loads(os.pread(self._fd, 4096, 0))
            return record if {"pid", "started", "marker"} <= set(record) else {}
        except (ValueError, TypeError):
            return {}

    def _write(self, record: dict[str, Any]) -> None:
        text = json.dumps(record).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))
