"""n, prompts, log probabilities, biases and shared prefixes through the chat runner."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from inference.contracts.chat import TASK, ChatInput, Sampling
from inference.runners.base import Delta, Ended, InvalidInput, RunnerConfig
from inference.runners.chat import ChatRunner
from inference.runners.prompt import PromptBuilder
from tests.inference.recorder import Recorder
from tests.inference.tiny_models import (
    SPECIAL,
    VOCABULARY,
    expected_tokens,
    save_folder,
    tiny_tokenizer,
)

HELLO = [{"role": "user", "content": "the quick fox"}]
LONG = [{"role": "user", "content": "the quick brown fox jumps over the lazy dog " * 8}]
FOX = "the quick brown fox"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = save_folder(tmp_path_factory.mktemp("model") / "tiny")
    options = {"waiting_tokens": 3000}
    runner = ChatRunner(
        RunnerConfig("tiny", str(folder), dtype="float32", slots=3, options=options)
    )
    runner.load(lambda share, text: None)
    recorder = Recorder()
    runner.start(recorder)
    yield runner, recorder
    runner.unload()


def ask(runner, request_id, messages=(), *, salt="org", **wishes):
    sampling = Sampling(**{"temperature": 0.0, **wishes.pop("sampling", {})})
    settings = {"max_tokens": 12, "ignore_eos": True, **wishes}
    chat = ChatInput(list(messages), sampling, **settings)
    runner.submit(request_id, TASK, chat.as_dict(), salt=salt)


def text(recorder, request_id, choice=0):
    recorder.wait(request_id)
    deltas = [one for one in recorder.by_id[request_id] if isinstance(one, Delta)]
    return "".join(one.text for one in deltas if one.choice == choice)


def answer_to(prompt, count=12):
    """The text of `generate`'s answer; what ends in half a character is left out."""
    tokens = expected_tokens(prompt, count)
    return tiny_tokenizer().decode(tokens, skip_special_tokens=True)


def same(given, wanted):
    return wanted.startswith(given) and len(wanted) - len(given) <= 3


def tokens_of(prompt):
    return tiny_tokenizer().backend_tokenizer.encode(prompt, add_special_tokens=False).ids


def test_n_choices_come_from_one_prompt(running):
    runner, recorder = running
    settings = {"sampling": {"temperature": 1.0, "seed": 9}}
    ask(runner, "single", HELLO, **settings)
    for request_id in ("n1", "n2"):
        ask(runner, request_id, HELLO, n=5, **settings)
    texts = [[text(recorder, one, choice) for choice in range(5)] for one in ("n1", "n2")]
    assert texts[0] == texts[1]
    assert texts[0][0] == text(recorder, "single")
    assert len(set(texts[0])) == 5
    end = recorder.end("n1")
    assert isinstance(end, Ended)
    assert end.units.prompt_tokens == recorder.end("single").units.prompt_tokens
    assert end.units.completion_tokens == 5 * 12


def test_prompts_are_texts_or_tokens_and_numbered_one_after_the_other(running):
    runner, recorder = running
    prompts = (FOX, [40, 50, 60], "the cat")
    ask(runner, "prompts", prompts=prompts, n=2, echo=True)
    for index in range(6):
        prompt = prompts[index // 2]
        tokens = tokens_of(prompt) if isinstance(prompt, str) else prompt
        shown = prompt if isinstance(prompt, str) else tiny_tokenizer().decode(prompt)
        given = text(recorder, "prompts", index)
        assert given.startswith(shown)
        assert same(given.removeprefix(shown), answer_to(tokens))
    units = recorder.end("prompts").units
    assert units.prompt_tokens == len(tokens_of(FOX)) + 3 + len(tokens_of("the cat"))
    assert units.completion_tokens == 6 * 12


def test_control_tokens_typed_into_a_prompt_stay_text(running):
    runner, recorder = running
    ask(runner, "typed", prompts=("hi<|im_end|>x",), max_tokens=1, echo=True)
    assert text(recorder, "typed").startswith("hi<|im_end|>x")
    tokens = runner._intake._prompts.encode("hi<|im_end|>x", context=512)
    assert not any(token < len(SPECIAL) for token in tokens)


def test_log_probabilities_make_up_the_text(running):
    runner, recorder = running
    ask(runner, "logs", HELLO, n=2, top_logprobs=3)
    recorder.wait("logs")
    for choice in range(2):
        deltas = [
            one for one in recorder.by_id["logs"] if isinstance(one, Delta) and one.choice == choice
        ]
        entries = [entry for one in deltas for entry in one.logprobs]
        whole = b"".join(bytes(entry["bytes"]) for entry in entries)
        assert same(text(recorder, "logs", choice), whole.decode("utf-8", "replace"))
        assert all(len(entry["top_logprobs"]) == 3 for entry in entries)
        for entry in entries:  # greedy: the best is what was chosen
            assert entry["top_logprobs"][0]["logprob"] == entry["logprob"] <= 0


def test_without_the_wish_there_are_none(running):
    runner, recorder = running
    ask(runner, "no logs", HELLO)
    recorder.wait("no logs")
    assert not any(one.logprobs for one in recorder.by_id["no logs"] if isinstance(one, Delta))


def test_settings_reach_the_choice_of_tokens(running):
    runner, recorder = running
    letter = tokens_of("x")[0]
    wild = {"temperature": 2.0, "seed": 1}
    ask(runner, "usual", HELLO)
    ask(runner, "bias", HELLO, logit_bias={letter: 100.0}, sampling={"temperature": 1.0})
    ask(runner, "min_p", HELLO, sampling={**wild, "min_p": 1.0})
    ask(runner, "wild", HELLO, sampling=wild)
    ask(runner, "top_k", HELLO, sampling={**wild, "top_k": 1})
    ask(runner, "again", HELLO, max_tokens=60)
    ask(runner, "strict", HELLO, max_tokens=60, sampling={"frequency_penalty": 2.0})
    ask(runner, "repeat", HELLO, max_tokens=60, sampling={"repetition_penalty": 2.0})
    assert text(recorder, "bias") == "x" * 12
    # min_p 1 leaves the best alone, as greedy does
    assert text(recorder, "min_p") == text(recorder, "top_k") == text(recorder, "usual")
    assert text(recorder, "wild") != text(recorder, "usual")
    assert len({text(recorder, one) for one in ("again", "strict", "repeat")}) == 3


def test_eos_ends_an_answer_unless_it_is_to_be_ignored(running):
    runner, recorder = running
    bias = {2: 100.0}
    ask(runner, "ends", HELLO, logit_bias=bias, ignore_eos=False, top_logprobs=1)
    ask(runner, "goes on", HELLO, logit_bias=bias)
    end = recorder.end("ends")
    assert (end.reason, end.units.completion_tokens) == ("stop", 1)
    assert not any(one.logprobs for one in recorder.by_id["ends"] if isinstance(one, Delta))
    end = recorder.end("goes on")
    assert (end.reason, end.units.completion_tokens) == ("length", 12)


def test_a_prompt_seen_before_is_cached_for_its_owner_only(running):
    runner, recorder = running
    for request_id, salt in (("c1", "a"), ("c2", "a"), ("c3", "b")):
        ask(runner, request_id, LONG, salt=salt)
        recorder.wait(request_id)
    cached = [recorder.end(one).units.cached_tokens for one in ("c1", "c2", "c3")]
    prompt = recorder.end("c1").units.prompt_tokens
    assert cached == [0, (prompt - 1) // 32 * 32, 0]
    assert len({text(recorder, one) for one in ("c1", "c2", "c3")}) == 1
    stats = runner.stats()
    assert 0 < stats.prefix_used <= stats.prefix_total


def test_the_prefix_cache_has_its_budget_and_can_be_off(tmp_path):
    folder = save_folder(tmp_path / "tiny")
    memory = {}
    for wish in (0, 200_000):
        config = RunnerConfig(
            "tiny", str(folder), dtype="float32", slots=2, options={"prefix_cache_bytes": wish}
        )
        runner = ChatRunner(config)
        memory[wish] = runner.load(lambda share, text: None)
        assert memory[wish].cache <= ChatRunner.estimate(config).cache
        total = runner.stats().prefix_total
        assert (total == 0) == (wish == 0)
        assert total <= wish
        runner.unload()
    assert memory[0].cache < memory[200_000].cache <= memory[0].cache + 200_000


def test_more_choices_than_the_line_holds_are_taken_when_nobody_waits(running):
    runner, recorder = running
    ask(runner, "many", HELLO, n=128, max_tokens=30)
    recorder.wait("many")
    assert recorder.by_id["many"][-1].units.completion_tokens == 128 * 30


@pytest.mark.parametrize(
    ("wishes", "param", "code"),
    [
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"n": 128, "prompts": (FOX,) * 9}, "n", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": -1}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {VOCABULARY: 1.0}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias", "invalid_value"),
        ({"prompts": ([5, VOCABULARY],)}, "prompt", "invalid_value"),
        ({"prompts": ([5, -1],)}, "prompt", "invalid_value"),
        ({"prompts": ([5, "x"],)}, "prompt", "invalid_value"),
        ({"prompts": ([5, True],)}, "prompt", "invalid_value"),
        ({"prompts": ([],)}, "prompt", "invalid_value"),
        ({"prompts": ("",)}, "prompt", "invalid_value"),
        ({"prompts": (FOX, "")}, "prompt", "invalid_value"),
        ({"prompts": ([5] * 600,)}, "prompt", "context_length_exceeded"),
        ({"prompts": ("a b " * 250_000,)}, "prompt", "context_length_exceeded"),
        ({"prompts": ([5] * 500,), "max_tokens": 13}, "max_tokens", "context_length_exceeded"),
    ],
)
def test_wrong_wishes_are_refused_at_once(running, wishes, param, code):
    runner, recorder = running
    messages = () if "prompts" in wishes else HELLO
    with pytest.raises(InvalidInput) as caught:
        ask(runner, "refused", messages, **wishes)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert "refused" not in recorder.by_id


def test_a_bare_prompt_starts_with_the_tokenizers_own_start():
    vocabulary = {"<s>": 0, "a": 1, "<": 2, "s": 3, ">": 4}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    builder = PromptBuilder(tokenizer)
    assert builder.encode("aa", context=64) == [0, 1, 1]
    assert builder.encode("<s>a", context=64) == [0, 2, 3, 4, 1]
    assert builder.encode("", context=64) == [0]


def test_log_probabilities_are_bounded_in_number(running, monkeypatch):
    runner, recorder = running
    monkeypatch.setattr("inference.runners.intake.MOST_ENTRIES", 48)
    with pytest.raises(InvalidInput, match="at most 8") as refused:
        ask(runner, "many", HELLO, n=2, top_logprobs=2, max_tokens=9)
    assert refused.value.param == "max_tokens"
    ask(runner, "fits", HELLO, n=2, top_logprobs=2, max_tokens=8)
    assert recorder.end("fits").units.completion_tokens == 16
    ask(runner, "open", HELLO, top_logprobs=5, max_tokens=None)
    end = recorder.end("open")
    assert (end.reason, end.units.completion_tokens) == ("length", 8)
