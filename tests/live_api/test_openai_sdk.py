"""The official Python client, unmodified."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import openai
import pytest

from tests.live_api.site import PACED_MS, PACED_TOKENS

HELLO = [{"role": "user", "content": "Hello!"}]


def client(site, secret, **options):
    return openai.OpenAI(base_url=f"{site.url}/openai/v1", api_key=secret, **options)


@pytest.mark.sqlite
def test_create(sdk):
    answer = sdk.chat.completions.create(model="test/echo", messages=HELLO)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content.startswith("w0 w1")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 16
    assert answer._request_id


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_length_is_exact(sdk, name):
    answer = sdk.chat.completions.create(model="test/echo", messages=HELLO, **{name: 3})
    assert answer.choices[0].message.content.split() == ["w0", "w1", "w2"]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_usual_parameters_are_taken(sdk):
    answer = sdk.chat.completions.create(
        model="test/echo",
        messages=[
            {"role": "developer", "content": "Be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}], "name": "ann"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        temperature=0.5,
        top_p=0.9,
        seed=7,
        stop=["\n\n", "END"],
        n=1,
        frequency_penalty=0.1,
        presence_penalty=-0.1,
        user="u",
        metadata={"k": "v"},
        store=False,
        parallel_tool_calls=True,
        response_format={"type": "text"},
        logprobs=False,
        extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "unheard_of": {"x": [1]}},
    )
    assert answer.choices[0].finish_reason == "stop"


def test_a_client_that_sends_nulls(site, http):
    body = {
        "model": "test/echo",
        "messages": [{"role": "user", "content": "x", "name": None, "tool_calls": None}],
        **dict.fromkeys(("max_tokens", "temperature", "stop", "stream", "stream_options", "tools")),
        **dict.fromkeys(("seed", "n", "logit_bias", "response_format", "top_logprobs", "user")),
    }
    assert http.post("/openai/v1/chat/completions", json=body).status_code == 200


@pytest.mark.sqlite
def test_stream(sdk):
    chunks = list(sdk.chat.completions.create(model="test/paced", messages=HELLO, stream=True))
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.role for delta in deltas].count("assistant") == 1
    assert deltas[0].role == "assistant"
    assert deltas[0].content == ""
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert len("".join(delta.content or "" for delta in deltas).split()) == PACED_TOKENS
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_with_usage(sdk):
    chunks = list(
        sdk.chat.completions.create(
            model="test/echo", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 16
    assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_the_stream_helper_of_the_sdk(sdk):
    with sdk.chat.completions.stream(model="test/echo", messages=HELLO) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content.startswith("w0 w1")


@pytest.mark.sqlite
def test_closing_a_stream_cancels_and_charges(site, sdk, ended):
    message = [{"role": "user", "content": "!tokens 2000"}]
    raw = sdk.chat.completions.with_raw_response.create(
        model="test/paced", messages=message, stream=True
    )
    seen = 0
    stream = raw.parse()
    for chunk in stream:
        seen += bool(chunk.choices[0].delta.content)
        if seen == 5:
            break
    stream.close()
    job = ended(raw.headers["x-casola-job-id"], seconds=3)
    assert job["status"] == "cancelled"
    assert 5 <= job["usage"]["completion_tokens"] <= 5 + 15
    assert job["usage"]["prompt_tokens"] == 2


def test_closing_stops_the_work_within_a_second(site, ended):
    """Produced tokens tell when the runner stopped."""
    with client(site, site.alpha["user_write"]) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(
            model="test/paced",
            messages=[{"role": "user", "content": "!tokens 4000"}],
            stream=True,
        )
        stream = raw.parse()
        next(iter(stream))
        began = time.monotonic()
        time.sleep(0.5)
        stream.response.close()
        left = time.monotonic() - began
        job = ended(raw.headers["x-casola-job-id"], seconds=5)
    assert job["usage"]["completion_tokens"] <= (left + 1.0) * 1000 / PACED_MS + 2


def test_leaving_an_unstreamed_request_cancels_it(site, http):
    before = time.time()
    with pytest.raises(openai.APITimeoutError):
        client(site, site.beta["user_write"], timeout=0.6, max_retries=0).chat.completions.create(
            model="test/paced", messages=[{"role": "user", "content": "!tokens 3000 leave"}]
        )
    code = (
        "import json; from jobs.models import Job; "
        f"print(json.dumps([[j.status, j.units] for j in Job.objects.filter("
        f"organization__public_id={site.beta['id']!r}, model_id='test/paced')]))"
    )
    time.sleep(max(0.0, before + 1.6 - time.time()))
    ((status, units),) = json.loads(site.live.python(code).splitlines()[-1])
    assert status == "cancelled"
    assert units["completion_tokens"] <= 1.6 * 1000 / PACED_MS + 2


ERRORS = [
    ({"messages": []}, openai.BadRequestError, "messages"),
    ({"temperature": 3}, openai.BadRequestError, "temperature"),
    ({"model": "no/such"}, openai.NotFoundError, "model"),
    ({"n": 129}, openai.BadRequestError, "n"),
]


@pytest.mark.parametrize(("fields", "kind", "param"), ERRORS)
def test_errors_have_their_classes(sdk, fields, kind, param):
    with pytest.raises(kind) as caught:
        sdk.chat.completions.create(**{"model": "test/echo", "messages": HELLO, **fields})
    assert type(caught.value) is kind
    assert caught.value.param == param
    assert caught.value.code
    assert caught.value.request_id
    assert caught.value.body["message"] in str(caught.value)


def test_wrong_keys_have_their_classes(site):
    with pytest.raises(openai.AuthenticationError) as caught:
        client(site, "csl_sk_wrong").models.list()
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client(site, site.alpha["user_read"]).chat.completions.create(
            model="test/echo", messages=HELLO
        )
    assert caught.value.code == "insufficient_scope"
    assert "user:write" in caught.value.message


def test_a_failing_model_is_a_server_error(sdk):
    with pytest.raises(openai.InternalServerError) as caught:
        sdk.with_options(max_retries=0).chat.completions.create(
            model="test/echo", messages=[{"role": "user", "content": "!error"}]
        )
    assert caught.value.status_code == 502
    assert caught.value.code == "worker_error"


def test_a_refused_request_is_not_sent_again_and_again(site):
    """429 tells when to come back; the SDK waits for it and does not hammer."""
    sent = []
    counting = httpx.Client(event_hooks={"request": [sent.append]}, timeout=30)
    sdk = client(site, site.spare["one"], max_retries=0, http_client=counting)
    for _ in range(10):
        sdk.chat.completions.create(model="test/echo", messages=HELLO)
    with pytest.raises(openai.RateLimitError) as caught:
        sdk.chat.completions.create(model="test/echo", messages=HELLO)
    assert len(sent) == 11
    assert caught.value.code == "rate_limit"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 59


def test_models(sdk):
    listed = [model.id for model in sdk.models.list()]
    assert "Qwen/Qwen3.5-4B" in listed
    assert sdk.models.retrieve("Qwen/Qwen3.5-4B").owned_by == "casola"
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("Qwen/none")
    assert caught.value.code == "model_not_found"
    assert "Qwen/none" in caught.value.message


def test_raw_response_headers(sdk):
    raw = sdk.chat.completions.with_raw_response.create(model="test/echo", messages=HELLO)
    assert raw.headers["x-request-id"] == raw.request_id
    assert len(raw.headers["x-casola-job-id"]) == 36
    assert "total;dur=" in raw.headers["server-timing"]
    assert raw.parse().id.removeprefix("chatcmpl-") == raw.headers["x-casola-job-id"].replace(
        "-", ""
    )


def test_fifty_at_once_on_the_async_client(site):
    async def one(sdk, number):
        if number % 2:
            answer = await sdk.chat.completions.create(
                model="test/paced", messages=HELLO, max_tokens=number + 1
            )
            return len(answer.choices[0].message.content.split())
        stream = await sdk.chat.completions.create(
            model="test/paced", messages=HELLO, max_tokens=number + 1, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        return len(text.split())

    async def main():
        async with openai.AsyncOpenAI(
            base_url=f"{site.url}/openai/v1", api_key=site.alpha["user_write"], max_retries=0
        ) as sdk:
            return await asyncio.gather(*(one(sdk, number) for number in range(50)))

    assert asyncio.run(main()) == [min(number + 1, PACED_TOKENS) for number in range(50)]
