"""Programs that do dangerous work in processes of their own, asked and answering in lines of JSON.

Such a program (`grammar_child.py`, `media_child.py`) says one line when it is ready and then answers
every line with one. It has the kernel hold its limits; here it is only waited for, and started anew
whenever it is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from inference.runners.base import Busy

KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
START_SECONDS = 60.0
LINE_SECONDS = 10.0


class HelperPool:
    """At most `count` helpers of one program; each starts when first needed. Thread-safe."""

    def __init__(
        self,
        program: Path,
        settings: dict[str, Any],
        *,
        count: int,
        descriptors: tuple[int, ...] = (),
        line_seconds: float = LINE_SECONDS,
    ) -> None:
        """`settings` is the program's one argument; `descriptors` stay open for it."""
        self._line_seconds = line_seconds
        self._all = [Helper(program, settings, descriptors) for _ in range(count)]
        self._free: queue.LifoQueue[Helper] = queue.LifoQueue()
        for helper in reversed(self._all):
            self._free.put(helper)

    def ask(self, question: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """See Helper. Raises Busy when too many wait for a helper."""
        with self._helper() as helper:
            return helper.ask(question, timeout)

    def close(self) -> None:
        """End the helpers."""
        for helper in self._all:
            helper.close()

    @contextlib.contextmanager
    def _helper(self) -> Iterator[Helper]:
        try:
            helper = self._free.get(timeout=self._line_seconds)
        except queue.Empty:
            raise Busy(retry_after=5) from None
        try:
            yield helper
        finally:
            self._free.put(helper)


class Helper:
    """One process, started anew whenever it is gone."""

    def __init__(
        self, program: Path, settings: dict[str, Any], descriptors: tuple[int, ...]
    ) -> None:
        self._program = program
        self._settings = settings
        self._descriptors = descriptors
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, question: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """The answer, or None if it died or did not answer in `timeout` seconds.

        Raises RuntimeError where a helper cannot be started at all.
        """
        with self._lock:
            process = self._running()
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
            except OSError:
                self._end()
                return None
            answer = _line(process.stdout, timeout)
            if answer is None:
                self._end()
            return answer

    def close(self) -> None:
        """End the process if there is one."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            # -P: modules beside the program must not hide those of the library
            [sys.executable, "-P", str(self._program), json.dumps(self._settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._descriptors,
            env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
        )
        if _line(self._process.stdout, START_SECONDS) is None:
            self._end()
            raise RuntimeError(f"{self._program.name} does not start")
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # what could not be written any more
                pipe.close()


def _line(pipe: IO[bytes], seconds: float) -> dict[str, Any] | None:
    """One line of JSON from a pipe; None at its end or when `seconds` are over."""
    deadline = time.monotonic() + seconds
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not text.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return None
            part = os.read(pipe.fileno(), 65536)
            if not part:
                return None
            text += part
    return json.loads(text)
