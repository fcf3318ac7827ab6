"""Small facts about operating-system processes. Pure: no Django.

Linux tells a process when its parent dies (PR_SET_PDEATHSIG); everything this project starts asks
for that, so that a killed launcher or test run leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

# Loaded here and not after fork(), where the dynamic loader may be locked.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(death_signal: int = signal.SIGKILL) -> Callable[[], None]:
    """Give a `preexec_fn` that has the child signalled when the caller dies.

    The kernel watches the *thread* that forks, so start children from a thread that lives as long
    as the process. Changing the user clears the setting; `subprocess` changes it before this runs.
    """
    parent = os.getpid()

    def ask() -> None:
        if _LIBC is None:
            return
        _LIBC.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none gets away."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_running(pid: int) -> bool:
    """Say whether a process with this id exists and is more than a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False
