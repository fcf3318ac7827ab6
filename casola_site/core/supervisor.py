"""Run several commands as one: prefix their output, restart what ends, end all of it cleanly.

Pure: no Django. Used by `manage.py up`; knows nothing about what it runs.

    supervisor = Supervisor(log_dir=var_dir / "logs")
    with supervisor:
        supervisor.start(Child("redis", [...], stage=1))
        supervisor.start(Child("web", [...]))
        supervisor.run()        # until SIGINT, SIGTERM or SIGHUP

Each child leads a process group of its own. An orderly stop signals the leaders only: they know
how to end what they started (the processes of a task queue must not all be told at once). What
is left of a group when its leader has ended is killed, and so are descendants that left the group:
the supervisor adopts orphans, so none is out of sight.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import BinaryIO, TextIO

import psutil

from casola_site.core.processes import adopt_orphans, dying_with_caller

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 10.0
# Whoever ran this long has started well: its next restart is prompt again.
STEADY_AFTER = 30.0
LOG_LIMIT = 10 * 1024 * 1024
LONGEST_LINE = 64 * 1024
# A terminal, make and a process manager may each pass on the same wish.
SAME_SIGNAL = 0.5
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COLOURS = (36, 32, 35, 33, 34, 31)
Handler = Callable[[int, FrameType | None], object] | int | None


@dataclass(frozen=True)
class Child:
    """One command to keep running.

    `stage` says when it is stopped: 0 first, then 1, and so on. What a `quiet` child prints goes
    to its log file only.
    """

    name: str
    argv: Sequence[str]
    stage: int = 0
    quiet: bool = False
    env: Mapping[str, str] | None = None


@dataclass
class _Run:
    """What the supervisor knows of a child now."""

    child: Child
    colour: int
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    backoff: float = FIRST_BACKOFF
    restart_at: float | None = None
    log: BinaryIO | None = None
    buffers: dict[int, bytes] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.process is not None


class Supervisor:
    """Keeps children running in the main thread of a process; see the module's text."""

    def __init__(
        self,
        *,
        log_dir: Path,
        out: TextIO | None = None,
        stop_timeout: float = 30.0,
        first_backoff: float = FIRST_BACKOFF,
    ) -> None:
        self._log_dir = log_dir
        self._out = out or sys.stdout
        self._stop_timeout = stop_timeout
        self._first_backoff = first_backoff
        self._colours = self._out.isatty() and "NO_COLOR" not in os.environ
        self._runs: list[_Run] = []
        self._selector = selectors.DefaultSelector()
        self._strangers: set[int] = set()
        self._signals = 0
        self._signalled_at = 0.0
        self._looping = False
        self._ending = False
        self._old_handlers: dict[int, Handler] = {}
        self._wake_read, self._wake_write = os.pipe()

    # --- life -------------------------------------------------------------------------------

    def __enter__(self) -> Supervisor:
        """Take over signals and orphans."""
        adopt_orphans()
        self._strangers = {process.pid for process in psutil.Process().children()}
        self._log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            self._old_handlers[number] = signal.signal(number, self._on_signal)
        self._old_handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        """End every child, however the block was left."""
        self.stop()
        signal.set_wakeup_fd(-1)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    @property
    def stopping(self) -> bool:
        """Whether a signal has asked for the end."""
        return self._signals > 0

    def start(self, child: Child) -> None:
        """Start a child and keep it running from now on."""
        run = _Run(child, COLOURS[len(self._runs) % len(COLOURS)], backoff=self._first_backoff)
        self._runs.append(run)
        self._spawn(run)

    def run(self) -> None:
        """Pass output on and restart what ends, until a signal asks for the end."""
        with self._loop():
            while not self.stopping:
                self._step(self._next_restart())

    def wait_for(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Do as `run` until the condition holds; False after `timeout` seconds or a signal."""
        deadline = time.monotonic() + timeout
        with self._loop():
            while not (met := condition()) and not self.stopping and time.monotonic() < deadline:
                self._step(0.01)
        return met

    def stop(self) -> None:
        """End all children by stages: SIGTERM, `stop_timeout` in all, then SIGKILL.

        A second signal from outside kills at once.
        """
        with self._loop():
            self._stop_by_stages()
            self._kill_the_rest()
        for run in self._runs:
            self._close_log(run)

    def _stop_by_stages(self) -> None:
        self._ending = True
        deadline = time.monotonic() + self._stop_timeout
        for run in self._runs:
            run.restart_at = None
        for stage in sorted({run.child.stage for run in self._runs}):
            members = [run for run in self._runs if run.child.stage == stage]
            for run in members:
                if run.process:
                    run.process.terminate()
            while any(run.running for run in members) and self._signals < 2:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._step(min(left, 0.5))
            for run in members:
                self._kill_group(run)

    def say(self, text: str) -> None:
        """Print a line of the supervisor's own."""
        self._print(text + "\n")

    # --- events -----------------------------------------------------------------------------

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Count the signal; outside the supervisor's own loop, interrupt what is being done."""
        now = time.monotonic()
        if now - self._signalled_at > SAME_SIGNAL:
            self._signals += 1
        self._signalled_at = now
        if not self._looping:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def _loop(self) -> Iterator[None]:
        before, self._looping = self._looping, True
        try:
            yield
        finally:
            self._looping = before

    def _next_restart(self) -> float | None:
        times = [run.restart_at for run in self._runs if run.restart_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _step(self, timeout: float | None) -> None:
        """Wait for output, a signal or the end of a child, and deal with it."""
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            else:
                self._read(key.data, key.fd)
        for pid in _ended_children():
            self._bury(pid)
        for run in self._runs:
            if run.restart_at is not None and time.monotonic() >= run.restart_at:
                self._spawn(run)

    def _bury(self, pid: int) -> None:
        """Take note of a child's end, or drop an adopted orphan's remains."""
        for run in self._runs:
            if run.process and run.process.pid == pid:
                # While its leader is a zombie, the group's number cannot be anybody else's.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                code = run.process.wait()
                run.process = None
                self._after_end(run, code)
                return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def _after_end(self, run: _Run, code: int) -> None:
        for descriptor in list(run.buffers):
            self._read(run, descriptor)
        if self.stopping or self._ending:
            return
        if time.monotonic() - run.started_at > STEADY_AFTER:
            run.backoff = self._first_backoff
        run.restart_at = time.monotonic() + run.backoff
        self._line(run, f"ended ({_reason(code)}), starts again in {run.backoff:g} s".encode())
        run.backoff = min(run.backoff * 2, LONGEST_BACKOFF)

    # --- processes --------------------------------------------------------------------------

    def _spawn(self, run: _Run) -> None:
        run.restart_at = None
        run.started_at = time.monotonic()
        self._open_log(run)
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | dict(run.child.env or {})
        read_end, write_end = os.pipe()
        try:
            run.process = subprocess.Popen(  # noqa: S603 - commands come from our own code
                list(run.child.argv),
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                env=environment,
                process_group=0,
                preexec_fn=dying_with_caller(signal.SIGTERM),
            )
        except OSError as error:
            os.close(read_end)
            self._line(run, str(error).encode())
            run.restart_at = time.monotonic() + run.backoff
            run.backoff = min(run.backoff * 2, LONGEST_BACKOFF)
            return
        finally:
            os.close(write_end)
        os.set_blocking(read_end, False)
        run.buffers[read_end] = b""
        self._selector.register(read_end, selectors.EVENT_READ, run)

    def _kill_group(self, run: _Run) -> None:
        """Kill a child that did not end by itself, and wait for it."""
        if run.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
        run.process = None

    def _kill_the_rest(self) -> None:
        """Kill descendants that left their group; as adopted orphans they are our children."""
        if not self._runs:
            return
        for _ in range(10):
            rest = [
                process
                for process in psutil.Process().children(recursive=True)
                if process.pid not in self._strangers and process.status() != psutil.STATUS_ZOMBIE
            ]
            for process in rest:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            for pid in _ended_children():
                self._bury(pid)
            if not rest:
                return
            time.sleep(0.05)

    # --- output -----------------------------------------------------------------------------

    def _read(self, run: _Run, descriptor: int) -> None:
        """Pass on whole lines; the end of the pipe comes when its last writer is gone."""
        while True:
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                return
            if not data:
                break
            *lines, rest = (run.buffers[descriptor] + data).split(b"\n")
            for line in lines:
                self._line(run, line, show=not run.child.quiet)
            if len(rest) > LONGEST_LINE:
                self._line(run, rest, show=not run.child.quiet)
                rest = b""
            run.buffers[descriptor] = rest
        rest = run.buffers.pop(descriptor)
        if rest:
            self._line(run, rest, show=not run.child.quiet)
        self._selector.unregister(descriptor)
        os.close(descriptor)

    def _line(self, run: _Run, line: bytes, *, show: bool = True) -> None:
        if run.log:
            run.log.write(line + b"\n")
            run.log.flush()
        if not show:
            return
        width = max(len(other.child.name) for other in self._runs)
        prefix = f"{run.child.name:<{width}} |"
        if self._colours:
            prefix = f"\x1b[{run.colour}m{prefix}\x1b[0m"
        self._print(f"{prefix} {line.decode(errors='replace').rstrip()}\n")

    def _print(self, text: str) -> None:
        """Write to the terminal; when there is none any more, the log files go on."""
        with contextlib.suppress(OSError, ValueError):
            self._out.write(text)
            self._out.flush()

    def _open_log(self, run: _Run) -> None:
        """Open the child's log, moving one that has grown too long out of the way."""
        self._close_log(run)
        path = self._log_dir / f"{run.child.name.replace(' ', '-')}.log"
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > LOG_LIMIT:
                path.replace(path.with_suffix(".log.1"))
        run.log = path.open("ab")

    def _close_log(self, run: _Run) -> None:
        if run.log:
            run.log.close()
            run.log = None


def _ended_children() -> Iterator[int]:
    """Yield each child of this process that has ended; the caller must wait for it."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        yield ended.si_pid


def _reason(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name
    return f"exit {code}"
