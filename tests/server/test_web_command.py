"""``manage.py web``: children on one socket, restarts, one end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ENVIRONMENT, Site, wait_for

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["casola_site"]
ASGI_APPLICATION = "application.application"
GUARD_CONFIG = "application.build"
USE_TZ = True
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def serves(site: Site) -> bool:
    with contextlib.suppress(OSError):
        return site.request("/hello").status == 200
    return False


def start(tmp_path, port: int, workers: int = 2, **changes) -> subprocess.Popen:
    (tmp_path / "web_settings.py").write_text(SETTINGS)
    environment = {
        **ENVIRONMENT,
        "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{tmp_path}",
        "DJANGO_SETTINGS_MODULE": "web_settings",
        "GUARD_CHANGES": json.dumps(changes),
    }
    options = ["--port", str(port), "--workers", str(workers)]
    command = [sys.executable, "-m", "django", "web", *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


@pytest.fixture
def web(tmp_path):
    process = start(tmp_path, port := free_port(), drain_seconds=5)
    site = Site(process, port)
    try:
        assert wait_for(lambda: serves(site), 10)
        assert wait_for(lambda: len(children(process.pid)) == 2)
        yield site
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        process.stderr.close()


def test_a_killed_child_is_replaced(web):
    victim, other = children(web.pid)
    os.kill(victim, signal.SIGKILL)
    assert wait_for(lambda: len(set(children(web.pid)) - {victim}) == 2)
    assert other in children(web.pid)
    assert serves(web)


def test_no_child_outlives_a_killed_parent(web):
    pids = children(web.pid)
    web.process.kill()
    assert wait_for(lambda: not any(alive(pid) for pid in pids), 2)


def test_sigterm_drains_the_children_and_exits_zero(web):
    # Both children must serve before the signal, else one dies while it still starts.
    assert wait_for(lambda: len({web.request("/echo").json()["pid"] for _ in range(8)}) == 2, 10)
    with web.connect() as sock:
        sock.sendall(b"GET /ticks?5 HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(1000)
        web.process.send_signal(signal.SIGTERM)
        raw = b""
        while chunk := sock.recv(1000):
            raw += chunk
    assert raw.endswith(b"end\n\r\n0\r\n\r\n")
    assert web.process.wait(3) == 0


def test_a_taken_port_is_said_in_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(tmp_path, taken.getsockname()[1])
        _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert b"Cannot listen on 127.0.0.1 port" in err
    assert b"Traceback" not in err


def test_a_site_that_never_starts_is_given_up(tmp_path):
    (tmp_path / "broken").mkdir()
    started = time.monotonic()
    process = start(tmp_path, free_port(), workers=2, no_such_setting=1)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"no_such_setting" in err
    assert time.monotonic() - started < 20
