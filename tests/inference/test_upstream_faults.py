"""An upstream that misbehaves: one clear error each, no secret told, memory bounded, others unharmed."""

from __future__ import annotations

import logging
import resource
import socket
import time
from urllib.parse import urlsplit

import pytest

from inference.contracts.chat import ChatInput
from inference.runners import upstream as module
from inference.runners.base import Delta, Ended, RunnerConfig
from inference.runners.upstream import UpstreamRunner
from tests.inference.recorder import Recorder
from tests.inference.upstream_standin import NAME, delta, endless, standin, streaming

CHAT, EMBEDDINGS, RERANK = "openai/chat-completion", "openai/embeddings", "openai/rerank"
PATH = "/v1/chat/completions"
REQUEST = ChatInput(messages=[{"role": "user", "content": "Hello"}]).as_dict()
KEY = "sk-upstream-secret-123"
MIB = 1 << 20


@pytest.fixture
def server():
    with standin() as found:
        yield found


@pytest.fixture
def away():
    """Reasons that Runners gave for leaving."""
    return []


@pytest.fixture
def runners(server, monkeypatch, away):
    monkeypatch.setenv("TEST_UPSTREAM_KEY", KEY)
    made = []

    def make(*tasks, **options):
        options = {"model": NAME, "key_env": "TEST_UPSTREAM_KEY", **options}
        config = RunnerConfig("our/model", server.url, slots=8, options=options, tasks=tasks)
        runner = UpstreamRunner(config)
        runner.on_away(away.append)
        runner.load(lambda fraction, text: None)
        seen = Recorder()
        runner.start(seen)
        made.append(runner)
        return runner, seen

    yield make
    for runner in made:
        runner.unload()


def ask(runner, seen, task=CHAT, request=REQUEST, name="r"):
    runner.submit(name, task, request, salt="org")
    return seen.end(name)


def told(failed):
    return failed.code, str(failed.message), failed.retryable, failed.retry_after


UNREADABLE = (
    "worker_error",
    "The model's server gave an answer that cannot be read",
    False,
    None,
)
TOO_LARGE = (
    "worker_error",
    "The model's server gave an answer that is too large",
    False,
    None,
)
CUT = ("worker_error", "The model's server broke off its answer", True, None)
REFUSED = ("worker_error", "The model's server refused the request", False, None)
FAILED = ("worker_error", "The model's server failed on this request", True, None)
SLOW = ("timeout", "The model's server did not answer in time", True, None)


def busy(seconds):
    return "model_unavailable", "The model is busy", True, seconds


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (401, {}, REFUSED),
        (402, {}, REFUSED),
        (403, {}, REFUSED),
        (404, {}, REFUSED),
        (418, {}, REFUSED),
        (301, {"Location": "/v1/elsewhere"}, REFUSED),
        (307, {"Location": "/v1/elsewhere"}, REFUSED),
        (429, {"Retry-After": "17"}, busy(17)),
        (429, {"Retry-After": "1000000"}, busy(59)),
        (429, {"Retry-After": "soon"}, busy(5)),
        (503, {}, busy(5)),
        (500, {}, FAILED),
        (502, {}, FAILED),
        (504, {}, SLOW),
        (408, {}, SLOW),
    ],
)
def test_each_status_has_its_error(server, runners, status, headers, expected):
    secret = {"error": {"message": f"Incorrect API key {KEY} at {server.url}"}}
    server.answers[PATH] = lambda handler, body: handler.json(secret, status, **headers)
    server.answers["/v1/elsewhere"] = streaming(delta("a", reason="stop"))
    runner, seen = runners()
    assert told(ask(runner, seen)) == expected
    assert {one.path for one in server.posts()} == {PATH}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_is_passed_on_without_the_upstreams_names(server, runners, status):
    message = f"max_tokens is too large (key {KEY}, {server.url}, {urlsplit(server.url).netloc})\n"
    error = {"message": message, "code": "invalid_value", "param": "max_tokens"}
    server.answers[PATH] = lambda handler, body: handler.json({"error": error}, status)
    runner, seen = runners()
    failed = ask(runner, seen)
    assert failed.message == "max_tokens is too large (key …, …, …)"
    assert (failed.code, failed.param, failed.retryable) == ("invalid_value", "max_tokens", False)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (
            {"object": "error", "message": "This model's maximum context length is 8", "code": 400},
            "context_length_exceeded",
            "This model's maximum context length is 8",
        ),
        ({"error": "Input is empty", "error_type": "Empty"}, "invalid_value", "Input is empty"),
        ({"error": {"message": "x", "code": "timeout"}}, "invalid_value", "x"),
        ({"detail": [1]}, "invalid_value", "The model refused the request"),
        ([], "invalid_value", "The model refused the request"),
        ({"error": {"message": "y" * 9_000}}, "invalid_value", "y" * 500),
    ],
)
def test_refusals_of_every_form(server, runners, body, code, message):
    server.answers[PATH] = lambda handler, _: handler.json(body, 400)
    runner, seen = runners()
    failed = ask(runner, seen)
    assert (failed.code, failed.message) == (code, message)


def sending(*chunks, end=True):
    def answer(handler, body):
        handler.begin_stream()
        for chunk in chunks:
            handler.chunk(chunk)
        if end:
            handler.end_stream()
        else:
            handler.cut()

    return answer


GARBAGE = [
    (b"data: {nonsense\n\n", UNREADABLE),
    (b"data: []\n\n", UNREADABLE),
    (b"data: {}\n\n", UNREADABLE),
    (b"data: " + b"[" * 100_000 + b"\n\n", UNREADABLE),
    (b'data: {"choices": [7]}\n\n', UNREADABLE),
    (b'data: {"choices": [{"index": 5, "delta": {}}]}\n\n', UNREADABLE),
    (b'data: {"choices": [{"index": 0, "delta": {"content": 7}}]}\n\n', UNREADABLE),
    (b'data: {"choices": [{"index": 0, "delta": {"tool_calls": 7}}]}\n\n', UNREADABLE),
    (b'data: {"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}\n\n', UNREADABLE),
    (b'data: {"choices": [{"delta": {}, "logprobs": {"content": [7]}}]}\n\n', UNREADABLE),
    (b'data: {"choices": NaN}\n\n', UNREADABLE),
    (b'data: {"error": {"message": "CUDA error"}}\n\n', FAILED),
    (b"<html>hello</html>\n\n", CUT),
    (b"", CUT),
    (b"data: [DONE]\n\n", CUT),
]


@pytest.mark.parametrize(("sent", "expected"), GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_an_error_of_this_request_alone(server, runners, away, sent, expected):
    server.answers[PATH] = sending(sent) if sent else sending()
    runner, seen = runners()
    assert told(ask(runner, seen, name="a")) == expected
    server.answers[PATH] = streaming(delta("b", reason="stop"))
    assert isinstance(ask(runner, seen, name="b"), Ended)
    assert away == []


def test_a_stream_that_is_cut_is_never_an_answer(server, runners):
    server.answers[PATH] = sending(
        b'data: {"choices": [{"index": 0, "delta": {"content": "half"}}]}\n\n', end=False
    )
    runner, seen = runners()
    failed = ask(runner, seen)
    assert seen.text("r") == "half"
    assert told(failed) == CUT
    assert failed.units.completion_tokens == 1


def test_a_refusal_within_the_stream_is_the_callers(server, runners):
    server.answers[PATH] = sending(
        b'data: {"error": {"message": "too long", "type": "BadRequestError", "code": 400}}\n\n'
    )
    runner, seen = runners()
    failed = ask(runner, seen)
    assert (failed.code, failed.message) == ("invalid_value", "too long")


def test_packed_answers_are_not_unpacked(server, runners):
    server.answers[PATH] = lambda handler, body: handler.raw(b"x", Content_Encoding="gzip")
    runner, seen = runners()
    assert told(ask(runner, seen)) == UNREADABLE
    assert server.posts()[0].headers["accept-encoding"] == "identity"


def test_silence_is_given_up(server, runners):
    server.answers[PATH] = lambda handler, body: time.sleep(3)
    runner, seen = runners(read_seconds=0.3)
    assert told(ask(runner, seen)) == SLOW


def flood(handler, body):
    """One event without an end, in pieces."""
    handler.begin_stream()
    handler.chunk(b"data: ")
    for _ in range(400):
        handler.chunk(b"x" * MIB)


def much(handler, body):
    """Events without an end."""
    handler.begin_stream()
    for _ in range(400):
        handler.event(delta("x" * MIB))


def vast(handler, body):
    """An answer that says it is huge."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(400 * MIB))
    handler.end_headers()
    for _ in range(400):
        handler.wfile.write(b" " * MIB)


@pytest.mark.parametrize("answer", [flood, much, vast])
@pytest.mark.parametrize(("task", "path"), [(CHAT, PATH), (EMBEDDINGS, "/v1/embeddings")])
def test_an_answer_without_an_end_takes_bounded_memory(server, runners, answer, task, path):
    server.answers[path] = answer
    runner, seen = runners(most_answer_mb=8)
    request = REQUEST if task == CHAT else {"input": ["a"]}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert told(ask(runner, seen, task, request)) == TOO_LARGE
    assert server.left.wait(10)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        [{"index": 0, "embedding": "AAAA"}],
        [{"index": 0, "embedding": "*"}],
        [{"index": 0, "embedding": []}],
        [{"index": 0, "embedding": [[1.0]]}],
        [{"index": 0, "embedding": ["a"]}],
        [{"index": 0, "embedding": [1e300]}],
        [{"index": 1, "embedding": [1.0]}],
        [{"embedding": [1.0]}],
        [{"index": 0}],
        [{"index": 0, "embedding": [1.0]}] * 2,
        [7],
    ],
)
def test_vectors_that_are_none_are_not_passed_on(server, runners, data):
    server.answers["/v1/embeddings"] = lambda handler, body: handler.json({"data": data})
    runner, seen = runners()
    assert told(ask(runner, seen, EMBEDDINGS, {"input": ["a"]})) == UNREADABLE


@pytest.mark.parametrize("score", [None, "0.5", 1.5, -0.1, True, [1]])
def test_scores_that_are_none_are_not_passed_on(server, runners, score):
    results = [{"index": 0, "relevance_score": score}]
    server.answers["/v1/rerank"] = lambda handler, body: handler.json({"results": results})
    runner, seen = runners()
    request = {"query": "q", "documents": ["a"]}
    assert told(ask(runner, seen, RERANK, request)) == UNREADABLE


def test_neither_the_key_nor_cookies_show_anywhere(server, runners, caplog):
    caplog.set_level(logging.DEBUG)

    def answer(handler, body):
        handler.json({"error": KEY}, 500, Set_Cookie="tenant=first; Path=/")

    server.answers[PATH] = answer
    runner, seen = runners()
    failures = [ask(runner, seen, name=str(number)) for number in range(2)]
    assert all(KEY not in repr(failed) for failed in failures)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("inference")]
    assert ours
    assert KEY not in "\n".join(ours)
    assert [one.headers.get("authorization") for one in server.posts()] == [f"Bearer {KEY}"] * 2
    assert [one.headers.get("cookie") for one in server.posts()] == [None, None]


# -- being away ---------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(module, "STRIKE_SECONDS", 0.05)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_an_upstream_that_goes_away_has_the_runner_leave(runners, server, away, hasty):
    port = free_port()
    with standin(port=port) as other:
        other.answers[PATH] = endless()
        runner = UpstreamRunner(RunnerConfig("m", other.url, options={"model": NAME}))
        runner.on_away(away.append)
        runner.load(lambda fraction, text: None)
        seen = Recorder()
        runner.start(seen)
    failed = ask(runner, seen)
    assert told(failed) == (
        "model_unavailable",
        "The model cannot be reached at the moment",
        True,
        5,
    )
    deadline = time.monotonic() + 20
    while not away and time.monotonic() < deadline:
        time.sleep(0.02)
    assert away == ["The upstream cannot be reached"]
    runner.unload()


def test_a_refused_key_has_the_runner_leave(server, runners, away, hasty):
    runner, seen = runners()
    server.answers[PATH] = lambda handler, body: handler.json({}, 401)
    server.models_status = 401
    assert told(ask(runner, seen)) == REFUSED
    deadline = time.monotonic() + 20
    while not away and time.monotonic() < deadline:
        time.sleep(0.02)
    assert away == ["The upstream does not accept the key"]


def test_what_is_under_way_fails_when_it_leaves(server, runners, away, hasty):
    server.answers[PATH] = lambda handler, body: time.sleep(5)
    runner, seen = runners()
    runner.submit("waits", CHAT, REQUEST, salt="")
    server.answers["/v1/rerank"] = lambda handler, body: handler.json({}, 500)
    server.models_status = 500
    assert told(ask(runner, seen, RERANK, {"query": "q", "documents": ["a"]})) == FAILED
    assert seen.end("waits").code == "model_unavailable"
    assert away == ["The upstream cannot be reached"]


def test_one_bad_look_is_no_reason_while_answers_come(server, runners, away, hasty):
    server.answers[PATH] = endless(pause=0.005)
    runner, seen = runners()
    runner.submit("long", CHAT, REQUEST, salt="")
    seen.wait_for("long", Delta, 2)
    server.models_status = 500
    server.answers["/v1/rerank"] = lambda handler, body: handler.json({}, 500)
    ask(runner, seen, RERANK, {"query": "q", "documents": ["a"]})
    before = len(seen.by_id["long"])
    seen.wait_for("long", Delta, before + 100)
    assert away == []
    runner.cancel("long")
    seen.end("long")
