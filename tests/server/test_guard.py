"""The guard in front of Daphne, on real sockets."""

import base64
import contextlib
import json
import os
import signal
import socket
import struct
import time

import pytest
from guarded_site import Answer, read_answer, running, wait_for

KEY = "Authorization: Bearer csl_x\r\n"


def error_of(answer: Answer) -> dict:
    """Return the error of an envelope, after checking what every one of them has."""
    body = answer.json()
    assert set(body["error"]) >= {"code", "message", "type"}
    assert answer.headers["content-type"] == "application/json"
    assert len(answer.headers["x-request-id"]) == 32
    return body["error"]


def post(path: str, headers: str, length: object) -> bytes:
    line = f"Content-Length: {length}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}{line}\r\n".encode()


# Refused before the body is read


def test_a_body_over_the_cap_is_refused_from_its_length_alone(site):
    answer = site.send(post("/openai/v1/echo", KEY, 100_001))
    assert answer.status == 413
    assert error_of(answer) == {
        "code": "payload_too_large",
        "message": "The request body is too large",
        "type": "invalid_request_error",
        "param": None,
    }
    assert answer.headers["connection"] == "close"


def test_a_body_at_the_cap_is_taken(site):
    answer = site.request("/openai/v1/echo", KEY, b"x" * 100_000)
    assert answer.json()["size"] == 100_000


@pytest.mark.parametrize("path", ["/openai/v1/echo", "/fal/echo", "/api/echo"])
def test_a_body_without_a_key_is_refused_on_api_paths(site, path):
    answer = site.send(post(path, "", 50))
    assert answer.status == 401
    error = error_of(answer)
    assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")
    assert ("detail" in answer.json()) == path.startswith("/fal")
    assert ("param" in error) == path.startswith("/openai")


def test_a_body_with_what_cannot_be_a_key_is_refused(site):
    assert site.send(post("/api/echo", "Authorization: Bearer junk\r\n", 50)).status == 401
    assert site.send(post("/api/echo", "Authorization: \r\n", 50)).status == 401


def test_a_body_without_a_key_is_taken_elsewhere(site):
    assert site.request("/echo", "", b"x" * 500_000).json()["size"] == 500_000


def test_other_paths_have_a_cap_too(site):
    assert site.send(post("/echo", "", 10_000_001)).status == 413


def test_a_body_for_an_unknown_route_is_refused(site):
    answer = site.send(post("/openai/nothing", KEY, 10))
    assert answer.status == 404
    assert error_of(answer)["code"] == "not_found"


def test_the_path_is_judged_decoded_and_without_its_query(site):
    assert site.send(post("/%6fpenai/v1/echo?x=/echo", "", 10)).status == 401


@pytest.mark.parametrize("length", ["abc", "-1", "+5", "1_0", "0x10", "1.5", ""])
def test_a_malformed_length_is_a_bad_request(site, length):
    answer = site.send(post("/openai/v1/echo", KEY, length))
    assert answer.status == 400
    assert error_of(answer)["param"] is None


def test_a_length_of_five_thousand_digits_is_too_large(site):
    assert site.send(post("/openai/v1/echo", KEY, "9" * 5000)).status == 413


@pytest.mark.parametrize("extra", ["Content-Length: 6\r\n", "Transfer-Encoding: chunked\r\n"])
def test_two_body_lengths_are_a_bad_request(site, extra):
    assert site.send(post("/openai/v1/echo", KEY + extra, 5)).status == 400


def test_a_chunked_body_is_cut_at_the_cap(site):
    head = f"POST /openai/v1/echo HTTP/1.1\r\nHost: x\r\n{KEY}Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    before = site.events()["bodies"]
    assert site.send(head.encode() + chunk * 200).status == 413
    assert site.events()["bodies"] == before
    assert site.send(head.encode() + chunk * 6 + b"0\r\n\r\n").json()["size"] == 6 * 0x4000


def test_an_expected_continue_is_not_given_to_a_refused_body(site):
    answer = site.send(post("/openai/v1/echo", "Expect: 100-continue\r\n", 10))
    assert answer.status == 401
    with site.connect() as sock:
        sock.sendall(post("/openai/v1/echo", KEY + "Expect: 100-continue\r\n", 2))
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"{}")
        assert Answer(read_answer(sock)).json()["size"] == 2


@pytest.mark.parametrize("chunked", [False, True])
def test_an_anonymous_post_of_512_mb_costs_no_memory(site, chunked):
    before = site.rss()
    block = b"\0" * (1 << 20)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {512 << 20}"
    started = time.monotonic()
    most = 0.0
    with site.connect() as sock:
        sock.sendall(f"POST /openai/v1/echo HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for number in range(512):
                sock.sendall(b"100000\r\n" + block + b"\r\n" if chunked else block)
                if number % 16 == 0:
                    most = max(most, site.rss())
        answer = Answer(read_answer(sock))
    assert max(most, site.rss()) - before < 20
    assert answer.status in (401, 0)
    assert time.monotonic() - started < 5


def test_a_refused_client_that_sends_on_still_gets_its_answer(site):
    with site.connect() as sock:
        sock.sendall(post("/openai/v1/echo", KEY, 30_000_000))
        for _ in range(30):
            sock.sendall(b"\0" * 1_000_000)
        assert Answer(read_answer(sock)).status == 413


# Errors that the server makes itself


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /openai/%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: a\x0bb\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 150 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + (b"X-A: " + b"b" * 5000 + b"\r\n") * 9 + b"\r\n", 431),
    ],
)
def test_what_cannot_be_parsed_is_answered_with_the_envelope(site, raw, status):
    answer = site.send(raw)
    assert answer.status == status
    assert error_of(answer)["type"] == "invalid_request_error"


def test_a_crashed_app_is_answered_at_once(site):
    started = time.monotonic()
    answer = site.request("/openai/crash", KEY)
    assert time.monotonic() - started < 0.3
    assert answer.status == 500
    assert error_of(answer)["code"] == "internal_error"
    assert b"boom" not in answer.raw


def test_a_crash_after_the_start_closes_without_an_end(site):
    started = time.monotonic()
    with site.connect() as sock:
        sock.sendall(b"GET /crash-late HTTP/1.1\r\nHost: x\r\n\r\n")
        raw = b""
        while chunk := sock.recv(65536):
            raw += chunk
    assert time.monotonic() - started < 0.5
    assert b"some" in raw
    assert not raw.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["/split", "/split-stream"])
def test_a_line_break_in_an_answer_header_is_a_server_error(site, path):
    answer = site.request(path)
    assert answer.status == 500
    assert error_of(answer)["code"] == "internal_error"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(("claimed", "body"), [(3, b"123"), (9, b"12345")])
def test_an_answer_of_another_length_than_it_claims_ends_the_connection(site, claimed, body):
    with site.connect() as sock:
        sock.sendall(f"GET /wrong-length?{claimed} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        raw = b""
        while chunk := sock.recv(1000):
            raw += chunk
    assert Answer(raw).body == body


def test_an_app_that_does_not_answer_in_time_is_ended(hasty):
    answer = hasty.request("/sleep")
    assert answer.status == 504
    assert error_of(answer)["code"] == "timeout"


# Request ids and headers


def test_every_request_has_an_id_of_its_own(site):
    answer = site.request("/echo", "X-Request-Id: chosen\r\n")
    told = answer.json()
    assert answer.headers["x-request-id"] == told["request_id"] != "chosen"
    assert len(told["request_id"]) == 32
    assert ["x-client-request-id", "chosen"] in told["headers"]
    assert "x-request-id" not in [name for name, _ in told["headers"]]
    assert site.request("/echo").headers["x-request-id"] != told["request_id"]


def test_an_id_set_by_the_app_is_not_doubled(site):
    answer = site.request("/own-id")
    assert answer.headers["x-request-id"] == "mine"
    assert answer.names.count("x-request-id") == 1


def test_headers_that_spoof_are_dropped(site):
    spoofed = "Daphne-Root-Path: /openai\r\nX_Real_Ip: 1.2.3.4\r\nRemote_User: root\r\nX-Ok: 1\r\n"
    told = site.request("/echo", spoofed).json()
    assert told["root_path"] == ""
    assert told["path"] == "/echo"
    assert [name for name, _ in told["headers"]] == ["host", "x-ok"]


# Connections


def test_a_connection_is_kept_for_many_requests(site):
    with site.connect() as sock:
        for _ in range(3):
            sock.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = Answer(read_answer(sock))
            assert (answer.body, answer.headers["content-length"]) == (b"hello", "5")
        sock.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        wait_for(lambda: False, 0.2)
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


# WebSockets


def upgrade(site, path: str, headers: str = "") -> tuple[socket.socket, bytes]:
    sock = site.connect()
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n".encode()
    )
    raw = b""
    while b"\r\n\r\n" not in raw and (chunk := sock.recv(4096)):
        raw += chunk
    return sock, raw


def frame(payload: bytes) -> bytes:
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xff" + struct.pack(">Q", size)
    return b"\x81" + length + b"\0\0\0\0" + payload


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    stream = sock.makefile("rb")
    kind, size = stream.read(2)
    if size == 126:
        (size,) = struct.unpack(">H", stream.read(2))
    return kind & 15, stream.read(size)


def test_a_socket_speaks_and_ignores_spoofed_headers(site):
    sock, head = upgrade(site, "/ws", "Daphne-Root-Path: /evil\r\nX-Request-Id: chosen\r\n")
    with sock:
        assert head.startswith(b"HTTP/1.1 101")
        sock.sendall(frame(b"hi"))
        text, root_path, request_id = json.loads(read_frame(sock)[1])
    assert (text, root_path) == ("hi", "")
    assert f"x-request-id: {request_id}".encode() in head.lower()
    assert len(request_id) == 32


def test_a_socket_frame_over_the_cap_closes_with_1009(site):
    before = site.rss()
    sock, _ = upgrade(site, "/ws")
    with sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(frame(b"x" * 3_000_000))
        kind, payload = read_frame(sock)
    assert (kind, payload[:2]) == (8, struct.pack(">H", 1009))
    assert site.rss() - before < 20


@pytest.mark.parametrize(("path", "status"), [("/ws/no", 403), ("/ws/crash", 500)])
def test_a_refused_socket_gets_the_envelope(site, path, status):
    sock, raw = upgrade(site, path)
    with sock:
        sock.settimeout(1)
        raw += read_answer(sock)
    answer = Answer(raw)
    assert answer.status == status
    error_of(answer)


def test_a_socket_that_nobody_reads_is_cut():
    with running(unsent_seconds=1, close_seconds=0.1) as site:
        before = site.rss()
        sock, _ = upgrade(site, "/ws/flood")
        with sock:
            time.sleep(0.4)
            sent = site.events()["sent"]
            time.sleep(0.2)
            assert site.events()["sent"] == sent
            assert site.rss() - before < 10
            time.sleep(1.4)
            with contextlib.suppress(ConnectionError):
                while sock.recv(1 << 20):
                    pass


# The end


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
        assert site.process.wait(3) == 0
        assert time.monotonic() - started < 2


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
