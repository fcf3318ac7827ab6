"""Choices, tool calls, thinking and log probabilities, through the official Python client."""

from __future__ import annotations

import json

import openai
import pytest

MODEL = "test/echo"
HELLO = [{"role": "user", "content": "Hello!"}]
PLACE = {
    "type": "object",
    "properties": {"place": {"type": "string"}},
    "required": ["place"],
    "additionalProperties": False,
}


def tool(name):
    return {"type": "function", "function": {"name": name, "parameters": PLACE}}


TOOLS = [tool("weather"), tool("time")]
TWO = [{"role": "user", "content": '!call weather {"place": "Köln"} !call time {"place": "Bern"}'}]
CALLS = [("weather", '{"place": "Köln"}'), ("time", '{"place": "Bern"}')]


def create(sdk, messages=HELLO, model=MODEL, **fields):
    return sdk.chat.completions.create(model=model, messages=messages, **fields)


def called(message):
    return [(call.function.name, call.function.arguments) for call in message.tool_calls]


def gathered(chunks):
    """Every choice's deltas put together the way clients do it: texts are concatenated."""
    out = {}
    for chunk in chunks:
        for choice in chunk.choices:
            known = out.setdefault(
                choice.index, {"role": "", "content": "", "calls": {}, "reasons": []}
            )
            known["role"] += choice.delta.role or ""
            known["content"] += choice.delta.content or ""
            if choice.finish_reason:
                known["reasons"].append(choice.finish_reason)
            for delta in choice.delta.tool_calls or []:
                call = known["calls"].setdefault(delta.index, ["", "", ""])
                call[0] += delta.id or ""
                call[1] += delta.function.name or ""
                call[2] += delta.function.arguments or ""
    return out


def test_choices(sdk):
    answer = create(sdk, n=3, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"w0 w1 w2 w3 "}
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens == 1


@pytest.mark.sqlite
@pytest.mark.parametrize("model", [MODEL, "test/paced"])
def test_choices_in_a_stream(sdk, model):
    chunks = list(
        create(sdk, model=model, n=3, stream=True, stream_options={"include_usage": True})
    )
    assert [chunk.choices[0].index for chunk in chunks[:3]] == [0, 1, 2]
    found = gathered(chunks)
    assert list(found) == [0, 1, 2]
    for choice in found.values():
        assert choice["role"] == "assistant"
        assert choice["content"].startswith("w0 w1 ")
        assert choice["reasons"] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == sum(
        len(choice["content"].split()) for choice in found.values()
    )
    assert all(chunk.usage is None and chunk.choices for chunk in chunks[:-1])


def test_no_choice_speaks_after_its_end(sdk):
    ended = set()
    for chunk in create(sdk, model="test/paced", n=4, stream=True):
        (choice,) = chunk.choices
        assert choice.index not in ended
        if choice.finish_reason:
            ended.add(choice.index)
    assert ended == {0, 1, 2, 3}


@pytest.mark.sqlite
def test_parallel_calls(sdk):
    (choice,) = create(sdk, TWO, tools=TOOLS).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert called(choice.message) == CALLS
    ids = {call.id for call in choice.message.tool_calls}
    assert len(ids) == 2
    assert all(call.type == "function" for call in choice.message.tool_calls)


def test_one_call_at_most_where_parallel_is_off(sdk):
    (choice,) = create(sdk, TWO, tools=TOOLS, parallel_tool_calls=False).choices
    assert called(choice.message) == CALLS[:1]


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        ("none", None),
        ("auto", None),
        ("required", ["weather"]),
        ({"type": "function", "function": {"name": "time"}}, ["time"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "time"}}],
                },
            },
            ["time"],
        ),
    ],
)
def test_tool_choice(sdk, wish, names):
    (choice,) = create(sdk, tools=TOOLS, tool_choice=wish).choices
    assert choice.finish_reason == ("tool_calls" if names else "stop")
    found = choice.message.tool_calls
    assert (found and [call.function.name for call in found]) == names


def test_the_old_names_of_tools_work(sdk):
    functions = [entry["function"] for entry in TOOLS]
    (choice,) = create(sdk, functions=functions, function_call={"name": "time"}).choices
    assert [call.function.name for call in choice.message.tool_calls] == ["time"]


def test_calls_in_a_stream(sdk):
    chunks = list(create(sdk, TWO, tools=TOOLS, stream=True))
    (choice,) = gathered(chunks).values()
    assert [tuple(call[1:]) for _, call in sorted(choice["calls"].items())] == CALLS
    assert choice["content"] == ""
    assert choice["reasons"] == ["tool_calls"]
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or []]
    opened = [delta for delta in deltas if delta.id]
    assert [(delta.index, delta.type, delta.function.arguments) for delta in opened] == [
        (0, "function", ""),
        (1, "function", ""),
    ]
    assert all(delta.function is not None for delta in deltas)
    assert all(delta.function.name is None for delta in deltas if not delta.id)


def test_the_stream_helper_puts_calls_together(sdk):
    with sdk.chat.completions.stream(model=MODEL, messages=TWO, tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.done") == 2
    assert called(answer.choices[0].message) == CALLS


def test_a_round_with_tools(sdk):
    """The message goes back as the client holds it, with keys of the client's own."""
    first = create(sdk, TWO, tools=TOOLS).choices[0].message
    back = {**first.model_dump(), "refusal": None, "audio": None, "annotations": [], "parsed": None}
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in first.tool_calls
    ]
    answer = create(sdk, [*TWO, back, *results], tools=TOOLS)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content.startswith("w0 ")
    assert answer.choices[0].message.tool_calls is None
    again = create(sdk, [*TWO, first, *results], tools=TOOLS)
    assert again.choices[0].message.content == answer.choices[0].message.content


def test_thinking_stands_apart(sdk):
    thinks = [{"role": "user", "content": "!think"}]
    answer = create(sdk, thinks)
    message = answer.choices[0].message
    assert message.reasoning_content == "Let me think first. "
    assert message.content.startswith("w0 ")
    assert answer.usage.completion_tokens_details.reasoning_tokens == 4
    assert answer.usage.completion_tokens == 20
    deltas = [chunk.choices[0].delta for chunk in create(sdk, thinks, stream=True)]
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thought == message.reasoning_content
    assert "".join(delta.content or "" for delta in deltas) == message.content
    assert not hasattr(create(sdk).choices[0].message, "reasoning_content")


@pytest.mark.parametrize("top", [None, 0, 3])
def test_logprobs(sdk, top):
    wish = {"logprobs": True, "max_tokens": 5}
    if top is not None:
        wish["top_logprobs"] = top
    whole = create(sdk, **wish).choices[0].logprobs.content
    assert "".join(entry.token for entry in whole) == "w0 w1 w2 w3 w4 "
    for entry in whole:
        assert entry.logprob <= 0
        assert bytes(entry.bytes).decode() == entry.token
        assert len(entry.top_logprobs) == (top or 0)
    chunks = list(create(sdk, stream=True, **wish))
    streamed = [
        entry
        for chunk in chunks
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == whole


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"tools": TOOLS}])
def test_a_failure_in_mid_stream_is_raised(sdk, fields):
    seen = []
    stream = create(
        sdk, [{"role": "user", "content": "!error 4"}], model="test/paced", stream=True, **fields
    )
    with pytest.raises(openai.APIError) as caught:
        seen.extend(chunk.choices[0].delta.content for chunk in stream)
    assert caught.value.code == "worker_error"
    assert [text for text in seen if text]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a b", ["a b"]),
        (["a", "b"], ["a", "b"]),
        ([5, 6], ["t5 t6 "]),
        ([[5], [6, 7]], ["t5 ", "t6 t7 "]),
    ],
)
@pytest.mark.parametrize("n", [1, 2])
def test_text_completions(sdk, prompt, texts, n):
    answer = sdk.completions.create(model=MODEL, prompt=prompt, n=n, max_tokens=2, echo=True)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert [choice.index for choice in answer.choices] == list(range(n * len(texts)))
    expected = [text + "w0 w1 " for text in texts for _ in range(n)]
    assert [choice.text for choice in answer.choices] == expected
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage.completion_tokens == 2 * n * len(texts)
    chunks = list(
        sdk.completions.create(
            model=MODEL,
            prompt=prompt,
            n=n,
            max_tokens=2,
            echo=True,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    streamed = [""] * len(expected)
    reasons = []
    for chunk in chunks[:-1]:
        streamed[chunk.choices[0].index] += chunk.choices[0].text
        reasons += [chunk.choices[0].index] if chunk.choices[0].finish_reason else []
    assert streamed == expected
    assert sorted(reasons) == list(range(len(expected)))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == answer.usage


def test_text_completions_end_at_sixteen_tokens(sdk):
    answer = sdk.completions.create(model=MODEL, prompt="!tokens 40")
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("echo", [False, True])
def test_logprobs_of_text_completions(sdk, echo):
    wish = {"model": MODEL, "prompt": "a b ", "max_tokens": 3, "logprobs": 2, "echo": echo}
    (choice,) = sdk.completions.create(**wish).choices
    found = choice.logprobs
    assert found.tokens == ["w0 ", "w1 ", "w2 "]
    assert len(found.token_logprobs) == len(found.top_logprobs) == 3
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert choice.text[offset:].startswith(token)
    parts = [
        chunk.choices[0].logprobs
        for chunk in sdk.completions.create(**wish, stream=True)
        if chunk.choices[0].logprobs
    ]
    assert [offset for part in parts for offset in part.text_offset] == found.text_offset
    assert [token for part in parts for token in part.tokens] == found.tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"n": 129}, "n"),
        ({"prompt": ["a"] * 65, "n": 2}, "n"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [2**31]}, "prompt"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_refused_text_completions(sdk, fields, param):
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.completions.create(**{"model": MODEL, "prompt": "x", **fields})
    assert caught.value.param == param


JOBS = [
    ("openai/chat-completion", {"messages": TWO, "tools": TOOLS}),
    ("openai/chat-completion", {"messages": HELLO, "n": 3}),
    ("openai/chat-completion", {"messages": HELLO, "logprobs": True, "top_logprobs": 1}),
    ("openai/chat-completion", {"messages": [{"role": "user", "content": "!think"}]}),
    ("openai/completion", {"prompt": ["a", [1, 2]], "n": 2, "echo": True, "logprobs": 1}),
]


@pytest.mark.sqlite
@pytest.mark.parametrize(("task", "body"), JOBS)
def test_a_job_has_the_body_of_the_endpoint(http, ended, task, body):
    path = "chat/completions" if "messages" in body else "completions"
    direct = http.post(f"/openai/v1/{path}", json={"model": MODEL, **body})
    assert direct.status_code == 200, direct.text
    made = http.post("/api/jobs", json={"model_id": MODEL, "task": task, "input": body})
    assert made.status_code == 201, made.text
    result = ended(made.json()["id"])["result"]
    own = {"id", "created"}
    assert set(result) == set(direct.json())
    assert {k: v for k, v in result.items() if k not in own} == {
        k: v for k, v in direct.json().items() if k not in own
    }
    assert json.dumps(result["choices"])
