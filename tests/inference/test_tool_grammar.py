"""Grammars of tool calls: whatever a model is made to write, the format's reader understands."""

from __future__ import annotations

import functools
import json

import jsonschema
import pytest
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from inference.runners.base import InvalidInput
from inference.runners.grammar import GrammarError, GrammarFactory
from inference.runners.tool_calls import schemas_of
from inference.runners.tool_formats import HERMES, LLAMA3, QWEN3_5
from inference.runners.tool_grammar import tool_grammar
from tests.inference.grammars import EOS, holding, string
from tests.inference.tiny_models import tiny_tokenizer

FORMATS = {form.grammar: form for form in (HERMES, QWEN3_5, LLAMA3)}
WIDTH = 340


def function(name, parameters=None, **more):
    given = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **given, **more}}


SEARCH = {
    "type": "object",
    "properties": {
        "query": string(maxLength=12),
        "unit": {"type": "string", "enum": ["c", "f"]},
        "days": {"type": "integer", "minimum": 0, "maximum": 99},
        "place": {"$ref": "#/$defs/Place"},
        "code": string(pattern="^[a-c]{3}/[0-9]$"),
        "mode": {"anyOf": [{"const": "fast", "type": "string"}, {"type": "null"}]},
    },
    "required": ["query", "days", "place"],
    "additionalProperties": False,
    "$defs": {
        "Place": holding(near={"type": "boolean"}) | {"additionalProperties": False},
    },
}
TOOLS = (function("search", SEARCH), function("stop_all"))


@functools.cache
def tokenizer(*, marks: bool) -> PreTrainedTokenizerFast:
    """With or without tokens of their own for the marks of calls."""
    backend = type(tiny_tokenizer().backend_tokenizer).from_str(
        tiny_tokenizer().backend_tokenizer.to_str()
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    if marks:
        made.add_tokens([AddedToken(text) for text in ("<tool_call>", "</tool_call>")])
    return made


@functools.cache
def factory(*, marks: bool) -> GrammarFactory:
    return GrammarFactory(tokenizer(marks=marks), WIDTH, {EOS})


def marks_of(marks):
    return tokenizer(marks=marks).get_added_vocab() if marks else {}


def answer(form, tools, choice, *, marks=True, seed=0, ends=3.0, begin="", most=900, **settings):
    """A random answer after `begin`, and whether it is complete."""
    source = tool_grammar(form, tools, choice, marks=marks_of(marks), **settings)
    matcher = factory(marks=marks).maker_for(source)()
    words = tokenizer(marks=marks)
    tokens = words.encode(begin, add_special_tokens=False)
    for token in tokens:
        matcher.accept(token)
    rng = torch.Generator().manual_seed(seed)
    bias = torch.zeros(WIDTH)
    for text in ('"', "}", "\n", "<", "/"):
        bias[words.encode(text, add_special_tokens=False)] = 4.0
    bias[EOS] = ends
    while len(tokens) < most and not matcher.is_over:
        logits = torch.randn(WIDTH, generator=rng) + bias
        matcher.process(logits)
        token = int(logits.argmax())
        matcher.accept(token)
        if token == EOS:
            break
        tokens.append(token)
    return words.decode(tokens), matcher.can_end


def calls_in(form, text, tools):
    """The calls as the format's own reader understands them."""
    opening, closing = FORMATS[form].call
    parts = text.split(opening)[1:] if opening else [text]
    bodies = [part.split(closing)[0] if closing else part for part in parts]
    return [call for body in bodies for call in FORMATS[form].read(body, schemas_of(tools))]


def check(calls, tools):
    schemas = schemas_of(tools)
    for call in calls:
        jsonschema.validate(json.loads(call.arguments), schemas[call.name])


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("form", FORMATS)
def test_demanded_calls_follow_the_tools_schema(form, marks):
    names = set()
    for seed in range(8):
        text, whole = answer(form, TOOLS, "required", seed=seed, marks=marks)
        if not whole:
            continue
        calls = calls_in(form, text, TOOLS)
        assert calls
        check(calls, TOOLS)
        names |= {call.name for call in calls}
    assert names == {"search", "stop_all"}


@pytest.mark.parametrize("form", FORMATS)
def test_a_named_call_is_that_one_and_the_only_one(form):
    for seed in range(4):
        text, whole = answer(form, TOOLS, "=stop_all", seed=seed, ends=-9.0)
        assert whole
        calls = calls_in(form, text, TOOLS)
        assert [(call.name, call.arguments) for call in calls] == [("stop_all", "{}")]


@pytest.mark.parametrize("form", ["hermes", "qwen3_5"])
def test_calls_are_one_or_many(form):
    both = {}
    for parallel in (True, False):
        text, _ = answer(form, TOOLS[1:], "required", ends=-9.0, parallel=parallel, most=200)
        both[parallel] = text.count("<tool_call>")
    assert both[False] == 1
    assert both[True] > 1


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("form", FORMATS)
def test_a_free_answer_follows_the_schema_once_it_calls(form, marks):
    tools = (function("search", SEARCH, strict=True), function("free", SEARCH))
    begin = FORMATS[form].example.split("look_up")[0]
    opening = begin if form == "llama3" else f"the fox {begin}"
    seen = 0
    for seed in range(6):
        text, whole = answer(
            form, tools, "auto", marks=marks, seed=seed, begin=f"{opening}search", ends=6.0
        )
        if whole:
            calls = calls_in(form, text, tools)
            assert calls[0].name == "search"
            check([call for call in calls if call.name == "search"], tools)
            seen += 1
    assert seen


@pytest.mark.parametrize("form", FORMATS)
def test_a_free_answer_needs_no_call(form):
    tools = (function("search", SEARCH, strict=True),)
    text, whole = answer(form, tools, "auto", begin="the cat", ends=30.0)
    assert (text, whole) == ("the cat", True)
    with pytest.raises(GrammarError):
        answer(form, tools, "auto", begin=FORMATS[form].example)


def test_a_spelled_out_mark_binds_as_its_token_does():
    tools = (function("search", SEARCH, strict=True),)
    source = tool_grammar("hermes", tools, "auto", marks=marks_of(True))
    matcher = factory(marks=True).maker_for(source)()
    words = tokenizer(marks=False)  # knows no such token
    for token in words.encode("the <tool_call>", add_special_tokens=False):
        matcher.accept(token)
    with pytest.raises(GrammarError):
        matcher.accept(words.encode("fox", add_special_tokens=False)[0])


def test_content_by_schema_or_calls():
    content = holding(a={"type": "boolean"}) | {"additionalProperties": False}
    kinds = set()
    for begin in ('{"a"', "<tool_call>"):
        text, whole = answer("hermes", TOOLS, "auto", content=content, begin=begin)
        assert whole
        if text.startswith("{"):
            jsonschema.validate(json.loads(text), content)
            kinds.add("content")
        else:
            check(calls_in("hermes", text, TOOLS), TOOLS)
            kinds.add("calls")
    assert kinds == {"content", "calls"}


def test_nothing_is_constrained_where_nothing_was_asked():
    assert tool_grammar("hermes", TOOLS, "auto") is None
    assert tool_grammar("hermes", TOOLS, "none") is None
    assert tool_grammar("hermes", (), "auto") is None


def test_refusals_name_the_place():
    broken = (*TOOLS, function("bad", {"type": "object", "not": {}}))
    for form, tools, choice, param in (
        ("hermes", broken, "required", "tools[2].function.parameters"),
        ("hermes", TOOLS, "=none_such", "tool_choice"),
        ("mistral", TOOLS, "required", "tool_choice"),
        ("hermes", (function(""),), "required", "tools[0].function.name"),
        ("hermes", (function("a", []),), "required", "tools[0].function.parameters"),
    ):
        with pytest.raises(InvalidInput) as refusal:
            tool_grammar(form, tools, choice)
        assert refusal.value.param == param


@pytest.mark.parametrize("form", FORMATS)
def test_odd_names_stay_names(form):
    tools = (function('a"b\\c', {"type": "object", "properties": {}}),)
    source = tool_grammar(form, tools, "required")
    assert factory(marks=False).maker_for(source)()
