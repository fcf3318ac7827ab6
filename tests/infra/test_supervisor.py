"""The supervisor restarts what ends, passes output on and leaves no process behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from casola_site.core.processes import is_running
from tests.waiting import until

HOST = """
import sys
from pathlib import Path
from casola_site.core.supervisor import Child, Supervisor
PY = sys.executable
children = {children}
with Supervisor(log_dir=Path({logs!r}), stop_timeout={stop_timeout}, first_backoff=0.05) as s:
    for child in children:
        s.start(child)
    s.say("all started")
    s.run()
    s.say("over")
"""
SLEEPER = "import os, time; os.write(1, b'pid %d\\n' % os.getpid()); time.sleep(60)"
STUBBORN = (
    "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "os.write(1, b'pid %d\\n' % os.getpid()); time.sleep(60)"
)
# A leader that ignores what it started; the second of the two leaves the process group as well.
PARENT = (
    "import os, subprocess, sys, time; code = sys.argv[1]; "
    "a = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.DEVNULL); "
    "b = subprocess.Popen([sys.executable, '-c', code], start_new_session=True); "
    "os.write(1, b'pid %d\\n' % os.getpid()); time.sleep(60)"
)


class Host:
    """A process that runs a supervisor; its output is read as it comes."""

    def __init__(self, tmp_path, children, stop_timeout=10.0):
        self.logs = tmp_path / "logs"
        text = HOST.format(children=children, logs=str(self.logs), stop_timeout=stop_timeout)
        self.output = tmp_path / "output"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", text], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def text(self):
        return self.output.read_text()

    def pids(self, count):
        until(lambda: len(re.findall(r"pid (\d+)$", self.text(), re.M)) >= count, what=self.text)
        return [int(pid) for pid in re.findall(r"pid (\d+)$", self.text(), re.M)]

    def end(self, number=signal.SIGINT):
        self.process.send_signal(number)
        return self.process.wait(15)


@pytest.fixture
def host(tmp_path):
    hosts = []

    def start(children, **options):
        hosts.append(Host(tmp_path, children, **options))
        return hosts[-1]

    yield start
    for each in hosts:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


@pytest.mark.parametrize("code", [0, 3])
def test_a_child_that_ends_starts_again(host, code):
    command = f"import os, sys; os.write(1, b'pid %d\\n' % os.getpid()); sys.exit({code})"
    running = host(f"[Child('short', [PY, '-c', {command!r}])]")

    assert len(set(running.pids(3))) >= 3
    assert f"short | ended (exit {code}), starts again in 0.05 s" in running.text()
    assert f"short | ended (exit {code}), starts again in 0.1 s" in running.text()
    assert running.end() == 0


def test_a_killed_child_starts_again_and_its_group_is_gone(host):
    running = host(f"[Child('tree', [PY, '-c', {PARENT!r}, {SLEEPER!r}])]")
    first = running.pids(3)
    leader = psutil.Process(running.process.pid).children()[0].pid

    os.kill(leader, signal.SIGKILL)

    running.pids(6)
    assert "ended (SIGKILL)" in running.text()
    assert running.end() == 0
    assert not any(is_running(pid) for pid in [*first, *running.pids(6)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_with_exit_code_0(host, number):
    running = host(
        f"[Child('one', [PY, '-c', {SLEEPER!r}]),"
        f" Child('tree', [PY, '-c', {PARENT!r}, {STUBBORN!r}])]"
    )
    pids = running.pids(4)

    started = time.monotonic()
    assert running.end(number) == 0

    assert time.monotonic() - started < 5
    assert not any(is_running(pid) for pid in pids)
    assert running.text().endswith("over\n")


def test_a_child_that_does_not_listen_is_killed_after_the_timeout(host):
    running = host(f"[Child('deaf', [PY, '-c', {STUBBORN!r}])]", stop_timeout=0.5)
    pids = running.pids(1)
    assert running.end() == 0
    assert not is_running(pids[0])


def test_a_second_signal_kills_at_once(host):
    running = host(f"[Child('deaf', [PY, '-c', {STUBBORN!r}])]", stop_timeout=60.0)
    pids = running.pids(1)
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    assert running.process.poll() is None
    assert running.end() == 0
    assert not is_running(pids[0])


def test_signals_that_come_together_count_once(host):
    gentle = (
        "import os, signal, sys, time\n"
        "def end(*_): time.sleep(0.5); print('gently'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "os.write(1, b'pid %d\\n' % os.getpid())\n"
        "time.sleep(60)\n"
    )
    running = host(f"[Child('gentle', [PY, '-c', {gentle!r}])]")
    running.pids(1)
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    assert running.end(signal.SIGTERM) == 0
    assert "gentle | gently" in running.text()


def test_later_stages_end_after_earlier_ones(host):
    slow = (
        "import os, signal, sys, time\n"
        "def end(*_): time.sleep(float(sys.argv[1])); print('ended'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "os.write(1, b'pid %d\\n' % os.getpid())\n"
        "time.sleep(60)\n"
    )
    running = host(
        f"[Child('base', [PY, '-c', {slow!r}, '0'], stage=1),"
        f" Child('top', [PY, '-c', {slow!r}, '0.5'])]"
    )
    running.pids(2)
    assert running.end() == 0
    assert running.text().index("top  | ended") < running.text().index("base | ended")


def test_killing_the_supervisor_ends_its_children(host):
    running = host(
        f"[Child('one', [PY, '-c', {SLEEPER!r}]), Child('two', [PY, '-c', {SLEEPER!r}])]"
    )
    pids = running.pids(2)
    running.process.kill()
    running.process.wait()
    until(lambda: not any(is_running(pid) for pid in pids))


def test_output_is_prefixed_and_kept_in_log_files(host):
    command = "import time; print('whole'); print('no end', end='', flush=True); time.sleep(60)"
    running = host(f"[Child('web', [PY, '-c', {command!r}])]")
    until(lambda: "whole" in running.text())
    assert running.end() == 0
    assert "web | whole\n" in running.text()
    assert "web | no end\n" in running.text()
    assert "\x1b" not in running.text()
    assert (running.logs / "web.log").read_text() == "whole\nno end\n"


def test_a_long_log_is_moved_away_at_start(host, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "web.log").write_bytes(b"x" * (10 * 1024 * 1024 + 1))
    running = host(f"[Child('web', [PY, '-c', {SLEEPER!r}])]")
    pids = running.pids(1)
    assert running.end() == 0
    assert (tmp_path / "logs" / "web.log").read_text() == f"pid {pids[0]}\n"
    assert (tmp_path / "logs" / "web.log.1").stat().st_size == 10 * 1024 * 1024 + 1


def test_a_command_that_does_not_exist_is_tried_again(host):
    running = host("[Child('ghost', ['/does/not/exist'])]")
    until(lambda: running.text().count("No such file") >= 2, what=running.text)
    assert running.end() == 0
