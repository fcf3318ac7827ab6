"""One qnode of a name at a time: what belongs to it, and how none of that is left behind.

Pure: no Django.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from casola_site.core.processes import PROC, is_running, own_start

MARKER = "CASOLA_QNODE"  # in the environment of everything a qnode starts
KILL_SECONDS = 5.0


class AlreadyRunningError(Exception):
    """Another qnode of this name lives; the text says which."""


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
