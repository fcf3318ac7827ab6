"""Other servers to measure against: each in a virtual environment of its own, kept for reuse."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.report import say
from tests.live import free_port, wait_until

ROOT = Path(__file__).resolve().parents[1]
READY = ".ready"
BATCHING = ("--continuous-batching", "--cb-block-size", "64", "--cb-num-blocks", "512",
            "--cb-max-batch-tokens", "512")  # fmt: skip
TRANSFORMERS = ("torch==2.13.0", "transformers[serving]==5.23.0")
INFINITY = (
    "torch==2.13.0",
    "infinity-emb[torch,server]==0.0.77 click<8.2 optimum<1.24 transformers<4.49",
)


def environment(folder: Path, requirements: tuple[str, ...]) -> Path:
    """The `bin` of a virtual environment with these; torch comes first and by plain pip."""
    if not (folder / READY).exists():
        say(f"installing {', '.join(requirements)} into {folder}")
        subprocess.run([ROOT / ".ci/make-venv", sys.executable, folder], check=True)
        pip = [folder / "bin/python", "-m", "pip", "install", "-qq", "--no-input",
               "--disable-pip-version-check"]  # fmt: skip
        for requirement in requirements:
            subprocess.run([*pip, *requirement.split()], check=True)
        (folder / READY).touch()
    return folder / "bin"


class Peer:
    """A running server, stopped (SIGSTOP) but for the time in which it is measured."""

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process = process
        self.port = port

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let it run for a while."""
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGSTOP)


@contextlib.contextmanager
def transformers_serve(folder: Path, model: Path, *, batching: bool, log: Path) -> Iterator[Peer]:
    """`transformers serve` on a model folder, with or without continuous batching."""
    bin_folder = environment(folder, TRANSFORMERS)
    command = [bin_folder / "transformers", "serve", model, "--device", "cpu", "--dtype",
               "bfloat16", "--log-level", "error", *(BATCHING if batching else ())]  # fmt: skip
    with _serving(command, log) as peer:
        yield peer


@contextlib.contextmanager
def infinity(folder: Path, model: Path, *, dtype: str, log: Path) -> Iterator[Peer]:
    """infinity-emb on a model folder."""
    bin_folder = environment(folder, INFINITY)
    command = [bin_folder / "infinity_emb", "v2", "--model-id", model, "--served-model-name",
               "bench", "--engine", "torch", "--device", "cpu", "--dtype", dtype,
               "--url-prefix", "/v1"]  # fmt: skip
    with _serving(command, log, DO_NOT_TRACK="1", INFINITY_ANONYMOUS_USAGE_STATS="0") as peer:
        yield peer


@contextlib.contextmanager
def _serving(command: list[object], log: Path, **more: str) -> Iterator[Peer]:
    """The command with a port of its own, from its first answer on."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*map(str, command), "--port", str(port)],
            env={**kept, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive", **more},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"the peer ended: {log.read_text(errors='replace')[-2000:]}")
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success

        wait_until(answers, seconds=180, what="the peer")
        yield Peer(process, port)
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
