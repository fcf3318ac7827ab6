"""Answers with thinking and tool calls: every split of a text gives the same pieces."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers.utils.chat_parsing import parse_response

from inference.contracts.chat import ChatInput
from inference.runners.base import ARGUMENTS, CONTENT, REASONING
from inference.runners.parsed_answer import AnswerMaker, ParsedAnswer
from inference.runners.regions import RENEW_AFTER, regions_for
from inference.runners.text import DetokenizerFactory
from inference.runners.tool_calls import schemas_of
from inference.runners.tool_formats import (
    HERMES,
    LLAMA3,
    MISTRAL,
    QWEN3_5,
    THINK,
    TOOL_FORMATS,
    AnswerFormat,
)

TOOL = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {
            "type": "object",
            "$defs": {"Seat": {"type": "object"}},
            "properties": {
                "city": {"type": "string"},
                "nights": {"type": "integer"},
                "price": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                "breakfast": {"type": "boolean"},
                "guests": {"type": "array"},
                "seat": {"$ref": "#/$defs/Seat"},
                "stars": {"enum": [3, 4, 5]},
                "loose": {"type": ["string", "null"]},
            },
        },
    },
}


class Parts:
    """Token number i is the i-th part of a text."""

    def __init__(self, parts):
        self.parts = parts

    def push(self, token):
        return self.parts[token]


def stream(parts, form, *, calls=True, tail="", stop=(), **wishes):
    """The pieces of one answer, and the answer itself."""
    answer = ParsedAnswer(
        Parts(parts),
        regions_for(form, tail, calls=calls),
        form=form.tools if calls else None,
        schemas=schemas_of([TOOL]),
        stop=stop,
        leading=form.think is not None,
        **wishes,
    )
    pieces = []
    for token in range(len(parts)):
        pieces += answer.push(token)
        if answer.stopped:
            return pieces, answer
    return [*pieces, *answer.finish()], answer


def message(pieces):
    """What a client puts together: content, reasoning, and calls as (name, arguments)."""
    calls = []
    for piece in pieces:
        if piece.opens:
            assert re.fullmatch(r"call_[0-9a-f]{24}", piece.opens[0])
            assert piece.kind == ARGUMENTS
            assert piece.call == len(calls)
            calls.append([piece.opens[1], ""])
        if piece.kind == ARGUMENTS:
            calls[piece.call][1] += piece.text
    text = {
        kind: "".join(piece.text for piece in pieces if piece.kind == kind)
        for kind in (CONTENT, REASONING)
    }
    return text[CONTENT], text[REASONING], [(name, json.loads(text)) for name, text in calls]


def cut(text, points):
    edges = [0, *sorted({point % (len(text) + 1) for point in points}), len(text)]
    return [text[a:b] for a, b in pairwise(edges) if b > a] or [""]


HERMES_FORM = AnswerFormat(HERMES, THINK)
MARKUP_FORM = AnswerFormat(QWEN3_5, THINK)
MISTRAL_FORM = AnswerFormat(MISTRAL, None)
LLAMA_FORM = AnswerFormat(LLAMA3, None)


def hermes(name="book", arguments='{"city": "Paris"}'):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def markup(name="book", **values):
    inner = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in values.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


PARIS = ("book", {"city": "Paris"})
CASES = {
    "plain": (HERMES_FORM, "Just words, 1 < 2 and <b>bold</b>.", None, "", []),
    "one": (HERMES_FORM, hermes(), "", "", [PARIS]),
    "parallel": (
        HERMES_FORM,
        f"{hermes()}\n{hermes('f', '{}')}\n\n{hermes()}",
        "",
        "",
        [PARIS, ("f", {}), PARIS],
    ),
    "around": (HERMES_FORM, f"Let me see. \n{hermes()}\n done", "Let me see.done", "", [PARIS]),
    "thinking": (
        HERMES_FORM,
        f"<think>\n a < b </thin \n</think>\n\nWell\n{hermes()}",
        "Well",
        "a < b </thin",
        [PARIS],
    ),
    "thinking unclosed": (HERMES_FORM, "<think>\nhm, <tool_call>", "", "hm, <tool_call>", []),
    "closing mark in a string": (
        HERMES_FORM,
        hermes(arguments='{"x": "a</tool_call>b\\"</tool_call>"}') + " after",
        "after",
        "",
        [("book", {"x": 'a</tool_call>b"</tool_call>'})],
    ),
    "unicode": (
        HERMES_FORM,
        "é 你\n" + hermes(arguments='{"x": "Zürich 😀 \\u00e9\\n"}'),
        "é 你",
        "",
        [("book", {"x": "Zürich 😀 é\n"})],
    ),
    "broken json": (HERMES_FORM, "<tool_call>{bad}</tool_call> x", None, "", []),
    "broken string": (
        HERMES_FORM,
        f'<tool_call>{{"name": "a\n</tool_call>\n{hermes()}',
        '<tool_call>{"name": "a\n</tool_call>',
        "",
        [PARIS],
    ),
    "no name": (HERMES_FORM, '<tool_call>{"arguments": {}}</tool_call>', None, "", []),
    "list of arguments": (HERMES_FORM, hermes(arguments="[1]"), None, "", []),
    "not a number": (HERMES_FORM, hermes(arguments='{"a": NaN}'), None, "", []),
    "endless number": (HERMES_FORM, hermes(arguments='{"a": 1e999}'), None, "", []),
    "unclosed": (HERMES_FORM, 'Hi <tool_call>{"name": "a", "argu', None, "", []),
    "unclosed but whole": (HERMES_FORM, hermes().removesuffix("</tool_call>"), "", "", [PARIS]),
    "half a mark": (HERMES_FORM, "so <tool_ca", None, "", []),
    "nested": (HERMES_FORM, f"<tool_call>{hermes()}</tool_call>", None, "", []),
    "arguments as text": (
        HERMES_FORM,
        hermes(arguments='"{\\"city\\": \\"Paris\\"}"'),
        "",
        "",
        [PARIS],
    ),
    "no arguments": (HERMES_FORM, '<tool_call>{"name": "f"}</tool_call>', "", "", [("f", {})]),
    "half a surrogate": (
        HERMES_FORM,
        hermes(arguments='{"a": "\\ud800"}'),
        "",
        "",
        [("book", {"a": "\ud800"})],
    ),
    "markup": (
        MARKUP_FORM,
        markup(
            city=" Rue <1>\n  two",
            nights="3",
            price="2.5",
            breakfast="True",
            guests='["a", "é"]',
            seat='{"row": 1}',
            stars="4",
            loose="null",
            other="7",
        ),
        "",
        "",
        [
            (
                "book",
                {
                    "city": " Rue <1>\n  two",
                    "nights": 3,
                    "price": 2.5,
                    "breakfast": True,
                    "guests": ["a", "é"],
                    "seat": {"row": 1},
                    "stars": 4,
                    "loose": None,
                    "other": "7",
                },
            )
        ],
    ),
    "markup misfits": (
        MARKUP_FORM,
        markup(city="5", nights="three", price="null", guests="{}", breakfast="maybe"),
        "",
        "",
        [
            (
                "book",
                {
                    "city": "5",
                    "nights": "three",
                    "price": None,
                    "guests": "{}",
                    "breakfast": "maybe",
                },
            )
        ],
    ),
    "markup parallel": (
        MARKUP_FORM,
        f"<think>\nx\n</think>\n\nOk\n\n{markup(city='Paris')}\n{markup('f')}",
        "Ok",
        "x",
        [PARIS, ("f", {})],
    ),
    "markup broken": (
        MARKUP_FORM,
        "<tool_call>\n<function=a>\n<parameter=x\n</tool_call>",
        None,
        "",
        [],
    ),
    "markup unclosed": (MARKUP_FORM, "<tool_call>\n<function=a>\n<parameter=x>\n1", None, "", []),
    "markup with json": (MARKUP_FORM, hermes(), None, "", []),
    "mistral": (
        MISTRAL_FORM,
        '[TOOL_CALLS] [{"name": "book", "arguments": {"city": "Paris"}}, '
        '{"name": "f", "arguments": {}}]',
        "",
        "",
        [PARIS, ("f", {})],
    ),
    "mistral broken": (MISTRAL_FORM, "a [b] [TOOL_CALLS] [{]", None, "", []),
    "llama": (LLAMA_FORM, '{"name": "book", "parameters": {"city": "Paris"}}', "", "", [PARIS]),
    "llama parallel": (
        LLAMA_FORM,
        '\n<|python_tag|>{"name": "book", "parameters": {"city": "Paris"}}; {"name": "f"}\n',
        "",
        "",
        [PARIS, ("f", {})],
    ),
    "llama answers in json": (LLAMA_FORM, '{"a": {"b": "}"}} and {"name": "f"}', None, "", []),
    "llama text": (LLAMA_FORM, ' See {"name": "f"}', None, "", []),
    "llama unclosed": (LLAMA_FORM, '{"name": "f", "param', None, "", []),
}


@pytest.mark.parametrize("name", CASES)
@given(points=st.lists(st.integers(0, 400), max_size=40))
@settings(max_examples=25, deadline=None)
def test_every_split_gives_the_same(name, points):
    form, text, content, reasoning, calls = CASES[name]
    wanted = (text if content is None else content, reasoning, calls)
    for parts in (cut(text, points), list(text), [text]):
        pieces, answer = stream(parts, form)
        assert message(pieces) == wanted
        assert answer.reason("stop") == ("tool_calls" if calls else "stop")
        assert answer.reason("length") == "length"


@given(
    text=st.lists(
        st.sampled_from(
            [
                *'<>{}"\\ \nab1:,;[]',
                "<think>",
                "</think>",
                "<tool_call>",
                "</tool_call>",
                hermes(),
                markup(city="x"),
                '"name":',
                "</function>",
                "<parameter=",
                "[TOOL_CALLS]",
            ]
        ),
        max_size=25,
    ).map("".join),
    points=st.lists(st.integers(0, 400), max_size=30),
    form=st.sampled_from([HERMES_FORM, MARKUP_FORM, MISTRAL_FORM, LLAMA_FORM]),
    stop=st.sampled_from([(), ("a<",), ("b", "\n\n")]),
)
@settings(max_examples=400, deadline=None)
def test_any_text_in_any_split_gives_the_same_and_never_fails(text, points, form, stop):
    whole, _ = stream([text], form, stop=stop)
    for parts in (cut(text, points), list(text) or [""]):
        pieces, _ = stream(parts, form, stop=stop)
        assert message(pieces) == message(whole)


AGREED = ["one", "parallel", "thinking", "unicode", "unclosed but whole", "markup parallel", "mistral", "llama"]  # fmt: skip


@pytest.mark.parametrize("name", AGREED)
def test_whole_texts_are_read_as_transformers_reads_them(name):
    form, text, *_ = CASES[name]
    theirs = parse_response(text, form.tools.response_template, prefix="", tools=[TOOL])
    content, reasoning, calls = message(stream([text], form)[0])
    assert content == theirs.get("content", "")
    assert reasoning == theirs.get("reasoning_content", "")
    found = [
        call["function"]
        for item in theirs["tool_calls"]
        for call in (item if isinstance(item, list) else [item])
    ]
    assert [(one["name"], one["arguments"]) for one in found] == calls


@pytest.mark.parametrize("name", ["markup", "markup misfits"])
def test_arguments_are_cast_as_transformers_casts_them(name):
    form, text, *_, calls = CASES[name]
    theirs = parse_response(text, form.tools.response_template, prefix="", tools=[TOOL])
    arguments = theirs["tool_calls"][0]["function"]["arguments"]
    ours = dict(calls[0][1])
    for key in ("seat", "stars"):  # theirs follows neither references nor enumerations
        arguments.pop(key, None)
        ours.pop(key, None)
    assert arguments == ours


@pytest.mark.parametrize("form", TOOL_FORMATS, ids=lambda form: form.name)
def test_each_format_reads_its_example(form):
    pieces, _ = stream(list(form.example), AnswerFormat(form))
    assert message(pieces) == ("", "", [("look_up", {"city": "Paris"})])


def test_a_prompt_may_have_opened_the_thinking():
    pieces, answer = stream(["hm", "m", "</think>", "\n\n", "Yes"], HERMES_FORM, tail="<think>\n")
    assert message(pieces) == ("Yes", "hmm", [])
    assert answer.reasoning_tokens == 2
    closed = "assistant\n<think>\n\n</think>\n\n"
    pieces, answer = stream(["Yes"], HERMES_FORM, tail=closed)
    assert (message(pieces), answer.reasoning_tokens) == (("Yes", "", []), 0)


def test_tokens_of_reasoning_are_those_between_the_marks():
    parts = ["<think>", "\n", "a", " b", "\n", "</think>", "\n\n", "c"]
    _, answer = stream(parts, HERMES_FORM)
    assert answer.reasoning_tokens == 4


def test_without_tools_a_call_is_content():
    text = f"so {hermes()}"
    assert message(stream(list(text), HERMES_FORM, calls=False)[0]) == (text, "", [])


def test_one_call_is_enough_where_calls_are_not_parallel():
    for form, text in (
        (HERMES_FORM, f"{hermes()}\n{hermes('f')}"),
        (LLAMA_FORM, '{"name": "book", "parameters": {"city": "Paris"}};{"name": "f"}'),
        (MISTRAL_FORM, CASES["mistral"][1]),
    ):
        for parts in ([text], list(text)):
            pieces, answer = stream(parts, form, single=True)
            assert message(pieces) == ("", "", [PARIS])
            assert answer.stopped or form is MISTRAL_FORM
            assert answer.finish() == ()
            assert answer.reason("stop") == "tool_calls"


def test_stop_strings_apply_to_content_alone():
    call = hermes(arguments='{"x": "STOP"}')
    text = f"<think>\nSTOP\n</think>\n\nab {call} cd STOP ef"
    for parts in ([text], list(text)):
        pieces, answer = stream(parts, HERMES_FORM, stop=("STOP",))
        assert message(pieces) == ("abcd ", "STOP", [("book", {"x": "STOP"})])
        assert answer.stopped
    split = f"a ST{hermes()}OP b"
    content, _, calls = message(stream(list(split), HERMES_FORM, stop=("STOP",))[0])
    assert (content, calls) == ("a STOP b", [PARIS])


def test_a_blank_stop_string_stops_at_once_but_not_after_thinking():
    parts = ["<think>", "x", "</think>", "\n\n", "one", "\n\n", "two"]
    pieces, answer = stream(parts, HERMES_FORM, stop=("\n\n",))
    assert message(pieces) == ("one", "x", [])
    assert answer.stopped


def test_arguments_that_a_grammar_makes_come_as_they_are_made():
    text = hermes(arguments='{"x": {"y": "}</tool_call>"}, "z": 1}')
    pieces, _ = stream(list(text), HERMES_FORM, sure=True)
    assert message(pieces) == ("", "", [("book", {"x": {"y": "}</tool_call>"}, "z": 1})])
    assert len([piece for piece in pieces if piece.kind == ARGUMENTS]) > 10
    assert all(piece.kind == ARGUMENTS for piece in pieces)
    cut_off, answer = stream(list(text[:60]), HERMES_FORM, sure=True)
    name, arguments = cut_off[0].opens[1], "".join(piece.text for piece in cut_off)
    assert (name, arguments) == ("book", text[text.index('{"x"') : 60])
    assert answer.reason("length") == "length"
    two = f"{hermes()}\n{hermes('f', '{}')}"
    assert message(stream(list(two), HERMES_FORM, sure=True)[0])[2] == [PARIS, ("f", {})]


def test_deep_and_long_json_is_content_not_a_crash():
    for inside in ("[" * 200_000, '{"a":' * 50_000, "1" * 10_000):
        text = hermes(arguments=inside)
        assert message(stream([text], HERMES_FORM)[0]) == (text, "", [])


@pytest.mark.parametrize("part", ["<", "</", "<think>", "</tool_call>", "<tool_call>", "a < b"])
@pytest.mark.parametrize("start", ["", '<tool_call>{"a": "'])
def test_what_the_parser_keeps_does_not_grow_with_the_answer(part, start):
    regions = regions_for(HERMES_FORM, "", calls=True)
    for text in (start, *[part] * 3_000):
        list(regions.feed(text))
        assert regions._fed <= RENEW_AFTER + len(part) + len("</tool_call>")
        assert len(regions._parser._buffer) <= RENEW_AFTER + 64


def spelled(special):
    """A byte-level tokenizer whose marks are added tokens, special or not."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    marks = [*THINK, *HERMES.call]
    backend.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    backend.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    return backend


@pytest.mark.parametrize("special", [True, False])
def test_marks_are_seen_even_as_special_tokens_and_no_other_special_token_is_shown(special):
    backend = spelled(special)
    maker = AnswerMaker(backend, DetokenizerFactory(backend), HERMES_FORM)
    text = f"<think>\né\n</think>\n\nOk 你<|im_end|>\n{hermes()}"
    chat = ChatInput([{"role": "user", "content": "x"}], tools=(TOOL,))
    answer = maker(chat, "")
    pieces = [piece for token in backend.encode(text).ids for piece in answer.push(token)]
    pieces += answer.finish()
    assert message(pieces) == ("Ok 你", "é", [PARIS])
    assert answer.reasoning_tokens == 4  # a line break, two bytes, a line break


def test_plain_requests_take_the_short_way():
    backend = spelled(False)
    maker = AnswerMaker(backend, DetokenizerFactory(backend), AnswerFormat(HERMES, None))
    hello = [{"role": "user", "content": "x"}]
    kinds = [
        type(maker(ChatInput(hello, **wishes), "")).__name__
        for wishes in ({}, {"tools": (TOOL,), "tool_choice": "none"}, {"tools": (TOOL,)})
    ]
    assert kinds == ["PlainAnswer", "PlainAnswer", "ParsedAnswer"]


def test_prompts_without_a_template_are_continued_as_they_are():
    backend = spelled(False)
    maker = AnswerMaker(backend, DetokenizerFactory(backend), HERMES_FORM)
    answer = maker(ChatInput([], prompts=("x",)), "")
    assert type(answer).__name__ == "PlainAnswer"
