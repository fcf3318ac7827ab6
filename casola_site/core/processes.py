"""Small facts about operating-system processes. Pure: no Django.

A process is named by its pid and the moment it started, because pids are reused.

Linux tells a process when its parent dies (PR_SET_PDEATHSIG); everything this project starts asks
for that, so that a killed launcher or test run leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PROC = Path("/proc")
SAME_START = 0.005  # seconds; the kernel counts in hundredths

# Loaded here and not after fork(), where the dynamic loader may be locked.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent: int, death_signal: int = signal.SIGKILL) -> None:
    """Have the kernel signal this process when `parent` dies; end it if that has happened already.

    The kernel watches the *thread* that forked, so start children from a thread that lives as long
    as the process. Changing the user clears the setting.
    """
    if _LIBC is not None and _LIBC.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def dying_with_caller(death_signal: int = signal.SIGKILL) -> Callable[[], None]:
    """Give a `preexec_fn` that has the child signalled when the caller dies.

    (`subprocess` changes the user, where it is told to, before this runs.)
    """
    return functools.partial(die_with_parent, os.getpid(), death_signal)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none gets away."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def started_at(pid: int) -> float | None:
    """When the process started, in seconds since boot (no clock can move it); None if it is gone.

    A zombie counts as gone.
    """
    if not PROC.joinpath("self").exists():
        return _started_at_portable(pid)
    try:
        fields = PROC.joinpath(str(pid), "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in b"ZX" else int(fields[19]) / os.sysconf("SC_CLK_TCK")


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
