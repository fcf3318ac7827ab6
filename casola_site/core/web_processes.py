"""Keeps the web processes running: one listening socket, N fresh processes, restarts, one end."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from time import monotonic

BACKLOG = 2048
SEND_BUFFER = 256 * 1024
_HEALTHY_SECONDS = 10.0
_FAILED_STARTS = 5
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 10.0


class PortTakenError(Exception):
    """The address cannot be listened on."""


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; accepted connections inherit its options.

    Raises PortTakenError with a sentence for the operator.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Bounds what the kernel holds for a client that never reads.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise PortTakenError(f"Cannot listen on {host} port {port}: {error.strerror}.") from error
    return listening


@dataclass
class _Slot:
    """The place of one web process."""

    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    delay: float = _FIRST_DELAY


@dataclass
class Supervisor:
    """Runs ``workers`` copies of ``command`` until told to stop."""

    command: list[str]
    listening: socket.socket
    workers: int
    _slots: list[_Slot] = field(default_factory=list)
    _stopping: bool = False
    _to_pass_on: list[int] = field(default_factory=list)
    _failed_starts: int = 0
    _ever_healthy: bool = False

    def run(self) -> int:
        """Keep the processes running; return the exit code once all have ended."""
        self._slots = [_Slot() for _ in range(self.workers)]
        reader, writer = os.pipe()
        for end in (reader, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            self._reap()
            self._pass_on()
            if not self._stopping:
                self._start_due()
            if self._stopping and not any(slot.process for slot in self._slots):
                return 1 if self._gave_up() else 0
            select.select([reader], [], [], self._pause())
            with contextlib.suppress(BlockingIOError):
                os.read(reader, 4096)

    def _gave_up(self) -> bool:
        return not self._ever_healthy and self._failed_starts >= _FAILED_STARTS

    def _pause(self) -> float:
        due = [slot.start_at for slot in self._slots if slot.process is None]
        if self._stopping or not due:
            return 1.0
        return max(0.0, min(1.0, min(due) - monotonic()))

    def _start_due(self) -> None:
        now = monotonic()
        for slot in self._slots:
            if slot.process is None and now >= slot.start_at:
                # Its own group: Ctrl-C reaches the parent only, which passes it on once.
                slot.process = subprocess.Popen(  # noqa: S603 - our own command line
                    self.command, pass_fds=[self.listening.fileno()], process_group=0
                )
                slot.started_at = now

    def _reap(self) -> None:
        now = monotonic()
        for slot in self._slots:
            if slot.process is None:
                continue
            code = slot.process.poll()
            healthy = now - slot.started_at >= _HEALTHY_SECONDS
            self._ever_healthy = self._ever_healthy or healthy
            if code is None:
                continue
            pid, slot.process = slot.process.pid, None
            if self._stopping:
                continue
            slot.delay = _FIRST_DELAY if healthy else min(slot.delay * 2, _LONGEST_DELAY)
            slot.start_at = now + slot.delay
            self._failed_starts += code > 0 and not healthy
            print(f"web process {pid} ended with {code}", file=sys.stderr, flush=True)  # noqa: T201 - for the operator
            if self._gave_up():
                self._stop(signal.SIGTERM)

    def _stop(self, number: int, _frame: object = None) -> None:
        """Note the signal; the loop passes it on."""
        self._stopping = True
        self._to_pass_on.append(number)

    def _pass_on(self) -> None:
        """Signal the children; the listening socket closes so that nothing queues on it."""
        while self._to_pass_on:
            number = self._to_pass_on.pop(0)
            self.listening.close()
            for slot in self._slots:
                if slot.process is not None:
                    slot.process.send_signal(number)
