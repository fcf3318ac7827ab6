"""Grammars in the chat runner: shaped answers, forced calls, and others that go on meanwhile."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import jsonschema
import pytest

import inference
from inference.contracts.chat import TASK, ChatInput, Sampling
from inference.runners.base import Delta, Ended, Failed, InvalidInput, RunnerConfig
from inference.runners.chat import ChatRunner
from inference.runners.grammar import GrammarMatcher
from tests.inference.grammars import holding, schema_format, string
from tests.inference.recorder import Recorder
from tests.waiting import until

FOLDER = Path(inference.__file__).parent / "demo" / "weights" / "chat"
HELLO = [{"role": "user", "content": "Tell me about Paris."}]
CITY = holding(
    name=string(maxLength=12),
    size={"type": "integer", "minimum": 0, "maximum": 999},
    capital={"type": "boolean"},
) | {"additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": CITY}}


@pytest.fixture(scope="module")
def running():
    runner = ChatRunner(RunnerConfig("chat", str(FOLDER), slots=4))
    runner.load(lambda share, text: None)
    recorder = Recorder()
    runner.start(recorder)
    yield runner, recorder
    runner.unload()


def ask(runner, request_id, **settings):
    sampling = Sampling(**{"temperature": 1.0, "seed": 5, **settings.pop("sampling", {})})
    chat = ChatInput(HELLO, sampling, **settings)
    runner.submit(request_id, TASK, chat.as_dict(), salt="org")


def deltas(recorder, request_id):
    return [event for event in recorder.by_id.get(request_id, []) if isinstance(event, Delta)]


def test_every_choice_follows_the_schema(running):
    runner, recorder = running
    ask(runner, "schema", response_format=schema_format(CITY), n=3, max_tokens=100)
    assert isinstance(recorder.end("schema"), Ended)
    texts = {}
    for delta in deltas(recorder, "schema"):
        texts[delta.choice] = texts.get(delta.choice, "") + delta.text
    assert len(texts) == 3
    for text in texts.values():
        jsonschema.validate(json.loads(text), CITY)


def test_an_answer_ends_with_its_grammar_whatever_the_settings(running):
    runner, recorder = running
    ask(
        runner,
        "settings",
        response_format={"type": "choice", "choices": ["blue", "green"]},
        ignore_eos=True,
        max_tokens=50,
        logit_bias={30: 50.0},
        sampling={"top_k": 5, "min_p": 0.1, "frequency_penalty": 1.0},
    )
    assert recorder.end("settings").reason == "stop"
    assert recorder.text("settings") in {"blue", "green"}


def test_an_answer_that_is_cut_off_says_so(running):
    runner, recorder = running
    ask(runner, "short", response_format=schema_format(CITY), max_tokens=3)
    assert recorder.end("short").reason == "length"


def test_a_demanded_call_is_made_by_the_schema(running):
    runner, recorder = running
    for choice in ("required", "=look_up"):
        ask(runner, choice, tools=(TOOL,), tool_choice=choice, parallel_tool_calls=False)
        assert recorder.end(choice).reason == "tool_calls"
        pieces = deltas(recorder, choice)
        assert next(one.opens for one in pieces if one.opens)[1] == "look_up"
        arguments = "".join(one.text for one in pieces if one.kind == "arguments")
        jsonschema.validate(json.loads(arguments), CITY)


@pytest.mark.parametrize("choice", ["required", "=bad"])
def test_a_tool_that_cannot_be_constrained_is_named(running, choice):
    runner, _ = running
    schema = {"type": "object", "properties": {"a": string(pattern="(?=a)b")}, "required": ["a"]}
    bad = {"type": "function", "function": {"name": "bad", "parameters": schema}}
    with pytest.raises(InvalidInput) as refusal:
        ask(runner, "bad", tools=(TOOL, bad), tool_choice=choice)
    assert refusal.value.param == "tools[1].function.parameters"
    assert "look-around" in str(refusal.value)


def test_a_refused_tool_is_explained_without_our_own_grammar(running):
    runner, _ = running
    schema = {"type": "object", "properties": {"a": {"type": "nope"}}, "required": ["a"]}
    bad = {"type": "function", "function": {"name": "bad", "parameters": schema}}
    with pytest.raises(InvalidInput, match=r"Invalid type: nope$"):
        ask(runner, "odd", tools=(bad,), tool_choice="required")


def test_the_others_go_on_while_a_grammar_is_tried(running, monkeypatch):
    runner, recorder = running
    _, guard = runner._constraints._grammars._setup()
    is_trying, may_end = threading.Event(), threading.Event()
    fault = guard.fault

    def slow(text):
        is_trying.set()
        assert may_end.wait(60)
        return fault(text)

    monkeypatch.setattr(guard, "fault", slow)
    ask(runner, "stream", max_tokens=1500, ignore_eos=True)
    refused = []

    def bomb():
        try:
            ask(runner, "bomb", response_format={"type": "regex", "pattern": "a{1000000000}"})
        except InvalidInput as error:
            refused.append(error.param)

    thread = threading.Thread(target=bomb)
    thread.start()
    assert is_trying.wait(30)
    before = len(deltas(recorder, "stream"))
    until(lambda: len(deltas(recorder, "stream")) >= before + 20, 60)
    runner.cancel("stream")
    may_end.set()
    thread.join(30)
    assert refused == ["structured_outputs.regex"]
    assert isinstance(recorder.end("stream"), Ended)


def test_a_grammar_that_fails_midway_ends_its_request_alone(running, monkeypatch):
    runner, recorder = running
    accept = GrammarMatcher.accept

    def failing(self, token):
        accept(self, token)
        if self is doomed[0]:
            self._matcher.consume_token(0)
            self._check()

    doomed = [None]
    make = runner._constraints._grammars.maker_for

    def maker_for(source):
        fresh = make(source)

        def made():
            matcher = fresh()
            doomed[0] = doomed[0] or matcher
            return matcher

        return made

    monkeypatch.setattr(GrammarMatcher, "accept", failing)
    monkeypatch.setattr(runner._constraints._grammars, "maker_for", maker_for)
    for request_id in ("doomed", "spared"):
        ask(runner, request_id, response_format=schema_format(CITY), max_tokens=100)
    assert isinstance(recorder.end("doomed"), Failed)
    assert isinstance(recorder.end("spared"), Ended)
    jsonschema.validate(json.loads(recorder.text("spared")), CITY)
