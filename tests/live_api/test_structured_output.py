"""Structured output of the demo model, through the official client."""

from __future__ import annotations

import json
import threading

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

pytestmark = pytest.mark.slow
QUESTION = [{"role": "user", "content": "Tell me about Paris."}]
BOMBS = {
    "step": {"type": "integer", "multipleOf": 999_983},
    "depth": {"$ref": "#"},
    "all": {
        "allOf": [
            {
                "anyOf": [
                    {"type": "object", "properties": {f"{c}{i}": {}}, "required": [f"{c}{i}"]}
                    for c in "pq"
                ]
            }
            for i in range(24)
        ]
    },
    "optional": {
        "type": "object",
        "properties": {f"p{i}": {"type": "string"} for i in range(1500)},
    },
}


class Place(BaseModel):
    street: str = Field(max_length=10)
    number: int = Field(ge=1, le=99)


class City(BaseModel):
    name: str = Field(max_length=12)
    capital: bool
    mayor: str | None = Field(max_length=8)
    places: list[Place] = Field(min_length=1, max_length=2)


def shaped(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def test_parse_gives_the_model(sdk, demo):
    answer = sdk.chat.completions.parse(
        model=demo, messages=QUESTION, response_format=City, max_tokens=300
    )
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, City)
    assert answer.choices[0].finish_reason == "stop"


def test_loose_schemas_and_json_objects_are_followed_too(sdk, demo):
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    for wish in (shaped(schema), {"type": "json_object"}):
        answer = sdk.chat.completions.create(
            model=demo, messages=QUESTION, response_format=wish, max_tokens=200
        )
        assert answer.choices[0].message.content.startswith("{")
        if wish["type"] == "json_schema":
            jsonschema.validate(json.loads(answer.choices[0].message.content), schema)


def test_a_cut_off_answer_raises_in_parse(sdk, demo):
    with pytest.raises(openai.LengthFinishReasonError):
        sdk.chat.completions.parse(
            model=demo, messages=QUESTION, response_format=City, max_tokens=3
        )


def test_demanded_calls_fit_the_tool(sdk, demo):
    schema = City.model_json_schema()
    tool = {"type": "function", "function": {"name": "save_city", "parameters": schema}}
    for choice in ("required", {"type": "function", "function": {"name": "save_city"}}):
        answer = sdk.chat.completions.create(
            model=demo,
            messages=QUESTION,
            tools=[tool],
            tool_choice=choice,
            parallel_tool_calls=False,
            max_tokens=400,
        )
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "save_city"
        City.model_validate_json(call.function.arguments)


def test_an_unsupported_keyword_is_named(sdk, demo):
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(openai.BadRequestError) as refusal:
        sdk.chat.completions.create(model=demo, messages=QUESTION, response_format=shaped(schema))
    assert refusal.value.param == "response_format.json_schema.schema"
    assert "uniqueItems" in refusal.value.message


def test_bombs_are_refused_while_another_answer_goes_on(sdk, demo):
    pieces, params = [], set()
    stream = sdk.chat.completions.create(
        model=demo, messages=QUESTION, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    is_running = threading.Event()

    def read():
        for chunk in stream:
            pieces.append(chunk)
            is_running.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert is_running.wait(30)
    for schema in BOMBS.values():
        with pytest.raises(openai.BadRequestError) as refusal:
            sdk.chat.completions.create(
                model=demo, messages=QUESTION, response_format=shaped(schema), max_tokens=5
            )
        params.add(refusal.value.param)
    still_running = reader.is_alive()
    reader.join(120)
    assert params == {"response_format.json_schema.schema"}
    assert still_running
    finished = [chunk.choices[0].finish_reason for chunk in pieces if chunk.choices]
    assert finished[-1] == "length"
