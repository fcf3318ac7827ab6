"""Log probabilities: the model's own numbers, beside the text they belong to."""

from __future__ import annotations

import random

import pytest
import torch

from inference.runners.base import Delta
from inference.runners.logprobs import LEAST, LogprobLine, StepLogprobs
from inference.runners.text import DetokenizerFactory, TextStream
from tests.inference.engines import choices, generation, started
from tests.inference.tiny_models import expected_tokens, plain_model, random_prompt, tiny_tokenizer

FACTORY = DetokenizerFactory(tiny_tokenizer().backend_tokenizer)


def number_bytes(token):
    """As Numbers shows them."""
    return f"{token} ".encode()


def line(top, shown=number_bytes):
    return LogprobLine(top, shown=shown, named=number_bytes)


def entries_of(recorder, request_id, choice=0):
    recorder.wait(request_id)
    deltas = [one for one in recorder.by_id[request_id] if isinstance(one, Delta)]
    return [entry for one in deltas if one.choice == choice for entry in one.logprobs]


def wanted_logs(prompt, answer):
    """The log-softmax of a plain forward at each token of the answer."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.inference_mode():
        logits = plain_model()(input_ids=ids).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1].float(), -1)


@pytest.mark.parametrize("top", [0, 1, 20])
def test_they_are_those_of_a_plain_forward_whatever_the_company(engines, top):
    engine = engines(prefix_tokens=1024)
    recorder = started(engine)
    rng = random.Random(1)
    prompt = random_prompt(rng, 40, 40)
    engine.submit(generation("noise", random_prompt(rng), 25, temperature=1.0, seed=1))
    engine.submit(generation("one", prompt, 15, logprobs=line(top), org="a"))
    engine.submit(generation("two", prompt, 15, logprobs=line(2), org="a"))
    answer = expected_tokens(prompt, 15)
    logs = wanted_logs(prompt, answer)
    for request_id, count in (("one", top), ("two", 2)):
        entries = entries_of(recorder, request_id)
        assert len(entries) == 15
        for entry, token, row in zip(entries, answer, logs, strict=True):
            assert entry["token"] == f"{token} "
            assert bytes(entry["bytes"]) == number_bytes(token)
            assert entry["logprob"] == pytest.approx(row[token].item(), abs=1e-4)
            best = row.topk(count)
            shown = entry["top_logprobs"]
            assert [one["token"] for one in shown] == [f"{each} " for each in best.indices.tolist()]
            assert [one["logprob"] for one in shown] == pytest.approx(
                best.values.tolist(), abs=1e-4
            )


def test_they_are_told_before_anything_changes_them(engines):
    engine = engines()
    recorder = started(engine)
    prompt = random_prompt(random.Random(2), 12, 12)
    engine.submit(
        generation(
            "one",
            prompt,
            10,
            temperature=0.8,
            top_p=0.9,
            seed=3,
            presence_penalty=1.0,
            bias={50: 100.0},
            logprobs=line(1),
        )
    )
    entries = entries_of(recorder, "one")
    answer = [int(entry["token"]) for entry in entries]
    assert set(answer) == {50}
    for entry, row in zip(entries, wanted_logs(prompt, answer), strict=True):
        assert entry["logprob"] == pytest.approx(row[50].item(), abs=1e-4)
        assert entry["top_logprobs"][0]["token"] == f"{int(row.argmax())} "


def test_each_choice_has_its_own(engines):
    engine = engines(slots=2)
    recorder = started(engine)
    several = choices("one", [[5, 6, 7]], 3, 6, temperature=1.0, seed=4)
    for one in several:
        one.logprobs = line(0)
    engine.submit(*several)
    for index in range(3):
        texts = [entry["token"] for entry in entries_of(recorder, "one", index)]
        deltas = [one for one in recorder.by_id["one"] if isinstance(one, Delta)]
        assert "".join(texts) == "".join(one.text for one in deltas if one.choice == index)


def test_entries_go_out_with_their_text_and_those_of_a_stop_string_never():
    held = line(0)
    for token in (1, 2, 3):
        held.push(token, -0.5, [])
    assert held.take("") == ()
    assert [one["token"] for one in held.take("1 ")] == ["1 "]
    assert [one["token"] for one in held.take("2")] == ["2 "]
    assert held.take(" ") == ()
    assert [one["token"] for one in held.finish()] == ["3 "]
    assert held.finish() == ()


def test_tokens_cut_by_a_stop_string_are_not_listed(engines):
    engine = engines()
    recorder = started(engine)
    prompt = [9, 10, 11]
    answer = expected_tokens(prompt, 10)
    stop = f"{answer[4]} {answer[5]} "
    engine.submit(generation("one", prompt, 10, stop=(stop,), logprobs=line(0)))
    end = recorder.end("one")
    cut = next(at for at in range(10) if answer[at : at + 2] == answer[4:6])
    assert end.reason == "stop"
    assert [int(one["token"]) for one in entries_of(recorder, "one")] == answer[:cut]


def test_text_held_back_till_the_end_brings_its_entries(engines):
    engine = engines()
    recorder = started(engine)
    answer = expected_tokens([9, 10, 11], 4)
    engine.submit(
        generation("one", [9, 10, 11], 4, stop=(f"{answer[2]} {answer[3]} x",), logprobs=line(0))
    )
    assert [int(one["token"]) for one in entries_of(recorder, "one")] == answer
    deltas = [one for one in recorder.by_id["one"] if isinstance(one, Delta)]
    assert len(deltas) == 3


def test_what_ends_an_answer_is_not_listed(engines):
    answer = expected_tokens([9, 10, 11], 8)
    engine = engines(eos_ids=[answer[5]])
    recorder = started(engine)
    engine.submit(generation("one", [9, 10, 11], 8, logprobs=line(1)))
    cut = answer.index(answer[5])
    assert recorder.end("one").reason == "stop"
    assert [int(one["token"]) for one in entries_of(recorder, "one")] == answer[:cut]


def test_parts_of_a_character_go_out_with_it():
    tokenizer = tiny_tokenizer().backend_tokenizer
    tokens = tokenizer.encode("é中").ids
    assert len(tokens) == 5
    stream, held = TextStream(FACTORY()), LogprobLine(0, shown=FACTORY.shown, named=FACTORY.named)
    given = []
    for token in tokens:
        held.push(token, -1.0, [])
        text = stream.push(token)
        given.append((text, [bytes(one["bytes"]) for one in held.take(text)]))
    assert given == [
        ("", []),
        ("é", [b"\xc3", b"\xa9"]),
        ("", []),
        ("", []),
        ("中", ["中".encode()[at : at + 1] for at in range(3)]),
    ]


def test_special_tokens_are_named_among_the_best_and_never_listed():
    held = LogprobLine(1, shown=FACTORY.shown, named=FACTORY.named)
    held.push(2, -1.0, [(1, -1.0)])
    held.push(40, -1.0, [(2, float("-inf"))])
    (entry,) = held.finish()
    assert entry["top_logprobs"] == [
        {"token": "<|im_end|>", "logprob": LEAST, "bytes": list(b"<|im_end|>")}
    ]


def test_a_row_that_is_lost_or_does_not_ask_gets_nothing():
    lines = [None, line(1), line(0)]
    step = StepLogprobs(torch.randn(3, 10), lines)
    step.tell([1, None, 3])
    assert lines[1].finish() == ()
    (entry,) = lines[2].finish()
    assert (entry["token"], entry["top_logprobs"]) == ("3 ", [])


def test_other_tokenizers_tell_their_pieces():
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {"\u2581the": 0, "<0x0A>": 1, "cat": 2, "##s": 3}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="cat"))
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<end>"])
    factory = DetokenizerFactory(backend)
    assert [factory.shown(token) for token in range(5)] == [b" the", b"\n", b"cat", b"s", b""]
    assert factory.named(4) == b"<end>"
