"""Grammars are tried in a process of their own before this one compiles them."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from inference.runners.base import Busy

PROGRAM = Path(__file__).with_name("grammar_child.py")
KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
START_SECONDS = 60.0
SPARE_SECONDS = 3.0
MOST_HELPERS = 4
LINE_SECONDS = 10.0
TOO_MUCH = "it takes too much time or memory"
TOO_SLOW = "it takes too much time"


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """What one trial may take: bytes on top of the vocabulary, seconds of CPU and of the clock."""

    memory: int = 192 << 20
    cpu_s: float = 0.6
    wall_s: float = 1.2


class GrammarGuard:
    """Runs trials, at most `helpers` at a time; helpers start when first needed. Thread-safe."""

    def __init__(
        self,
        tokenizer: str,
        vocabulary: int,
        eos_ids: list[int],
        limits: dict[str, int],
        *,
        trial: TrialLimits | None = None,
        helpers: int | None = None,
    ) -> None:
        """`tokenizer` is the text of a tokenizer.json; `limits` are llguidance's.

        `helpers` None: one for every four cores, so that trials leave the engine its own.
        """
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the guard is
        self._file.write(tokenizer.encode())
        self._file.flush()
        self._trial = trial or TrialLimits()
        settings = {
            "tokenizer": self._file.fileno(),
            "vocabulary": vocabulary,
            "eos": eos_ids,
            "limits": limits,
            **asdict(self._trial),
        }
        self._all = [
            Helper(settings, self._file.fileno()) for _ in range(helpers or _usual_helpers())
        ]
        self._free: queue.LifoQueue[Helper] = queue.LifoQueue()
        for helper in reversed(self._all):
            self._free.put(helper)

    def fault(self, grammar: str) -> str | None:
        """What is wrong with a grammar, None if nothing. Raises Busy when too many wait for it.

        TOO_SLOW need not be so another time: the machine may have been busy.
        """
        with self._helper() as helper:
            answer = helper.ask({"grammar": grammar}, self._trial.wall_s + SPARE_SECONDS)
        if answer is None or answer.get("by_clock"):
            return TOO_SLOW
        if answer.get("died"):
            return TOO_MUCH
        return answer["error"]

    def close(self) -> None:
        """End the helpers."""
        for helper in self._all:
            helper.close()
        self._file.close()

    @contextlib.contextmanager
    def _helper(self) -> Iterator[Helper]:
        try:
            helper = self._free.get(timeout=LINE_SECONDS)
        except queue.Empty:
            raise Busy(retry_after=5) from None
        try:
            yield helper
        finally:
            self._free.put(helper)


def _usual_helpers() -> int:
    return max(1, min(MOST_HELPERS, len(os.sched_getaffinity(0)) // 4))


class Helper:
    """One process of grammar_child, started anew whenever it is gone."""

    def __init__(self, settings: dict[str, Any], descriptor: int) -> None:
        self._settings = settings
        self._descriptor = descriptor
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
            [sys.executable, "-P", str(PROGRAM), json.dumps(self._settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._descriptor,),
            env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
        )
        if _line(self._process.stdout, START_SECONDS) is None:
            self._end()
            raise RuntimeError("the process that tries grammars does not start")
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
