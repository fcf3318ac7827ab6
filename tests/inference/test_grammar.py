"""Structured output: schemas that work, bombs that do no harm, masks."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import jsonschema
import pytest
import torch

from inference.runners.base import InvalidInput
from inference.runners.grammar import (
    GrammarError,
    GrammarFactory,
    ReasoningThen,
    forbidden,
)
from inference.runners.grammar_guard import TOO_MUCH, TOO_SLOW, GrammarGuard, TrialLimits
from inference.runners.grammar_source import GrammarSource, json_source, source_of
from inference.runners.schema import ready_schema
from tests.inference.grammars import (
    COSTLY_PATTERNS,
    EOS,
    REFUSED,
    TAKEN,
    WILD_PATTERNS,
    draw,
    factory,
    holding,
    schema_format,
    string,
    text_of,
)
from tests.inference.tiny_models import VOCABULARY, tiny_tokenizer

PERSON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Person",
    "description": "Somebody",
    "type": "object",
    "$defs": {
        "Address": {
            "type": "object",
            "properties": {"street": string(maxLength=8), "zip": {"type": ["string", "null"]}},
            "required": ["street", "zip"],
            "additionalProperties": False,
        }
    },
    "properties": {
        "name": {"title": "Name", "type": "string", "maxLength": 6, "default": "x"},
        "nick": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}], "default": None},
        "home": {"$ref": "#/$defs/Address"},
        "tags": {"type": "array", "items": string(maxLength=3), "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "nick", "home", "tags"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer", "minimum": 0, "maximum": 9},
                "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "left"],
            "additionalProperties": False,
        }
    },
}
UNION = {
    "oneOf": [
        holding(kind={"const": "cat"}, lives={"type": "integer", "maximum": 9, "minimum": 1}),
        holding(kind={"const": "dog"}, tricks={"type": "boolean"}),
    ],
    "discriminator": {"propertyName": "kind"},
}
FEATURES = {
    "person": PERSON,
    "tree": TREE,
    "union": {"type": "object", "properties": {"pet": UNION}, "required": ["pet"]},
    "enum": holding(a={"enum": ["red", "green", 3, None, True]}),
    "const": holding(a={"const": {"b": [1, "x"]}}),
    "scalars": holding(
        i={"type": "integer", "minimum": -99, "maximum": 99},
        n={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
        b={"type": "boolean"},
        z={"type": "null"},
    ),
    "steps": holding(a={"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}),
    "formats": holding(
        a=string(format="date-time"),
        b=string(format="uuid"),
        c=string(format="date"),
        d=string(format="ipv4"),
        e=string(format="time"),
    ),
    "email": holding(a=string(format="email", maxLength=12)),
    "unknown format": holding(a=string(format="password", maxLength=4)),
    "pattern": holding(a=string(pattern="^[a-c]{2,4}-[0-9]{3}$")),
    "lengths": holding(a=string(minLength=3, maxLength=5)),
    "lists": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "integer", "maximum": 9}, "minItems": 2},
        "minItems": 1,
        "maxItems": 2,
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, {"type": "null"}],
        "items": False,
        "minItems": 2,
    },
    "map": {"type": "object", "additionalProperties": {"type": "integer", "maximum": 9}},
    "open object": holding(a={"type": "boolean"}) | {"additionalProperties": True},
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}},
        "additionalProperties": False,
    },
    "types": holding(a={"type": ["boolean", "null"]}),
    "extra keys": holding(a={"type": "boolean", "x-order": 1, "examples": [True]})
    | {"strict": True, "uniqueItems": False},
    "draft 7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"a": {"type": "boolean"}},
        "type": "object",
        "properties": {"q": {"$ref": "#/definitions/a"}},
        "required": ["q"],
    },
}


@pytest.mark.parametrize("name", FEATURES)
def test_random_answers_follow_the_schema(name):
    schema = FEATURES[name]
    whole = 0
    for seed in range(6):
        matcher = factory().matcher_for(schema_format(schema))
        answer = draw(matcher, seed)
        if not matcher.can_end:  # cut off like an answer by max_tokens
            continue
        whole += 1
        jsonschema.validate(
            json.loads(text_of(answer)),
            schema,
            format_checker=jsonschema.FormatChecker(formats=["date", "ipv4", "uuid", "email"]),
        )
    assert whole


def test_json_object_gives_objects():
    for seed in range(5):
        matcher = factory().matcher_for({"type": "json_object"})
        answer = draw(matcher, seed)
        assert text_of(answer).startswith("{")
        if matcher.can_end:
            assert isinstance(json.loads(text_of(answer)), dict)


def test_blanks_cannot_run_on():
    schema = holding(a={"type": "boolean"}, b={"const": 1}) | {"additionalProperties": False}
    matcher = factory().matcher_for(schema_format(schema))
    text = text_of(draw(matcher, likes={" ": 50.0, "\n": 50.0}))
    assert text in {'{"a": true, "b": 1}', '{"a": false, "b": 1}'}


def test_a_callers_own_compiler_settings_are_ignored():
    schema = {**holding(a={"const": 1}), "x-guidance": {"whitespace_flexible": True}}
    assert source_of(schema_format(schema)) == source_of(schema_format(holding(a={"const": 1})))


def test_other_kinds_of_grammars():
    make = factory().matcher_for
    assert text_of(draw(make({"type": "choice", "choices": ["yes", 'n"o']}))) in {"yes", 'n"o'}
    text = text_of(draw(make({"type": "regex", "pattern": "[ab]{3}-[0-9]{2}"})))
    assert len(text) == 6
    assert set(text[:3]) <= {"a", "b"}
    lark = 'start: "a" (" " "b")~2..2'
    assert text_of(draw(make({"type": "grammar", "grammar": lark}))) == "a b b"


def test_the_end_is_allowed_exactly_when_the_grammar_is_satisfied():
    matcher = factory().matcher_for({"type": "regex", "pattern": "(the){1,3}"})
    the = tiny_tokenizer().encode("the", add_special_tokens=False)
    for _ in range(2):
        for token in the:
            assert allowed(matcher)[EOS] == matcher.can_end
            matcher.accept(token)
        assert matcher.can_end
        assert allowed(matcher)[EOS]
        assert not matcher.is_over
    for token in the:
        matcher.accept(token)
    assert matcher.is_over
    assert allowed(matcher).nonzero().flatten().tolist() == [EOS]
    matcher.accept(EOS)  # an engine that goes on does no harm
    assert matcher.is_over


def test_a_token_outside_of_the_grammar_is_an_error():
    matcher = factory().matcher_for({"type": "regex", "pattern": "the"})
    with pytest.raises(GrammarError):
        matcher.accept(tiny_tokenizer().encode("fox")[0])


def test_choices_of_one_request_are_apart():
    make = factory().maker_for(source_of({"type": "regex", "pattern": "[a-z]{2,9}"}))
    first, second = make(), make()
    for token in draw(first):
        assert token is not None
    assert not second.can_end
    assert draw(second)


def test_a_failed_matcher_leaves_its_row_and_the_others():
    broken = factory().matcher_for({"type": "regex", "pattern": "the"})
    with pytest.raises(GrammarError):
        broken.accept(0)
    logits = torch.zeros(2, VOCABULARY)
    with pytest.raises(GrammarError):
        broken.process(logits[0])
    factory().matcher_for({"type": "json_object"}).process(logits[1])
    assert torch.equal(logits[0], torch.zeros(VOCABULARY))
    assert torch.isinf(logits[1]).any()


def test_masks_are_unpacked_bit_by_bit():
    packed = torch.tensor([[0b101, -(1 << 31)]], dtype=torch.int32)
    free = (~forbidden(packed, 70))[0].nonzero().flatten().tolist()
    assert free == [0, 2, 63]
    assert forbidden(packed, 40).shape == (1, 40)


def allowed(matcher):
    logits = torch.zeros(VOCABULARY)
    matcher.process(logits)
    return logits == 0


# -- thinking -------------------------------------------------------------------------------


def test_a_grammar_begins_after_the_thoughts():
    matcher = factory().matcher_for({"type": "regex", "pattern": "the"})
    thinking = ReasoningThen(matcher, [7, 8], {EOS})
    for token in (9, 7, 9, 7):
        free = allowed(thinking)
        assert not free[EOS]
        assert free.sum() == VOCABULARY - 1
        thinking.accept(token)
        assert not thinking.is_over
    thinking.accept(8)
    assert allowed(thinking).sum() < 10
    for token in tiny_tokenizer().encode("the", add_special_tokens=False):
        thinking.accept(token)
    assert thinking.is_over


def test_thinking_may_be_left_out():
    def fresh():
        matcher = factory().matcher_for({"type": "regex", "pattern": "the"})
        return ReasoningThen(matcher, [8], {EOS}, start_id=7)

    thinks = fresh()
    first = allowed(thinks)
    assert first[7]
    thinks.accept(7)
    assert allowed(thinks).sum() == VOCABULARY - 1
    thinks.accept(8)
    assert not allowed(thinks)[7]
    answers = fresh()
    answers.accept(tiny_tokenizer().encode("the", add_special_tokens=False)[0])
    assert not allowed(answers)[7]


# -- bombs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_broken_schemas_and_bombs_are_refused(name):
    schema, part = REFUSED[name]
    with pytest.raises(InvalidInput) as refusal:
        factory().matcher_for(schema_format(schema))
    # On a slow machine the bound of time may come before that of size.
    parts = (part, "takes too much time") if part == "too complex" else (part,)
    assert any(word in str(refusal.value) for word in parts)
    assert len(str(refusal.value)) <= 320
    assert refusal.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize("name", TAKEN)
def test_large_schemas_are_taken_within_bounds(name):
    matcher = factory().matcher_for(schema_format(TAKEN[name]))
    assert draw(matcher, most=60)


@pytest.mark.parametrize("pattern", COSTLY_PATTERNS)
def test_patterns_that_cost_too_much_are_refused(pattern):
    with pytest.raises(InvalidInput) as refusal:
        factory().matcher_for({"type": "regex", "pattern": pattern})
    assert refusal.value.param == "structured_outputs.regex"


@pytest.mark.parametrize("pattern", WILD_PATTERNS)
def test_patterns_that_only_look_costly_are_taken(pattern):
    matcher = factory().matcher_for({"type": "regex", "pattern": pattern})
    assert draw(matcher, most=60)


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"type": "regex", "pattern": "\ud800"}, "structured_outputs.regex"),
        ({"type": "regex", "pattern": "a" * 9000}, "structured_outputs.regex"),
        ({"type": "choice", "choices": []}, "structured_outputs.choice"),
        ({"type": "choice", "choices": ["a"] * 2000}, "structured_outputs.choice"),
        ({"type": "grammar", "grammar": "start: nothing"}, "structured_outputs.grammar"),
        ({"type": "poem"}, "response_format.type"),
    ],
)
def test_other_wishes_are_checked(wish, param):
    with pytest.raises(InvalidInput) as refusal:
        factory().matcher_for(wish)
    assert refusal.value.param == param


def guard(**limits):
    backend = tiny_tokenizer().backend_tokenizer
    return GrammarGuard(backend.to_str(), VOCABULARY, [EOS], {}, trial=TrialLimits(**limits))


HEAVY = json.dumps({"grammars": [{"json_schema": {"type": "integer", "multipleOf": 999_983}}]})


@pytest.mark.parametrize("limits", [{"cpu_s": 0.1}, {"wall_s": 0.1}, {"memory": 24 << 20}])
def test_the_kernel_ends_a_trial_that_takes_too_much(limits):
    checked = guard(**{"cpu_s": 30.0, "wall_s": 30.0, "memory": 1 << 30, **limits})
    try:
        assert checked.fault(HEAVY) == (TOO_SLOW if "wall_s" in limits else TOO_MUCH)
        assert checked.fault(json_source({"type": "null"}, "").text) is None
    finally:
        checked.close()


def test_a_refusal_by_the_clock_is_tried_again():
    made = GrammarFactory(
        tiny_tokenizer(), VOCABULARY, [EOS], trial=TrialLimits(cpu_s=30.0, wall_s=0.1)
    )
    source = GrammarSource(HEAVY, "here")
    try:
        for _ in range(2):
            with pytest.raises(InvalidInput):
                made.maker_for(source)
            assert not made._cache
    finally:
        made.close()


def test_a_helper_that_dies_is_replaced():
    checked = guard()
    try:
        assert checked.fault(json_source({}, "").text) is None
        process = checked._pool._all[0]._process
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert checked.fault(json_source({"type": "null"}, "").text) is None
    finally:
        checked.close()
    assert all(helper._process is None for helper in checked._pool._all)


def test_what_many_ask_for_at_once_is_tried_once():
    made = GrammarFactory(tiny_tokenizer(), VOCABULARY, {EOS})
    tried = []
    made._setup()
    checked = made._tools[1]
    original = checked.fault

    def fault(text):
        tried.append(text)
        time.sleep(0.05)
        return original(text)

    checked.fault = fault
    threads = [
        threading.Thread(target=made.matcher_for, args=[{"type": "json_object"}]) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(2):
        with pytest.raises(InvalidInput):
            made.matcher_for({"type": "regex", "pattern": "(a"})
    made.close()
    assert len(tried) == 2


def test_the_cache_stays_small():
    made = GrammarFactory(tiny_tokenizer(), VOCABULARY, {EOS})
    try:
        for number in range(40):
            values = [f"{number} {i} {'x' * 100}" for i in range(500)]
            made.matcher_for({"type": "choice", "choices": values})
        assert sum(made._sizes.values()) <= 1 << 20
        assert 0 < len(made._cache) < 40
        assert made._cache.keys() == made._sizes.keys()
    finally:
        made.close()


def test_ready_schemas_leave_the_callers_own_alone():
    schema = {"type": "array", "uniqueItems": False, "items": {"format": "password"}}
    before = json.dumps(schema)
    assert ready_schema(schema, "x") == {"type": "array", "items": {}}
    assert json.dumps(schema) == before
