"""What each worker of a qnode is doing, readable by its main process without asking anybody."""

from __future__ import annotations

import mmap
import struct

from casola_site.core.processes import is_running

CELL = struct.Struct("=II")  # pid, busy


class WorkerBoard:
    """One cell per worker in shared memory; each worker writes its own only, so there is no lock."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._cells = mmap.mmap(-1, CELL.size * size)

    def write(self, cell: int, *, pid: int, busy: bool) -> None:
        """Say what the worker of this cell does."""
        CELL.pack_into(self._cells, CELL.size * cell, pid, int(busy))

    def busy(self) -> int:
        """How many living workers carry out a task."""
        cells = (CELL.unpack_from(self._cells, CELL.size * cell) for cell in range(self.size))
        return sum(1 for pid, busy in cells if busy and is_running(pid))
