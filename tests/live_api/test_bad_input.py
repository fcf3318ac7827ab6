"""Whatever a caller sends, the answer is the envelope or a normal answer, and soon."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.live_api import bad_input
from tests.live_api.envelope import (
    CHAT,
    EDITS,
    EMBEDDINGS,
    IMAGES,
    RERANK,
    SCORE,
    SPEECH,
    TEXT,
    TRANSCRIPTIONS,
    assert_envelope,
    bearer,
    chat_body,
    embeddings_body,
    image_body,
    job_body,
    rerank_body,
    score_body,
    speech_body,
    text_body,
    transcription_body,
)

GOOD: dict[str, dict[str, Any]] = {
    "chat": chat_body(),
    "text": text_body(),
    "speech": speech_body(),
    "transcription": transcription_body(),
    "images": image_body(),
    "edits": image_body(image="data:,"),
    "embeddings": embeddings_body(),
    "rerank": rerank_body(),
    "score": score_body(),
    "jobs": job_body(),
    "chat job": {"model_id": "test/echo", "task": "openai/chat-completion", "input": chat_body()},
    "tokens": {"name": "x", "scopes": ["user:read"]},
    "invites": {"role": "viewer"},
}
IMAGE_FIELDS = [
    "model",
    "prompt",
    "n",
    "size",
    "response_format",
    "output_format",
    "output_compression",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "negative_prompt",
    "stream",
    "partial_images",
]
FIELDS: dict[str, list[str]] = {
    "chat": [
        "model",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "n",
        "stream",
        "stream_options",
        "ignore_eos",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "response_format",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "functions",
        "function_call",
        "structured_outputs",
        "chat_template_kwargs",
        "reasoning_effort",
        "user",
        "metadata",
        "async",
    ],
    "text": [
        "model",
        "prompt",
        "max_tokens",
        "temperature",
        "stop",
        "n",
        "best_of",
        "echo",
        "suffix",
        "logprobs",
        "logit_bias",
        "stream",
        "stream_options",
    ],
    "speech": [
        "model",
        "input",
        "voice",
        "response_format",
        "speed",
        "language",
        "instructions",
        "stream_format",
    ],
    "transcription": [
        "model",
        "file",
        "url",
        "language",
        "prompt",
        "response_format",
        "temperature",
        "timestamp_granularities",
        "stream",
        "include",
    ],
    "images": IMAGE_FIELDS,
    "edits": [*IMAGE_FIELDS, "image", "mask", "strength"],
    "embeddings": [
        "model",
        "input",
        "encoding_format",
        "dimensions",
        "truncate_prompt_tokens",
        "user",
    ],
    "rerank": [
        "model",
        "query",
        "documents",
        "top_n",
        "top_k",
        "return_documents",
        "max_tokens_per_doc",
        "rank_fields",
    ],
    "score": ["model", "text_1", "text_2", "queries", "documents", "truncate_prompt_tokens"],
    "jobs": ["model_id", "task", "input", "priority", "webhook_url", "status", "id"],
    "chat job": ["input"],
    "tokens": [
        "name",
        "description",
        "scopes",
        "preset",
        "allowed_models",
        "allowed_ips",
        "expires_at",
        "expires_in_days",
        "status",
        "organization",
    ],
    "invites": ["email", "role", "multi_use", "max_uses", "status", "token_hash"],
}


PATHS = {
    "chat": CHAT,
    "text": TEXT,
    "embeddings": EMBEDDINGS,
    "rerank": RERANK,
    "score": SCORE,
    "speech": SPEECH,
    "transcription": TRANSCRIPTIONS,
    "images": IMAGES,
    "edits": EDITS,
}


def path_of(site, route: str) -> str:
    if route in ("tokens", "invites"):
        return f"/api/organizations/{site.alpha['id']}/{route}"
    return PATHS.get(route, "/api/jobs")


def send(http: httpx.Client, path: str, content: bytes, content_type: str | None = bad_input.JSON):
    headers = {} if content_type is None else {"Content-Type": content_type}
    began = time.monotonic()
    response = http.post(path, content=content, headers=headers)
    assert time.monotonic() - began < 30
    return response


def acceptable(response: httpx.Response, label: str) -> None:
    """4xx in the envelope, or what the route answers to good requests."""
    if response.is_success:
        return
    assert 400 <= response.status_code < 500, (label, response.status_code, response.text[:300])
    try:
        assert_envelope(response, response.status_code)
    except AssertionError as error:
        raise AssertionError(f"{label}: {error}") from None


@pytest.fixture(scope="module", autouse=True)
def others_are_served(site, readers, drawing) -> Iterator[None]:
    """Another organization's good requests succeed all the while."""
    stop, times, failures = threading.Event(), [], []

    def work() -> None:
        with httpx.Client(
            base_url=site.url, headers=bearer(site.beta["user_write"]), timeout=30
        ) as client:
            while not stop.wait(0.1):
                began = time.monotonic()
                response = client.post(CHAT, json=chat_body("fine"))
                times.append(time.monotonic() - began)
                if response.status_code != 200:
                    failures.append(response.text)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join(60)
    assert not failures
    assert times
    assert max(times) < 30


@pytest.mark.sqlite
@pytest.mark.parametrize("route", [*PATHS, "jobs", "tokens", "invites"])
def test_bodies_that_are_no_request(site, http, route):
    for label, body in bad_input.bodies(GOOD[route]).items():
        response = send(http, path_of(site, route), body)
        statuses = (400, 413) if label == "50,000 keys" else 400
        try:
            assert_envelope(response, statuses)
        except AssertionError as error:
            raise AssertionError(f"{label}: {error}") from None


@pytest.mark.parametrize("route", [*PATHS, "jobs", "tokens"])
def test_content_types(site, http, route):
    for label, (content_type, body) in bad_input.content_types(GOOD[route]).items():
        response = send(http, path_of(site, route), body, content_type)
        assert response.status_code in (400, 415), (label, response.status_code, response.text)
        assert_envelope(response, response.status_code)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "Application/JSON",
        "application/vnd.x+json",
    ],
)
def test_spellings_of_json(http, content_type):
    assert send(http, CHAT, json.dumps(chat_body()).encode(), content_type).status_code == 200
    body = json.dumps(job_body()).encode()
    assert send(http, "/api/jobs", body, content_type).status_code == 201


@pytest.mark.parametrize("route", list(FIELDS))
def test_each_field_with_each_odd_value(site, http, route):
    for name in FIELDS[route]:
        for label, value in bad_input.values().items():
            body = json.dumps({**GOOD[route], name: value}).encode()
            acceptable(send(http, path_of(site, route), body), f"{name} = {label}")


@pytest.mark.parametrize("name", ["role", "content", "name", "tool_call_id", "tool_calls"])
def test_each_field_of_a_message(http, name):
    for label, value in bad_input.values().items():
        message = {"role": "user", "content": "x", name: value}
        acceptable(http_post(http, chat_body(messages=[message])), f"{name} = {label}")


def http_post(http: httpx.Client, body: Any) -> httpx.Response:
    return send(http, CHAT, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("route", "name"),
    [
        ("chat", "model"),
        ("chat", "messages"),
        ("text", "model"),
        ("text", "prompt"),
        ("speech", "model"),
        ("speech", "input"),
        ("speech", "voice"),
        ("transcription", "model"),
        ("images", "model"),
        ("images", "prompt"),
        ("edits", "prompt"),
        ("edits", "image"),
        ("embeddings", "model"),
        ("embeddings", "input"),
        ("rerank", "model"),
        ("rerank", "query"),
        ("rerank", "documents"),
        ("score", "model"),
        ("score", "text_1"),
        ("score", "text_2"),
        ("jobs", "model_id"),
        ("jobs", "task"),
        ("jobs", "input"),
        ("tokens", "name"),
        ("tokens", "scopes"),
        ("invites", "role"),
    ],
)
def test_missing_required(site, http, route, name):
    body = {key: value for key, value in GOOD[route].items() if key != name}
    for variant in (body, {**body, name: None}):
        response = http.post(path_of(site, route), json=variant)
        error = assert_envelope(response, 400, code="missing_required_parameter")
        assert error["param"] == name
        assert name in error["message"]


def text(content: Any = "x", **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def calling(arguments: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


ARGUMENTS = "messages[1].tool_calls[0].function.arguments"
BAD_ARGUMENTS = (
    "[" * 100_000,
    "{",
    '{"a": NaN}',
    '{"a": "\\u0000"}',
    '{"a": "\\ud800"}',
    '{"a": 1' + "0" * 30 + "}",
    {"a": [10**30]},
)
CHAT_SPECIALS: list[tuple[dict[str, Any], str]] = [
    *[({"n": value}, "n") for value in (0, -1, 10**4, 10**9, 1.0, "1")],
    *[({"max_tokens": value}, "max_tokens") for value in (0, -1, 10**12, 1.0, "5", True)],
    *[({"max_completion_tokens": value}, "max_completion_tokens") for value in (0, 10**12)],
    *[({"temperature": value}, "temperature") for value in (-0.1, 2.1, "1", True)],
    *[({"top_p": value}, "top_p") for value in (-0.1, 1.1, "1", True)],
    *[({"stream": value}, "stream") for value in (1, 0, "true", "")],
    ({"stop": ["x"] * 5_000}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"seed": 2**63}, "seed"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}] * 10_000}, "tools"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"messages": []}, "messages"),
    ({"messages": {}}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [text()] * 2_001}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [text(), 5]}, "messages[1]"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [text(role="king")]}, "messages[0].role"),
    ({"messages": [text(5)]}, "messages[0].content"),
    ({"messages": [text({})]}, "messages[0].content"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [text(["x"])]}, "messages[0].content[0].type"),
    ({"messages": [text([{"type": "hologram"}])]}, "messages[0].content[0].type"),
    (
        {"messages": [text([{"type": "image_url", "image_url": {"url": "data:,"}}])]},
        "messages[0].content[0].image_url.url",
    ),
    (
        {"messages": [text([{"type": "text", "text": "a"}, {"type": "text"}])]},
        "messages[0].content[1].text",
    ),
    ({"messages": [text(name=5)]}, "messages[0].name"),
    *[({"messages": [text(), calling(value)]}, ARGUMENTS) for value in BAD_ARGUMENTS],
    *bad_input.WISHES,
]


@pytest.mark.parametrize(
    ("fields", "param"), CHAT_SPECIALS, ids=[f"{p}-{n}" for n, (_, p) in enumerate(CHAT_SPECIALS)]
)
def test_chat_names_what_is_wrong(http, fields, param):
    response = http.post(CHAT, json=chat_body(**fields))
    assert_envelope(response, 400)
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(("fields", "param"), CHAT_SPECIALS[::4])
def test_a_chat_job_names_it_too(http, fields, param):
    body = {
        "model_id": "test/echo",
        "task": "openai/chat-completion",
        "input": chat_body(**fields),
    }
    response = http.post("/api/jobs", json=body)
    assert_envelope(response, 400)
    assert response.json()["error"]["param"] == f"input.{param}"


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"chat_template": "{{ 7 * 7 }}"}, "chat_template"),
        ({"chat_template_kwargs": {"x": "{{ 1 }}"}}, "chat_template_kwargs.x"),
    ],
)
def test_a_template_in_the_body_is_refused(http, extra, param):
    error = assert_envelope(http.post(CHAT, json=chat_body(**extra)), 400)
    assert error["param"] == param


def test_unknown_model_is_named(http):
    for model in ("no/such", "x" * 150, "é", "test/away", "'; DROP TABLE", "../x"):
        error = assert_envelope(http.post(CHAT, json=chat_body(model=model)), 404)
        assert error["code"] == "model_not_found"
        assert model[:100] in error["message"]
        job = {"model_id": model, "task": "test/echo", "input": {}}
        assert_envelope(http.post("/api/jobs", json=job), 404, code="model_not_found")


@pytest.mark.slow
@pytest.mark.parametrize(("route", "size"), [("chat", 64), ("jobs", 64), ("jobs", 5)])
def test_a_large_body_is_413(site, http, route, size):
    response = send(http, path_of(site, route), b'{"x":"' + b"a" * (size << 20) + b'"}')
    assert_envelope(response, 413, code="payload_too_large")


def test_a_hundred_thousand_messages_are_refused(http):
    assert_envelope(http.post(CHAT, json=chat_body(messages=[text()] * 100_000)), 400)


def test_a_text_over_the_cap_is_refused(http):
    error = assert_envelope(http.post(CHAT, json=chat_body("x" * 1_000_001)), 400)
    assert error["code"] == "invalid_json"


def chunked(body: bytes) -> Iterator[bytes]:
    yield body[:10]
    yield body[10:]


@pytest.mark.parametrize("route", ["chat", "jobs", "tokens"])
def test_a_chunked_body_is_read(site, http, route):
    body = json.dumps(GOOD[route]).encode()
    response = http.post(
        path_of(site, route), content=chunked(body), headers={"Content-Type": bad_input.JSON}
    )
    assert response.is_success, response.text


def test_cancel_ignores_an_empty_body_and_refuses_junk(http):
    def pending() -> str:
        return http.post("/api/jobs", json=job_body(input={"duration_ms": 30_000})).json()["id"]

    path = f"/api/jobs/{pending()}/cancel"
    assert http.post(path, headers={"Content-Type": bad_input.JSON}).status_code == 200
    for body in (b"", b"{}", b'{"x": 1}'):
        path = f"/api/jobs/{pending()}/cancel"
        assert send(http, path, body).status_code == 200


@pytest.mark.parametrize(
    "job_id", ["..", "%00", "a%2Fb", "x" * 5_000, "%F0%9F%92%A5", "' OR 1=1", "1"]
)
def test_odd_ids_are_not_found(http, job_id):
    for response in (
        http.get(f"/api/jobs/{job_id}"),
        http.post(f"/api/jobs/{job_id}/cancel"),
        http.get(f"/openai/v1/models/{job_id}"),
    ):
        assert_envelope(response, (404, 400, 405, 431))


def test_odd_query_parameters(site, http):
    path = f"/api/organizations/{site.alpha['id']}/tokens"
    for query in ("limit=-1", "limit=0", "limit=abc", "limit=1000000000", "limit=", "limit=%00"):
        assert_envelope(http.get(f"{path}?{query}"), 400)
    for query in ("order=up", "after=none", "after=%00", "after=%ED%A0%80"):
        assert_envelope(http.get(f"{path}?{query}"), 400)
    for query in ("ordering=organization__name", "organization__isnull=1", "format=xml"):
        assert http.get(f"{path}?{query}").status_code == 200
