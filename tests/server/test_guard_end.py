"""How a guarded server ends, and that it logs nothing of a request."""

import signal
import time

import pytest
from guarded_site import Answer, read_answer, running, wait_for


def test_sigterm_lets_an_open_stream_finish():
    with running(drain_seconds=5) as site, site.connect() as sock, site.connect() as idle:
        idle.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        read_answer(idle)
        sock.sendall(b"GET /ticks?8 HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(1000)
        site.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            wait_for(lambda: site.connect().close(), 1)
        raw = b""
        while chunk := sock.recv(1000):
            raw += chunk
        assert raw.endswith(b"end\n\r\n0\r\n\r\n")
        assert site.process.wait(2) == 0


def test_sigterm_ends_a_stream_that_goes_on():
    with running(drain_seconds=0.5) as site, site.connect() as sock, site.connect() as waits:
        sock.sendall(b"GET /ticks HTTP/1.1\r\nHost: x\r\n\r\n")
        waits.sendall(b"GET /sleep HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(1000)
        started = time.monotonic()
        site.process.send_signal(signal.SIGTERM)
        raw = b""
        while chunk := sock.recv(1000):
            raw += chunk
        assert raw.endswith(b"cut\n\r\n0\r\n\r\n")
        assert Answer(read_answer(waits)).status == 503
        assert site.process.wait(10) == 0
        assert time.monotonic() - started < 10


def test_a_second_signal_ends_at_once():
    with running() as site, site.connect() as sock:
        sock.sendall(b"GET /ticks HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(1000)
        site.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert site.process.poll() is None
        site.process.send_signal(signal.SIGINT)
        site.process.wait(1)


def test_a_kept_connection_sees_that_the_server_drains():
    with running(drain_seconds=3) as site, site.connect() as sock:
        sock.sendall(b"GET /ech")
        time.sleep(0.1)
        site.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        sock.sendall(b"o HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = Answer(read_answer(sock))
        assert answer.json()["draining"] is True
        assert answer.headers["connection"] == "close"


def test_nothing_of_a_request_is_logged():
    import subprocess
    import sys

    from guarded_site import ENVIRONMENT, HERE, Site

    command = [sys.executable, str(HERE / "guarded_application.py")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    site = Site(process, int(process.stdout.readline()))
    for path in ("/echo?secret=canary", "/crash?secret=canary"):
        site.request(path, "Authorization: Bearer canary\r\n")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=5)
    assert out == b""
    assert b"canary" not in err
    assert b"boom" in err
