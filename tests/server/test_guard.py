"""The guard in front of Daphne, on real sockets."""

import contextlib
import time

import pytest
from guarded_site import KEY, Answer, error_of, post, read_answer

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
    assert time.monotonic() - started < 5
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
    assert time.monotonic() - started < 5
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
