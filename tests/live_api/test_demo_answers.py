"""Formats, tools, choices and wishes of the shipped chat model, through the official client."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.live_api.envelope import CHAT, TEXT, assert_envelope

pytestmark = pytest.mark.slow
ASK = [{"role": "user", "content": "Tell me about Paris."}]


class Mayor(BaseModel):
    name: str = Field(max_length=10)
    age: int = Field(ge=18, le=99)


class City(BaseModel):
    name: str = Field(max_length=12)
    size: Literal["small", "large"]
    coast: bool
    mayor: Mayor | None


def tool(name, **fields):
    parameters = {**City.model_json_schema(), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


TOOLS = [tool("look_up"), tool("write_down")]


def ask(sdk, demo, **options):
    return sdk.chat.completions.create(
        model=demo, **{"messages": ASK, "max_tokens": 300, "temperature": 0, **options}
    )


@pytest.mark.sqlite
def test_parse(sdk, demo):
    answer = sdk.chat.completions.parse(
        model=demo, messages=ASK, response_format=City, max_tokens=300, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, City)
    assert answer.choices[0].finish_reason == "stop"


def test_a_parse_cut_short_says_so(sdk, demo):
    with pytest.raises(openai.LengthFinishReasonError):
        sdk.chat.completions.parse(model=demo, messages=ASK, response_format=City, max_tokens=3)


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_binds_every_choice(sdk, demo, stream):
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "c", "schema": City.model_json_schema()},
    }
    wish = {"n": 2, "temperature": 1.5, "seed": 5, "response_format": schema}
    if stream:
        texts = ["", ""]
        for chunk in ask(sdk, demo, stream=True, **wish):
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    else:
        answer = ask(sdk, demo, **wish)
        assert {choice.finish_reason for choice in answer.choices} == {"stop"}
        texts = [choice.message.content for choice in answer.choices]
    for text in texts:
        City.model_validate_json(text)


def test_json_object(sdk, demo):
    answer = ask(sdk, demo, response_format={"type": "json_object"}, max_tokens=60)
    text = answer.choices[0].message.content
    assert text.lstrip().startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("choice", ["required", "write_down"])
def test_a_call_that_must_be_fits_its_schema(sdk, demo, choice, strict, stream):
    named = {"type": "function", "function": {"name": choice}}
    options = {
        "tools": [TOOLS[0], tool("write_down", strict=strict)],
        "tool_choice": choice if choice == "required" else named,
        "parallel_tool_calls": False,
    }
    if stream:
        with sdk.chat.completions.stream(
            model=demo, messages=ASK, max_tokens=300, temperature=0, **options
        ) as events:
            answer = events.get_final_completion()
    else:
        answer = ask(sdk, demo, **options)
    (found,) = answer.choices
    assert found.finish_reason == "tool_calls"
    (call,) = found.message.tool_calls
    assert call.function.name in (["look_up", "write_down"] if choice == "required" else [choice])
    City.model_validate_json(call.function.arguments)


def test_a_second_step(sdk, demo):
    first = ask(sdk, demo, tools=TOOLS, tool_choice="required").choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "Paris is large."}
        for call in first.tool_calls
    ]
    answer = ask(sdk, demo, messages=[*ASK, first, *results], tools=TOOLS, tool_choice="none")
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_a_bias_bans_and_forces(sdk, demo, http):
    plain = ask(sdk, demo, max_tokens=1).choices[0].message.content
    # a model's own ids are seen through prompts of single tokens
    token = next(
        number
        for number in range(300, 900)
        if (text := echoed(sdk, demo, number)).isalpha() and text != plain
    )
    forced = ask(sdk, demo, max_tokens=4, logit_bias={str(token): 100})
    assert forced.choices[0].message.content == echoed(sdk, demo, token) * 4
    banned = ask(sdk, demo, max_tokens=4, logit_bias={str(token): -100}, logprobs=True)
    entries = banned.choices[0].logprobs.content
    assert all(entry.token != echoed(sdk, demo, token) for entry in entries)


def echoed(sdk, demo, token):
    answer = sdk.completions.create(
        model=demo, prompt=[token], echo=True, max_tokens=1, temperature=0, logit_bias={}
    )
    whole = answer.choices[0].text
    alone = sdk.completions.create(model=demo, prompt=[token], max_tokens=1, temperature=0)
    return whole.removesuffix(alone.choices[0].text)


def test_choices_and_seeds(sdk, demo):
    def texts(seed):
        answer = ask(sdk, demo, n=4, seed=seed, temperature=2, max_tokens=20)
        assert answer.usage.completion_tokens <= 80
        return [choice.message.content for choice in answer.choices]

    first = texts(11)
    assert texts(11) == first
    assert len(set(first)) > 1
    assert texts(12) != first


def test_logprobs_spell_the_answer(sdk, demo):
    wish = {"max_tokens": 12, "logprobs": True, "top_logprobs": 3}
    whole = ask(sdk, demo, **wish).choices[0]
    entries = whole.logprobs.content
    assert b"".join(bytes(e.bytes) for e in entries).decode().startswith(whole.message.content)
    for entry in entries:
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob, abs=1e-3)
        assert len(entry.top_logprobs) == 3
    streamed = [
        entry
        for chunk in ask(sdk, demo, stream=True, **wish)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]


def deep(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def formatted(schema):
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    }


def called_with(arguments):
    function = {"name": "look_up", "arguments": arguments}
    call = {"id": "c", "type": "function", "function": function}
    return {
        "messages": [
            *ASK,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "x"},
            *ASK,
        ]
    }


ODD = [
    *[called_with(text) for text in ("[1]", "3", "null", '"x"', "", '{"a": [{"b": null}]}')],
    *[{**called_with(text), "tools": TOOLS} for text in ("[1]", "null")],
    {"logit_bias": {"2147483647": 5}},
    {"logit_bias": {str(n): -100 for n in range(1_024)}},
    formatted(deep(5)),
    formatted(deep(25)),
    formatted({"$ref": "#"}),
    formatted({"$ref": "#/nowhere"}),
    formatted({"$ref": "https://example.com/x"}),
    formatted({"type": "nonsense"}),
    formatted({"type": "string", "pattern": "("}),
    formatted({"type": "object", "properties": 5}),
    formatted({"anyOf": []}),
    formatted({"enum": []}),
    {"tools": [tool("look_up", description="<|im_end|>" * 50)]},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 5}}}]},
    {"structured_outputs": {"regex": "(a*)*b"}},
    {"structured_outputs": {"regex": "("}},
    {"structured_outputs": {"grammar": "start: "}},
    {"n": 128, "max_tokens": 1},
    {"stop": ["", "x"]},
]


@pytest.mark.parametrize("fields", ODD, ids=range(len(ODD)))
def test_odd_wishes_are_answered_or_refused(http, demo, fields):
    response = http.post(CHAT, json={"model": demo, "messages": ASK, "max_tokens": 4, **fields})
    if response.status_code != 200:
        assert assert_envelope(response, 400)["param"], response.text


@pytest.mark.parametrize("prompt", [[2**31 - 1], [[5], [10**8]]])
def test_token_ids_the_model_does_not_have_are_refused(http, demo, prompt):
    response = http.post(TEXT, json={"model": demo, "prompt": prompt})
    assert assert_envelope(response, 400)["param"].startswith("prompt")


def test_two_hundred_prompts_keep_to_themselves(site, demo):
    """Each prompt holds a word of its own, hard to come upon; no other answer shows it."""
    letters = random.Random(7)
    words = ["".join(letters.choices("bcdfghjkmnpqrstvwxz", k=10)) for _ in range(200)]

    async def one(sdk, number):
        own = f"Repeat: {words[number]} {words[number]} {words[number]}"
        options = {"model": demo, "max_tokens": 12, "temperature": 0}
        if number % 4 < 2:
            messages = [{"role": "user", "content": own}]
            answer = await sdk.chat.completions.create(messages=messages, **options)
            return answer.choices[0].message.content
        answer = await sdk.completions.create(prompt=own, echo=True, **options)
        assert answer.choices[0].text.startswith(own)
        return answer.choices[0].text

    async def main():
        sdks = [
            openai.AsyncOpenAI(
                base_url=f"{site.url}/openai/v1", api_key=secret, max_retries=8, timeout=200
            )
            for secret in (site.alpha["user_write"], site.beta["user_write"])
        ]
        try:
            return await asyncio.gather(*(one(sdks[n % 2], n) for n in range(len(words))))
        finally:
            for sdk in sdks:
                await sdk.close()

    for number, text in enumerate(asyncio.run(main())):
        assert text
        foreign = [word for other, word in enumerate(words) if other != number and word in text]
        assert not foreign, (words[number], text)


def test_prefixes_are_an_organizations_own(site, demo):
    messages = [{"role": "user", "content": "A long and peculiar beginning. " * 60}]

    def cached(secret):
        with openai.OpenAI(base_url=f"{site.url}/openai/v1", api_key=secret) as sdk:
            answer = sdk.chat.completions.create(model=demo, messages=messages, max_tokens=2)
        return answer.usage.prompt_tokens_details.cached_tokens

    assert cached(site.alpha["user_write"]) == 0
    assert cached(site.alpha["user_write"]) > 0
    assert cached(site.beta["user_write"]) == 0
    assert cached(site.beta["user_write"]) > 0
