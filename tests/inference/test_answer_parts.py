"""Contracts, parts, choices and their events, without a server."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.api.openai.serializers import ChatCompletionRequest, CompletionRequest
from inference.api.openai.streams import DONE, ChatStream, CompletionStream
from inference.contracts import chat, completion
from inference.contracts.answers import ARGUMENTS, CONTENT, REASONING, Choices, Part, part_size
from inference.hub import Finished, Started, Text

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
TOOL = st.builds(
    lambda name, schema: {"type": "function", "function": {"name": name, "parameters": schema}},
    st.text("abc_", min_size=1, max_size=5),
    st.dictionaries(TEXT, JSON, max_size=3),
)
CONTRACT = st.builds(
    chat.ChatInput,
    messages=st.lists(st.builds(lambda text: {"role": "user", "content": text}, TEXT), max_size=3),
    sampling=st.builds(
        chat.Sampling,
        temperature=st.none() | st.floats(0, 2),
        top_k=st.none() | st.integers(0, 9),
        frequency_penalty=st.floats(-2, 2),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    ),
    max_tokens=st.none() | st.integers(1, 99),
    stop=st.lists(TEXT, max_size=4).map(tuple),
    ignore_eos=st.booleans(),
    n=st.integers(1, 128),
    top_logprobs=st.none() | st.integers(0, 20),
    logit_bias=st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100), max_size=3),
    response_format=st.none() | st.builds(lambda s: {"type": "json_schema", "schema": s}, JSON),
    tools=st.lists(TOOL, max_size=3).map(tuple),
    tool_choice=st.sampled_from(["none", "auto", "required", "=f"]),
    parallel_tool_calls=st.booleans(),
    template=st.dictionaries(st.sampled_from(["enable_thinking", "thinking"]), st.booleans()),
    prompts=st.lists(TEXT | st.lists(st.integers(0, 99), max_size=3), max_size=3).map(tuple),
    echo=st.booleans(),
)


@given(CONTRACT)
def test_a_contract_survives_its_frame(contract):
    frame = json.loads(json.dumps(contract.as_dict()))
    assert chat.ChatInput.from_dict(frame) == contract
    assert chat.ChatInput.from_dict({**frame, "of later code": 1}) == contract


def test_only_what_differs_travels():
    plain = chat.ChatInput(messages=[]).as_dict()
    assert set(plain) == {"messages", "sampling", "max_tokens", "stop"}


def checked(kind, **fields):
    serializer = kind(data={"model": "m", **fields})
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data


HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"n": 3, "max_tokens": 5, "max_completion_tokens": 7}, {"n": 3, "max_tokens": 7}),
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": ["", "x"]}, {"stop": ("x",)}),
        ({"logprobs": True}, {"top_logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 4}, {"top_logprobs": 4}),
        ({"logprobs": False}, {}),
        ({"logit_bias": {"007": 1}}, {"logit_bias": {7: 1.0}}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {"response_format": {"type": "json_object"}},
            {"response_format": {"type": "json_object"}},
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"a": 1}, "strict": True},
                }
            },
            {"response_format": {"type": "json_schema", "schema": {"a": 1}, "strict": True}},
        ),
        (
            {"structured_outputs": {"choice": ["a", "b"]}},
            {"response_format": {"type": "choice", "choices": ["a", "b"]}},
        ),
        ({"structured_outputs": {}}, {}),
        (
            {"functions": [{"name": "f"}], "function_call": {"name": "f"}},
            {"tools": ({"type": "function", "function": {"name": "f"}},), "tool_choice": "=f"},
        ),
        ({"reasoning_effort": "high"}, {"template": {"enable_thinking": True, "thinking": True}}),
        (
            {"reasoning_effort": "high", "chat_template_kwargs": {"thinking": False}},
            {"template": {"enable_thinking": False, "thinking": False}},
        ),
        (dict.fromkeys(("n", "tools", "tool_choice", "logit_bias", "response_format")), {}),
    ],
)
def test_from_a_chat_body(fields, expected):
    body = checked(ChatCompletionRequest, messages=HELLO, **fields)
    assert chat.from_body(body) == chat.ChatInput(messages=HELLO, **expected)


def test_from_a_completion_body():
    body = checked(CompletionRequest, prompt=["a", [1, 2]], n=2, logprobs=0, echo=True)
    assert completion.from_body(body) == chat.ChatInput(
        messages=[], prompts=("a", [1, 2]), n=2, top_logprobs=0, echo=True, max_tokens=16
    )
    assert chat.choice_count(completion.from_body(body).as_dict()) == 4


PART = st.builds(
    Part,
    TEXT,
    choice=st.integers(0, 2),
    kind=st.sampled_from([CONTENT, REASONING, ARGUMENTS]),
    call=st.integers(0, 1),
    opens=st.none() | st.tuples(TEXT, TEXT),
    reason=st.none() | st.sampled_from(["stop", "length"]),
)


@given(PART)
def test_a_part_survives_its_frame(part):
    values = json.loads(json.dumps(part.as_list()))
    assert Part.from_list(values) == part
    assert part_size(values) == len(part.text) + 1


def entry(token, logprob=-0.5):
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}


def test_choices_keep_apart_what_is_mixed():
    choices = Choices(3)
    choices.add_text("a")
    choices.add(Part("x", choice=1))
    choices.add(Part("hm", choice=1, kind=REASONING))
    choices.add(Part("", choice=1, kind=ARGUMENTS, call=1, opens=("c1", "g")))
    choices.add(Part("", choice=1, kind=ARGUMENTS, call=0, opens=("c0", "f")))
    choices.add(Part("{}", choice=1, kind=ARGUMENTS, call=0, reason="tool_calls"))
    choices.add(Part("[1]", choice=1, kind=ARGUMENTS, call=1))
    choices.add_text("b")
    choices.finish("length")
    first, second, third = chat.choice_bodies(choices)
    assert first["message"] == {"role": "assistant", "content": "ab"}
    assert second["message"]["content"] == "x"
    assert second["message"]["reasoning_content"] == "hm"
    calls = second["message"]["tool_calls"]
    assert [(call["id"], call["function"]["arguments"]) for call in calls] == [
        ("c0", "{}"),
        ("c1", "[1]"),
    ]
    assert third["message"]["content"] == ""
    reasons = [choice["finish_reason"] for choice in (first, second, third)]
    assert reasons == ["length", "tool_calls", "length"]
    with pytest.raises(IndexError):
        choices.add(Part("x", choice=3))


def test_offsets_of_tokens_begin_after_an_echoed_prompt():
    choices = Choices(1)
    choices.add_text("prompt ")
    choices.add(Part("ab", logprobs=(entry("a"), entry("b"))))
    choices.finish("stop")
    (body,) = completion.choice_bodies(choices)
    assert body["text"] == "prompt ab"
    assert body["logprobs"]["text_offset"] == [7, 8]


def call_of(**body):
    return SimpleNamespace(job_id="a-b", created=1.5, requested_model="m", body=body)


def events(stream, pieces):
    out = stream.opening() + b"".join(stream.chunks(piece) for piece in pieces)
    assert out.endswith(DONE)
    lines = out.removesuffix(DONE).decode().split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line[6:]) for line in lines]


END = Finished("stop", {"prompt_tokens": 2, "completion_tokens": 3}, [], 0, 0)


@given(st.lists(TEXT.filter(bool).map(Text) | PART.filter(lambda part: not part.opens), max_size=8))
def test_a_stream_says_what_the_whole_answer_says(pieces):
    """Whatever comes in whatever order: one role and one end for each choice, the same texts."""
    ended, kept = set(), []
    for piece in pieces:  # no choice speaks after its end, and calls are opened first
        choice = getattr(piece, "choice", 0)
        if choice in ended or getattr(piece, "kind", "") == ARGUMENTS:
            continue
        kept.append(piece)
        if getattr(piece, "reason", None):
            ended.add(choice)
    whole = Choices(3)
    for piece in kept:
        whole.add_text(piece.text) if isinstance(piece, Text) else whole.add(piece)
    whole.finish("stop")
    wish = {"n": 3, "stream_options": {"include_usage": True}}
    found = events(ChatStream(call_of(**wish)), [Started(1, 0), *kept, END])
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["total_tokens"] == 5
    assert all(event["usage"] is None for event in found[:-1])
    said = [event["choices"][0] for event in found[:-1]]
    assert [choice["index"] for choice in said[:3]] == [0, 1, 2]
    for index, expected in enumerate(chat.choice_bodies(whole)):
        own = [choice for choice in said if choice["index"] == index]
        assert [choice["delta"].get("role") for choice in own].count("assistant") == 1
        message = expected["message"]
        for key in ("content", "reasoning_content"):
            text = "".join(choice["delta"].get(key, "") for choice in own)
            assert text == message.get(key, "")
        reasons = [choice["finish_reason"] for choice in own if choice["finish_reason"]]
        assert reasons == [expected["finish_reason"]]
        assert own[-1]["finish_reason"]


def test_a_call_is_opened_without_arguments():
    pieces = [
        Part('{"a"', kind=ARGUMENTS, call=0, opens=("c0", "f")),
        Part(": 1}", kind=ARGUMENTS, call=0, reason="tool_calls"),
    ]
    found = events(ChatStream(call_of()), [*pieces, END])
    calls = [event["choices"][0]["delta"].get("tool_calls") for event in found]
    opened = {"id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}}
    assert calls == [
        None,
        [{"index": 0, **opened}],
        [{"index": 0, "function": {"arguments": '{"a"'}}],
        [{"index": 0, "function": {"arguments": ": 1}"}}],
        None,
    ]
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert all("usage" not in event for event in found)


def test_a_completion_stream_counts_its_offsets():
    pieces = [
        Text("prompt "),
        Part("a", logprobs=(entry("a"),)),
        Part("q", choice=1, logprobs=(entry("q"),)),
        Part("bc", logprobs=(entry("b"), entry("c"))),
    ]
    found = events(CompletionStream(call_of(prompt=["x"], n=2)), [*pieces, END])
    offsets = [
        (choice["index"], choice["logprobs"]["text_offset"])
        for event in found
        for choice in event["choices"]
        if choice["logprobs"]
    ]
    assert offsets == [(0, [7]), (1, [0]), (0, [8, 9])]
