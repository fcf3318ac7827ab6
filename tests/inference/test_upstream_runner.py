"""The upstream Runner against a small server: what it sends, what it makes of answers, cancelling."""

from __future__ import annotations

import base64
import struct
import threading
import time

import pytest

from inference.contracts.chat import ChatInput, Sampling
from inference.runners.base import (
    ARGUMENTS,
    CONTENT,
    REASONING,
    Busy,
    Delta,
    Ended,
    InvalidInput,
    LoadError,
    RunnerConfig,
    Units,
)
from inference.runners.upstream import UpstreamRunner
from tests.inference.recorder import Recorder
from tests.inference.upstream_standin import NAME, delta, endless, standin, streaming, usage

CHAT, COMPLETION = "openai/chat-completion", "openai/completion"
EMBEDDINGS, RERANK, SCORE = "openai/embeddings", "openai/rerank", "openai/score"
PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello there"}]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


@pytest.fixture
def server():
    with standin() as found:
        yield found


@pytest.fixture
def runners(server):
    made = []

    def make(*tasks, model_id="our/model", **options):
        config = RunnerConfig(
            model_id, server.url, slots=8, options={"model": NAME, **options}, tasks=tasks
        )
        runner = UpstreamRunner(config)
        runner.load(lambda fraction, text: None)
        seen = Recorder()
        runner.start(seen)
        made.append(runner)
        return runner, seen

    yield make
    for runner in made:
        runner.unload()


def chat(**wishes):
    return ChatInput(**{"messages": HELLO, **wishes}).as_dict()


def ask(runner, seen, task=CHAT, request=None, name="r"):
    runner.submit(name, task, request or chat(), salt="org")
    return seen.end(name)


def without_time(units: Units) -> Units:
    assert units.compute_ms >= 0
    return Units(**{**{n: getattr(units, n) for n in Units.__dataclass_fields__}, "compute_ms": 0})


# -- chat ---------------------------------------------------------------------------------------


def test_a_streamed_answer_becomes_deltas_and_the_upstreams_usage(server, runners):
    server.answers[PATH] = streaming(
        delta(role="assistant"),
        delta(reasoning_content="Hm"),
        delta("Hel"),
        delta("lo"),
        delta(reason="length"),
        usage(
            7,
            5,
            prompt_tokens_details={"cached_tokens": 3},
            completion_tokens_details={"reasoning_tokens": 2},
        ),
    )
    runner, seen = runners()
    ended = ask(runner, seen)
    said = [(one.kind, one.text) for one in seen.by_id["r"] if isinstance(one, Delta)]
    assert said == [(REASONING, "Hm"), (CONTENT, "Hel"), (CONTENT, "lo")]
    assert (ended.reason, without_time(ended.units)) == (
        "length",
        Units(prompt_tokens=7, completion_tokens=5, cached_tokens=3, reasoning_tokens=2),
    )
    (sent,) = server.posts()
    assert sent.body == {
        "messages": HELLO,
        "model": NAME,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_every_wish_is_sent_in_openais_words(server, runners):
    server.answers[PATH] = streaming(
        *[delta("x", index=index, reason="stop") for index in range(2)]
    )
    runner, seen = runners(images=True, continuous_usage=True, cache_salt=True)
    tool = {"type": "function", "function": {"name": "look"}}
    called = {"type": "function", "function": {"name": "look", "arguments": {"a": 1}}}
    ask(
        runner,
        seen,
        request=chat(
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What?"},
                        {"type": "image", "data": PNG},
                    ],
                },
                {"role": "assistant", "content": None, "tool_calls": [called]},
                {"role": "tool", "content": "ok", "tool_call_id": "call_0"},
            ],
            sampling=Sampling(temperature=0.0, top_p=0.5, top_k=3, seed=0, presence_penalty=0.5),
            max_tokens=9,
            stop=("a", "b"),
            ignore_eos=True,
            n=2,
            top_logprobs=0,
            logit_bias={5: -1.0},
            response_format={"type": "json_schema", "schema": {"type": "object"}, "strict": True},
            tools=(tool,),
            tool_choice="=look",
            parallel_tool_calls=False,
            template={"enable_thinking": True},
        ),
    )
    (sent,) = server.posts()
    salt = sent.body.pop("cache_salt")
    assert len(salt) == 32
    assert sent.body == {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What?"},
                    {
                        "type": "image_url",
                        "image_url": {
                            "url": "data:image/png;base64," + base64.b64encode(PNG).decode()
                        },
                    },
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_0",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"a": 1}'},
                    }
                ],
            },
            {"role": "tool", "content": "ok", "tool_call_id": "call_0"},
        ],
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 3,
        "seed": 0,
        "presence_penalty": 0.5,
        "max_tokens": 9,
        "stop": ["a", "b"],
        "ignore_eos": True,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 0,
        "logit_bias": {"5": -1.0},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
        "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
        "chat_template_kwargs": {"enable_thinking": True},
        "model": NAME,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


@pytest.mark.parametrize(
    ("wish", "sent"),
    [
        ({"type": "regex", "pattern": "a+"}, {"structured_outputs": {"regex": "a+"}}),
        ({"type": "choice", "choices": ["a"]}, {"structured_outputs": {"choice": ["a"]}}),
        ({"type": "grammar", "grammar": "g"}, {"structured_outputs": {"grammar": "g"}}),
        ({"type": "json_object"}, {"response_format": {"type": "json_object"}}),
    ],
)
def test_formats_beyond_openais_are_vllms(server, runners, wish, sent):
    server.answers[PATH] = streaming(delta("x", reason="stop"))
    runner, seen = runners()
    ask(runner, seen, request=chat(response_format=wish))
    assert sent.items() <= server.posts()[0].body.items()


def test_tool_calls_choices_and_log_probabilities_keep_their_places(server, runners):
    opened = [{"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"a"'}}]
    more = [{"index": 0, "function": {"arguments": ": 1}"}}]
    shown = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    server.answers[PATH] = streaming(
        delta(tool_calls=opened),
        {"choices": [{"index": 1, "delta": {"content": "a"}, "logprobs": {"content": [shown]}}]},
        delta(tool_calls=more),
        delta(index=1, reason="stop"),
        delta(reason="tool_calls"),
        usage(3, 4),
    )
    runner, seen = runners()
    ended = ask(runner, seen, request=chat(n=2, top_logprobs=0))
    assert [
        (one.choice, one.kind, one.opens, one.text, one.logprobs, one.reason)
        for one in seen.by_id["r"]
        if isinstance(one, Delta)
    ] == [
        (0, ARGUMENTS, ("c1", "look"), '{"a"', (), None),
        (1, CONTENT, None, "a", (shown,), None),
        (0, ARGUMENTS, None, ": 1}", (), None),
        (1, CONTENT, None, "", (), "stop"),
        (0, CONTENT, None, "", (), "tool_calls"),
    ]
    assert isinstance(ended, Ended)


def test_completions_have_their_own_endpoint(server, runners):
    old = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5, "b": -2.0}]}
    server.answers["/v1/completions"] = streaming(
        {"choices": [{"index": 0, "text": "a", "logprobs": old, "finish_reason": "length"}]},
        {"choices": [{"index": 1, "text": "b", "finish_reason": "stop"}]},
        usage(4, 2),
    )
    runner, seen = runners()
    request = ChatInput(
        messages=[], prompts=("Once", [1, 2, 3]), echo=True, top_logprobs=2, max_tokens=1
    ).as_dict()
    ask(runner, seen, COMPLETION, request)
    assert seen.by_id["r"][1].logprobs == (
        {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]},
                {"token": "b", "logprob": -2.0, "bytes": [98]},
            ],
        },
    )
    body = server.posts()[0].body
    assert (body["prompt"], body["echo"], body["logprobs"]) == (["Once", [1, 2, 3]], True, 2)


def test_a_server_that_does_not_stream_is_read_whole(server, runners):
    message = {"role": "assistant", "content": "four bytes each"}
    server.answers[PATH] = lambda handler, body: handler.json(
        {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    )
    runner, seen = runners()
    ended = ask(runner, seen)
    assert seen.text("r") == "four bytes each"
    # nobody counted: four bytes to a token, and four tokens around the message
    assert without_time(ended.units) == Units(prompt_tokens=4 + 1 + 3, completion_tokens=4)


def test_without_usage_each_piece_counts_as_a_token(server, runners):
    server.answers[PATH] = streaming(delta("a"), delta("b"), delta("c", reason="stop"))
    runner, seen = runners()
    assert ask(runner, seen).units.completion_tokens == 3


@pytest.mark.parametrize("number", [-1, 2**40, 1.5, "7", True, None])
def test_usage_that_makes_no_sense_is_not_believed(server, runners, number):
    server.answers[PATH] = streaming(delta("a", reason="stop"), usage(number, number))
    runner, seen = runners()
    assert without_time(ask(runner, seen).units) == Units(prompt_tokens=8, completion_tokens=1)


def test_half_a_pair_is_no_text_that_breaks_others(server, runners):
    def answer(handler, body):
        handler.begin_stream()
        handler.chunk(
            b'data: {"choices":[{"index":0,"delta":{"content":"a\\ud83d"},'
            b'"finish_reason":"stop"}]}\r\n\r\ndata: [DONE]\r\n\r\n'
        )
        handler.end_stream()

    server.answers[PATH] = answer
    runner, seen = runners()
    assert isinstance(ask(runner, seen), Ended)
    assert seen.text("r") == "a\ufffd"


def test_images_are_refused_unless_the_upstream_takes_them(runners):
    runner, _ = runners()
    content = [{"type": "image", "url": "https://example.com/a.png"}]
    with pytest.raises(InvalidInput, match="does not take images") as refused:
        runner.submit("r", CHAT, chat(messages=[{"role": "user", "content": content}]), salt="")
    assert refused.value.param == "messages[0].content[0]"


# -- cancelling -----------------------------------------------------------------------------------


def test_cancelling_closes_the_connection_and_counts_what_came(server, runners):
    server.answers[PATH] = endless()
    runner, seen = runners()
    runner.submit("r", CHAT, chat(), salt="")
    seen.wait_for("r", Delta, 3)
    runner.cancel("r")
    ended = seen.end("r")
    assert ended.reason == "cancelled"
    deltas = [one for one in seen.by_id["r"] if isinstance(one, Delta)]
    assert ended.units.completion_tokens == len(deltas)
    assert server.left.wait(10)


def test_cancelling_counts_what_a_server_told_on_the_way(server, runners):
    def answer(handler, body):
        handler.begin_stream()
        while True:
            handler.event({**delta("a"), "usage": usage(11, 22)["usage"]})
            time.sleep(0.02)

    server.answers[PATH] = answer
    runner, seen = runners(continuous_usage=True)
    runner.submit("r", CHAT, chat(), salt="")
    seen.wait_for_delta("r")
    runner.cancel("r")
    assert without_time(seen.end("r").units) == Units(prompt_tokens=11, completion_tokens=22)


def test_what_waits_for_its_first_byte_can_be_cancelled(server, runners):
    release = threading.Event()
    server.answers[PATH] = lambda handler, body: release.wait(20)
    runner, seen = runners()
    for name in ("a", "b"):
        runner.submit(name, CHAT, chat(), salt="")
    runner.cancel("a")
    runner.cancel("nobody")
    assert seen.end("a").reason == "cancelled"
    assert not seen.terminals("b")
    runner.unload()
    assert seen.end("b").code == "worker_error"
    release.set()
    with pytest.raises(Busy):
        runner.submit("c", CHAT, chat(), salt="")


def test_many_requests_share_one_thread(server, runners):
    gate = threading.Barrier(9)

    def answer(handler, body):
        gate.wait(20)
        streaming(delta(body["messages"][0]["content"], reason="stop"))(handler, body)

    server.answers[PATH] = answer
    runner, seen = runners()
    before = threading.active_count()
    for number in range(8):
        text = [{"role": "user", "content": str(number)}]
        runner.submit(str(number), CHAT, chat(messages=text), salt="")
    gate.wait(20)
    assert [seen.text(str(number)) for number in range(8)] == [str(n) for n in range(8)]
    assert sum("upstream" in thread.name for thread in threading.enumerate()) == 1
    assert before >= 2


# -- reading ----------------------------------------------------------------------------------------


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def embedding(texts, as_numbers=False):
    """Vectors (length, 1), last one first."""
    data = [
        {"index": index, "embedding": [float(len(text)), 1.0]}
        if as_numbers
        else {"index": index, "embedding": packed(len(text), 1)}
        for index, text in enumerate(texts)
    ]
    return {"data": data[::-1], "usage": {"prompt_tokens": 5 * len(texts), "total_tokens": 0}}


@pytest.mark.parametrize("as_numbers", [False, True])
def test_vectors_come_in_the_order_of_the_inputs(server, runners, as_numbers):
    server.answers["/v1/embeddings"] = lambda handler, body: handler.json(
        embedding(body["input"], as_numbers)
    )
    runner, seen = runners(EMBEDDINGS, most_inputs=2)
    ended = ask(runner, seen, EMBEDDINGS, {"input": ["a", "bb", "ccc"], "truncate": -1})
    assert ended.result == {"vectors": struct.pack("<6f", 1, 1, 2, 1, 3, 1), "width": 2}
    assert ended.units.prompt_tokens == 15
    assert [one.body for one in server.posts()] == [
        {
            "model": NAME,
            "input": part,
            "encoding_format": "base64",
            "truncate_prompt_tokens": -1,
        }
        for part in (["a", "bb"], ["ccc"])
    ]


def test_dimensions_are_cut_here_and_more_than_there_are_is_refused(server, runners):
    server.answers["/v1/embeddings"] = lambda handler, body: handler.json(embedding(body["input"]))
    runner, seen = runners(EMBEDDINGS)
    ended = ask(runner, seen, EMBEDDINGS, {"input": ["aaa"], "dimensions": 1}, "a")
    assert ended.result == {"vectors": struct.pack("<f", 1), "width": 1}
    failed = ask(runner, seen, EMBEDDINGS, {"input": ["aaa"], "dimensions": 3}, "b")
    assert (failed.code, failed.param) == ("invalid_value", "dimensions")


def test_rerank_and_score_are_read_by_number(server, runners):
    server.answers["/v1/rerank"] = lambda handler, body: handler.json(
        {
            "results": [
                {"index": 1, "relevance_score": 0.9},
                {"index": 0, "relevance_score": 0.2},
            ],
            "usage": {"total_tokens": 12},
        }
    )
    server.answers["/v1/score"] = lambda handler, body: handler.json(
        {"data": [{"index": 0, "score": 0.5}, {"index": 1, "score": 1}]}
    )
    runner, seen = runners(RERANK)
    ranked = ask(runner, seen, RERANK, {"query": "q", "documents": ["a", "b"]}, "a")
    assert (ranked.result, ranked.units.prompt_tokens) == ({"scores": [0.2, 0.9]}, 12)
    scored = ask(runner, seen, SCORE, {"text_1": ["q"], "text_2": ["a", "b"]}, "b")
    assert (scored.result, scored.units.prompt_tokens) == ({"scores": [0.5, 1.0]}, 4)
    assert server.posts()[1].body == {"model": NAME, "text_1": "q", "text_2": ["a", "b"]}


def test_teis_form_of_rerank(server, runners):
    server.answers["/v1/rerank"] = lambda handler, body: handler.json(
        [{"index": n, "score": 1 / (1 + len(text))} for n, text in enumerate(body["texts"])]
    )
    runner, seen = runners(RERANK, dialect="tei", most_inputs=2)
    ranked = ask(runner, seen, RERANK, {"query": "q", "documents": ["", "b", "ccc"]}, "a")
    assert ranked.result == {"scores": [1.0, 0.5, 0.25]}
    scored = ask(runner, seen, SCORE, {"text_1": ["p", "q"], "text_2": ["b", ""]}, "b")
    assert scored.result == {"scores": [0.5, 1.0]}
    bodies = [(one.body["query"], one.body["texts"]) for one in server.posts()]
    assert bodies == [("q", ["", "b"]), ("q", ["ccc"]), ("p", ["b"]), ("q", [""])]


def test_a_model_that_only_embeds_ranks_by_cosine(server, runners):
    vectors = {"q": (1, 0), "same": (2, 0), "other": (0, 5), "against": (-1, 0)}
    server.answers["/v1/embeddings"] = lambda handler, body: handler.json(
        {
            "data": [
                {"index": n, "embedding": packed(*vectors[text])}
                for n, text in enumerate(body["input"])
            ]
        }
    )
    runner, seen = runners(EMBEDDINGS)
    request = {"query": "q", "documents": ["same", "other", "against"]}
    assert ask(runner, seen, RERANK, request).result == {"scores": [1.0, 0.5, 0.0]}


# -- loading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "models", "told"),
    [
        (401, {}, "does not accept the key"),
        (302, {}, "redirects are not followed"),
        (500, {}, "cannot be reached"),
        (200, {"data": [{"id": "another"}]}, "has no model 'their/model'; it lists another"),
    ],
)
def test_what_is_not_ready_is_not_loaded(server, runners, status, models, told):
    server.models, server.models_status = models, status
    with pytest.raises(LoadError, match=told):
        runners()


@pytest.mark.parametrize("status", [404, 405, 429])
def test_a_server_that_lists_no_models_is_ready(server, runners, status):
    server.models_status = status
    assert runners()[0].describe() == "upstream"


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("weights/chat", {}, "must be an address"),
        ("ftp://host/v1", {}, "must be an address"),
        ("http://user:word@host/v1", {}, "must not hold a password"),
        ("http://host/v1?key=1", {}, "without a query"),
        ("http://[::1", {}, "not an address"),
        ("http://host:1/v1", {"key_env": "NO_SUCH_VARIABLE"}, "no key in the variable"),
        ("http://host:1/v1", {"key_file": "/nowhere/key"}, "cannot be read: FileNotFoundError"),
        ("http://host:1/v1", {"key_env": "A", "key_file": "b"}, "either in key_env or"),
        ("http://host:1/v1", {"ca_file": "/nowhere/ca"}, "holds no certificates"),
        ("http://host:1/v1", {"read_seconds": 0}, "read_seconds must be a positive number"),
        ("http://host:1/v1", {"dialect": "french"}, "dialect is either"),
        ("http://127.0.0.1:9/v1", {}, "cannot be reached"),
    ],
)
def test_what_is_set_up_wrongly_is_said(source, options, told):
    runner = UpstreamRunner(RunnerConfig("our/model", source, options=options))
    with pytest.raises(LoadError, match=told):
        runner.load(lambda fraction, text: None)


def test_a_key_that_no_header_may_hold_is_not_shown(tmp_path):
    file = tmp_path / "key"
    file.write_text("sk-one\nsk-two")
    config = RunnerConfig("m", "http://127.0.0.1:9/v1", options={"key_file": str(file)})
    with pytest.raises(LoadError) as refused:
        UpstreamRunner(config).load(lambda fraction, text: None)
    assert "sk-" not in str(refused.value)


def test_tasks_that_no_upstream_serves_are_named(runners):
    with pytest.raises(LoadError, match="cannot serve openai/audio-speech"):
        runners("openai/audio-speech")


def test_an_exchanged_key_is_taken_up_with_the_request(server, runners, tmp_path):
    file = tmp_path / "key"
    file.write_text("old\n")
    wanted = "old"

    def answer(handler, body):
        if handler.headers["authorization"] != f"Bearer {wanted}":
            handler.json({"error": {"message": "no"}}, 401)
        else:
            streaming(delta("a", reason="stop"))(handler, body)

    server.answers[PATH] = answer
    runner, seen = runners(key_file=str(file))
    assert isinstance(ask(runner, seen, name="a"), Ended)
    wanted = "new"
    file.write_text("new")
    assert isinstance(ask(runner, seen, name="b"), Ended)
