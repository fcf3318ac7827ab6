"""The node's stop flag: one byte that every process of a qnode shares.

`qnode` makes it before it forks its cluster; the workers inherit it, so a Runner sees the wish to
stop at once, whatever else is broken. Not a `multiprocessing.Event`: that holds a lock, and a
signal handler or a killed process that met it there would block everybody for good.
"""

from __future__ import annotations

import mmap
import time

POLL_SECONDS = 0.05


class Flag:
    """A yes/no shared with all processes forked later. Has the part of Event that django-q uses."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Say yes; safe in a signal handler."""
        self._byte[0] = 1

    def is_set(self) -> bool:
        """Whether somebody said yes."""
        return self._byte[0] == 1

    def wait(self, timeout: float) -> bool:
        """Sleep until somebody says yes, at most `timeout` seconds; returns `is_set()`."""
        deadline = time.monotonic() + timeout
        while not self.is_set() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(POLL_SECONDS, left))
        return self.is_set()


_node: list[Flag] = []


def prepare() -> Flag:
    """Make this node's flag (once, in the qnode's main process, before it forks)."""
    if not _node:
        _node.append(Flag())
    return _node[0]


def request_stop() -> None:
    """Ask every Runner of this node to drain and return."""
    prepare().set()


def stop_requested() -> bool:
    """Whether this node is stopping; False outside a qnode."""
    return bool(_node) and _node[0].is_set()
