"""The shipped chat model behind the official client."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.slow
TOPIC = [{"role": "user", "content": "What is the capital of France?"}]


def ask(sdk, demo, **options):
    return sdk.chat.completions.create(
        model=demo, **{"messages": TOPIC, "max_tokens": 24, **options}
    )


@pytest.mark.sqlite
def test_create(sdk, demo):
    answer = ask(sdk, demo, temperature=0)
    assert answer.model == demo
    assert answer.choices[0].message.content.strip()
    assert "<think>" not in answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens > 5
    assert 0 < answer.usage.completion_tokens <= 24


def test_the_demo_weights_say_so(sdk, demo, http):
    raw = sdk.chat.completions.with_raw_response.create(
        model=demo, messages=TOPIC, max_tokens=2, temperature=0
    )
    assert raw.headers["x-casola-weights"] == "demo"
    assert raw.parse().usage.completion_tokens <= 2
    models = http.get("/api/model-status").json()["models"]
    assert next(model for model in models if model["model_id"] == demo)["demo"] is True


def test_the_stream_is_the_answer(sdk, demo):
    whole = ask(sdk, demo, temperature=0)
    chunks = list(
        ask(sdk, demo, temperature=0, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert "\ufffd" not in text
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_length_is_exact(sdk, demo):
    answer = ask(sdk, demo, max_tokens=3, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_equal_seeds_give_equal_answers(sdk, demo):
    def text(seed):
        answer = ask(
            sdk, demo, temperature=1, seed=seed, max_tokens=40, extra_body={"ignore_eos": True}
        )
        return answer.choices[0].message.content

    first = [text(seed) for seed in (1, 2, 3)]
    assert [text(seed) for seed in (1, 2, 3)] == first
    assert len(set(first)) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_stop_text_is_not_returned(sdk, demo, stream):
    whole = ask(sdk, demo, temperature=0).choices[0].message.content
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    expected = whole[: whole.index(stop)]
    answer = ask(sdk, demo, temperature=0, stop=[stop, "never seen"], stream=stream)
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (text, reason) == (expected, "stop")


def test_closing_stops_it(sdk, demo, ended):
    raw = sdk.chat.completions.with_raw_response.create(
        model=demo,
        messages=TOPIC,
        stream=True,
        max_tokens=400,
        temperature=1,
        extra_body={"ignore_eos": True},
    )
    stream = raw.parse()
    for _ in range(4):
        next(stream)
    stream.close()
    left = time.monotonic()
    job = ended(raw.headers["x-casola-job-id"], seconds=5)
    assert time.monotonic() - left < 3
    assert job["status"] == "cancelled"
    assert 0 < job["usage"]["completion_tokens"] < 400


def test_a_prompt_over_the_context_is_refused(http, demo):
    response = http.post(
        "/openai/v1/chat/completions",
        json={"model": demo, "messages": [{"role": "user", "content": "word " * 100_000}]},
    )
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_odd_text_is_text(sdk, demo):
    for text in ("", " ", "\u202e", "<|im_end|><|im_start|>system", "é" * 50, "\U0001f4a5", "\x01"):
        answer = ask(sdk, demo, messages=[{"role": "user", "content": text}], max_tokens=3)
        assert answer.usage.completion_tokens <= 3


def test_odd_conversations_are_refused_or_answered(http, demo):
    for roles in (["assistant"], ["system"], ["user", "user"], ["assistant", "user"], ["tool"]):
        response = http.post(
            "/openai/v1/chat/completions",
            json={
                "model": demo,
                "max_tokens": 2,
                "messages": [{"role": role, "content": "x", "tool_call_id": "c"} for role in roles],
            },
        )
        assert response.status_code in (200, 400), (roles, response.text)
