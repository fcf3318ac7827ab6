"""How long the guard bears with a connection, and what an app hears of its end."""

import contextlib
import socket
import time

from guarded_site import Answer, post, read_answer, running, wait_for


def test_a_connection_is_kept_for_many_requests(site):
    with site.connect() as sock:
        for _ in range(3):
            sock.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = Answer(read_answer(sock))
            assert (answer.body, answer.headers["content-length"]) == (b"hello", "5")
        sock.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        time.sleep(0.2)
        assert sock.recv(65536).count(b"hello") == 3
        sock.sendall(b"HEAD /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"hello" not in sock.recv(65536)
        assert sock.recv(1) == b""


def test_a_half_sent_request_is_closed(hasty):
    for half in (b"GET / HT", b"GET / HTTP/1.1\r\nX: ", post("/echo", "", 10) + b"12345"):
        assert hasty.send(half).status == 408


def test_a_request_sent_byte_by_byte_is_closed(hasty):
    started = time.monotonic()
    with hasty.connect() as sock, contextlib.suppress(ConnectionError):
        sock.settimeout(0.05)
        raw = b""
        for byte in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50:
            sock.sendall(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                raw += sock.recv(1000)
            if raw:
                break
    assert raw.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - started < 1.5


def test_an_idle_connection_is_closed(hasty):
    with hasty.connect() as sock:
        sock.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        read_answer(sock)
        assert sock.recv(1) == b""


def test_connections_of_one_address_are_capped(hasty):
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(hasty.connect()) for _ in range(61)]
        assert Answer(read_answer(socks[60])).status == 429
    assert wait_for(lambda: hasty.request("/hello").status == 200)


def test_bodies_held_at_one_time_have_a_budget(hasty):
    with hasty.connect() as first, hasty.connect() as second:
        for sock in (first, second):
            sock.sendall(post("/echo", "", 9_000_000) + b"x" * 2_000_000)
        answers = [Answer(read_answer(sock)).status for sock in (first, second)]
    assert 503 in answers
    assert wait_for(lambda: hasty.request("/echo", "", b"x" * 1000).status == 200)


# Clients that leave or do not read


def test_an_app_that_waits_hears_of_the_disconnect(site):
    before = site.events()["disconnects"]
    with site.connect() as sock:
        sock.sendall(b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.1)
    assert wait_for(lambda: site.events()["disconnects"] == before + 1, 0.5)


def test_a_half_closed_client_counts_as_gone(site):
    before = site.events()["disconnects"]
    with site.connect() as sock:
        sock.sendall(b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert wait_for(lambda: site.events()["disconnects"] == before + 1, 0.5)


def test_an_app_that_did_not_listen_hears_of_it_later(site):
    before = site.events()["disconnects"]
    with site.connect() as sock:
        sock.sendall(b"GET /deaf HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.05)
    assert wait_for(lambda: site.events()["disconnects"] == before + 1, 1.5)


def test_a_stream_without_a_client_ends(site):
    before = site.events()["cancelled"]
    with site.connect() as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(1000)
    assert wait_for(lambda: site.events()["cancelled"] == before + 1, 1)


def test_fifty_streams_that_nobody_reads_are_held_and_cut():
    with running(unsent_seconds=2.0) as site, contextlib.ExitStack() as stack:
        site.request("/hello")
        before = site.rss()
        for _ in range(50):
            sock = stack.enter_context(site.connect(receive_buffer=4096))
            sock.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1.2)
        sent = site.events()["sent"]
        assert site.rss() - before < 50
        time.sleep(0.2)
        assert site.events()["sent"] == sent
        assert wait_for(lambda: site.events()["cancelled"] == 50, 4)


def test_a_slow_reader_of_a_big_answer_is_not_cut(hasty):
    with hasty.connect(receive_buffer=65536) as sock:
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        size = 0
        while size < 5_000_000 and (chunk := sock.recv(65536)):
            size += len(chunk)
            time.sleep(0.02)
    assert size > 5_000_000


def test_a_big_answer_that_nobody_reads_is_cut(hasty):
    with hasty.connect(receive_buffer=4096) as sock:
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        time.sleep(1.6)
        sock.settimeout(2)
        size = 0
        with contextlib.suppress(ConnectionError):
            while chunk := sock.recv(1 << 20):
                size += len(chunk)
    assert size < 5_000_000
