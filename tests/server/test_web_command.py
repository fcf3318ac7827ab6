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
from guarded_site import ENVIRONMENT, Site, wait_for

from casola_site.core.processes import is_running
from tests.servers import free_port
from tokens import keys

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["casola_site"]
ASGI_APPLICATION = "guarded_application.application"
GUARD_CONFIG = "guarded_application.build"
USE_TZ = True
"""


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def serves(site: Site) -> bool:
    with contextlib.suppress(OSError):
        return site.request("/hello").status == 200
    return False


def start(
    tmp_path, port: int, workers: int = 2, text: str = SETTINGS, **changes
) -> subprocess.Popen:
    (tmp_path / "web_settings.py").write_text(text)
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
    assert wait_for(lambda: not any(is_running(pid) for pid in pids), 2)


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
    started = time.monotonic()
    process = start(tmp_path, free_port(), workers=2, no_such_setting=1)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"no_such_setting" in err
    assert time.monotonic() - started < 20


SITE = """
import asyncio
import gc
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

CLOSED = []


async def stream():
    try:
        while True:
            await asyncio.sleep(0)
            yield "x" * 16384
    finally:
        CLOSED.append(1)


async def endless(request):
    return StreamingHttpResponse(stream())


def show(request, **kwargs):
    # Django closes its own wrapper at once, the generator inside when it is collected.
    gc.collect()
    return JsonResponse({"size": len(request.body), "closed": len(CLOSED)})


def hello(request):
    return HttpResponse("hello")


urlpatterns = [
    path("hello", hello),
    path("endless", endless),
    path("login/", show),
    path("openai/v1/chat/completions", show),
    path("openai/v1/embeddings", show),
    path("openai/v1/files", show),
]
application = get_asgi_application()
"""
SITE_SETTINGS = """
SECRET_KEY = "x"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "small_site"
INSTALLED_APPS = ["casola_site"]
ASGI_APPLICATION = "small_site.application"
DATA_UPLOAD_MAX_MEMORY_SIZE = None
USE_TZ = True
"""
KEY = f"Authorization: Bearer {keys.new_secret()}\r\n"


@pytest.fixture
def django_site(tmp_path):
    (tmp_path / "small_site.py").write_text(SITE)
    process = start(tmp_path, port := free_port(), workers=1, text=SITE_SETTINGS)
    site = Site(process, port)
    try:
        assert wait_for(lambda: serves(site), 10)
        yield site
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_the_configuration_of_the_site(django_site):
    def status(path: str, length: int, headers: str = KEY) -> int:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n"
        return django_site.send(head.encode() + b"x" * min(length, 1000)).status

    mb = 1024 * 1024
    assert status("/openai/v1/chat/completions", 25 * mb + 1) == 413
    assert status("/openai/v1/embeddings", 4 * mb + 1) == 413
    assert status("/openai/v1/files", 201 * mb + 1) == 413  # a file of 200 MB in its form
    assert status("/openai/v1/embeddings", 1000, "") == 401
    assert status("/openai/v1/embeddings", 1000, "Authorization: Bearer junk\r\n") == 401
    assert status("/openai/v1/embeddings", 1000) == 200
    assert status("/openai/v1/embeddings/", 1000) == 404
    assert status("/openai/v9/x", 1000) == 404
    assert status("/openai/v1/" + "x" * 1000, 1000) == 404
    assert status("/login", 10 * mb + 1, "") == 413
    big = django_site.request("/openai/v1/chat/completions", KEY, b"x" * (24 * mb))
    assert big.json()["size"] == 24 * mb


def test_a_django_stream_is_closed_when_its_client_leaves(django_site):
    with django_site.connect(receive_buffer=4096) as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(1000)
        time.sleep(0.3)
    assert wait_for(lambda: django_site.request("/login/").json()["closed"] == 1, 2)
