"""What the tests of grammars share: answers drawn at random, and requests made to hurt."""

from __future__ import annotations

import functools

import torch

from inference.runners.grammar import GrammarFactory
from tests.inference.tiny_models import VOCABULARY, tiny_tokenizer

EOS = 2


@functools.cache
def factory() -> GrammarFactory:
    return GrammarFactory(tiny_tokenizer(), VOCABULARY, {EOS})


def draw(matcher, seed=0, most=800, likes=None):
    """Tokens chosen at random among the allowed; likely to end strings, numbers and lists soon."""
    rng = torch.Generator().manual_seed(seed)
    tokens = []
    tokenizer = tiny_tokenizer()
    bias = torch.zeros(VOCABULARY)
    for text, amount in {'"': 4.0, "}": 3.0, "]": 3.0, ",": 1.0, **(likes or {})}.items():
        bias[tokenizer.encode(text, add_special_tokens=False)] = amount
    bias[EOS] = 3.0
    while len(tokens) < most and not matcher.is_over:
        logits = torch.randn(VOCABULARY, generator=rng) + bias
        matcher.process(logits)
        token = int(logits.argmax())
        assert logits[token] > -torch.inf
        matcher.accept(token)
        if token == EOS:
            break
        tokens.append(token)
    return tokens


def text_of(tokens):
    return tiny_tokenizer().decode(tokens)


def schema_format(schema):
    return {"type": "json_schema", "schema": schema}


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def all_of_any(count):
    def one(name):
        return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}

    return {"allOf": [{"anyOf": [one(f"p{i}"), one(f"q{i}")]} for i in range(count)]}


def doubling(count, key):
    defs = {"d0": {"type": "object", "properties": {"x": {"type": "string"}}}}
    for i in range(1, count):
        both = {"$ref": f"#/$defs/d{i - 1}"}
        defs[f"d{i}"] = (
            {"allOf": [both, both]}
            if key == "allOf"
            else {"type": "object", "properties": {"a": both, "b": both}, "required": ["a", "b"]}
        )
    return {"$defs": defs, "$ref": f"#/$defs/d{count - 1}"}


def string(**limits):
    return {"type": "string", **limits}


def holding(**properties):
    return {"type": "object", "properties": properties, "required": list(properties)}


# refused, with a part of the message
REFUSED = {
    "deep nesting": (nested(1000), "nests deeper"),
    "large schema": ({"enum": [f"value {i}" for i in range(9000)]}, "larger than 64 KB"),
    "long pattern": (string(pattern="a" * 9000), "pattern is larger"),
    "many optional properties": (
        {"type": "object", "properties": {f"p{i}": string() for i in range(1500)}},
        "too complex",
    ),
    "allOf explosion": (all_of_any(24), "too complex"),
    "reference to itself": ({"$ref": "#"}, "no text can satisfy"),
    "circle of references": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "no text can satisfy",
    ),
    "circle with siblings": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
        "circular",
    ),
    "overlapping patternProperties": (
        {"type": "object", "patternProperties": {"a.*": string(), ".*b": {"type": "integer"}}},
        "not disjoint",
    ),
    "intersections": (
        {"type": "string", "allOf": [{"pattern": f"^[^{c}]*{c}[^{c}]*$"} for c in "abcdefghijkl"]},
        "too complex",
    ),
    "large step": ({"type": "integer", "multipleOf": 999_983}, "'multipleOf'"),
    "huge bound": ({"type": "integer", "minimum": 10**300}, "'minimum' is out of range"),
    "broken pattern": (string(pattern="(a"), "unclosed group"),
    "look-ahead": (string(pattern="(?=a)b"), "look-around"),
    "back reference": (string(pattern=r"(a)\1"), "backreferences"),
    "not": (holding(a={"not": {"type": "null"}}), "'not' is not supported (at #/properties/a)"),
    "if": ({"type": "object", "if": {}, "then": {}}, "'if' is not supported"),
    "uniqueItems": ({"type": "array", "uniqueItems": True}, "'uniqueItems' is not supported"),
    "web reference": ({"$ref": "https://example.com/a.json"}, "only point into the schema"),
    "file reference": ({"$ref": "file:///etc/passwd"}, "only point into the schema"),
    "dangling reference": ({"$ref": "#/$defs/none"}, "does not exist"),
    "unknown type": ({"type": "strnig"}, "strnig"),
    "schema is a list": ([], "must be a JSON object"),
    "false": (False, "must be a JSON object"),
    "not a number": ({"const": float("nan")}, "not valid JSON"),
    "impossible length": (string(minLength=5, maxLength=2), "minLength"),
}
# taken, since llguidance is lazy: their cost comes in small parts
TAKEN = {
    "nesting": nested(40),
    "4,000 values": {"enum": [f"value-{i:05d}" for i in range(3000)]},
    "nested repeats": holding(a=string(pattern="^(a{1,1000}){1,1000}$")),
    "nested stars": holding(a=string(pattern="^((((a*)*)*)*)*$")),
    "late letter": holding(a=string(pattern="^(a|b)*a(a|b){20}$")),
    "letter classes": holding(a=string(pattern=r"^(\p{L}|\p{N}|\p{P}|\p{S}){1,500}$")),
    "minLength": holding(a=string(minLength=10**9)),
    "maxLength": holding(a=string(maxLength=10**9)),
    "maxItems": {"type": "array", "items": string(), "maxItems": 10**9},
    "minItems": {"type": "array", "items": string(), "minItems": 10**9},
    "recursion": {
        "$ref": "#/$defs/n",
        "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
    },
    "recursion without end": {
        "$ref": "#/$defs/a",
        "$defs": {"a": holding(next={"$ref": "#/$defs/a"})},
    },
    "doubling references": doubling(30, "properties"),
    "doubling allOf": doubling(30, "allOf"),
    "maxProperties": {"type": "object", "maxProperties": 10**9},
}
COSTLY_PATTERNS = [
    "a{1000000000}",
    "a?" * 2000 + "a" * 2000,
    "(a",
    "(?!a)b",
]
WILD_PATTERNS = [
    "(.{1,1000}){1,1000}",
    "(a{1,1000}){1,1000}",
    "((a{1,100}){1,100}){1,100}",
    "(a+)+b",
    "(a|b)*a(a|b){20}",
    r"\w{1,1000000}",
]
