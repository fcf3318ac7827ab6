"""Detokenising step by step, and stop strings."""

from __future__ import annotations

import random
import time

import pytest
from tokenizers import Tokenizer, decoders, models

from inference.runners.text import (
    ByteDetokenizer,
    DetokenizerFactory,
    StopFilter,
    TextStream,
    WindowDetokenizer,
)
from tests.inference.tiny_models import SPECIAL, VOCABULARY, tiny_tokenizer

SAMPLES = [
    "the quick brown fox",
    "emoji 👩‍👩‍👧 and 🏳️‍🌈, flags 🇩🇪",
    "中文字符和日本語の文字",
    "Zürich naïve — “quotes”",
    " leading and trailing  ",
    "tabs\tand\nnewlines\r\n",
]


def backend():
    return tiny_tokenizer().backend_tokenizer


def byte_fallback_tokenizer():
    """As sentencepiece models have it: unknown characters become byte tokens."""
    words = ["▁the", "▁fox", "▁", "a", "b", "c"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocabulary |= {word: 256 + index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def test_the_kind_fits_the_tokenizer():
    assert isinstance(DetokenizerFactory(backend())(), ByteDetokenizer)
    assert isinstance(DetokenizerFactory(byte_fallback_tokenizer())(), WindowDetokenizer)


@pytest.mark.parametrize("text", SAMPLES)
def test_pieces_make_the_text_and_never_split_a_character(text):
    detokenizer = DetokenizerFactory(backend())()
    pieces = [detokenizer.push(token) for token in backend().encode(text).ids]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_text_comes_as_early_as_possible():
    detokenizer = DetokenizerFactory(backend())()
    ids = backend().encode("é!").ids
    assert [detokenizer.push(token) for token in ids] == ["", "é", "!"]


@pytest.mark.parametrize("seed", range(20))
def test_random_tokens_decode_as_the_tokenizer_does(seed):
    rng = random.Random(seed)
    ids = [rng.randrange(VOCABULARY) for _ in range(200)]
    detokenizer = DetokenizerFactory(backend())()
    streamed = "".join(detokenizer.push(token) for token in ids)
    whole = backend().decode(ids, skip_special_tokens=True)
    # an unfinished character at the very end is not given out
    assert whole == streamed or (
        whole.startswith(streamed) and set(whole[len(streamed) :]) == {"\ufffd"}
    )


def test_special_tokens_are_not_text():
    factory = DetokenizerFactory(backend())
    detokenizer = factory()
    assert [detokenizer.push(index) for index in range(len(SPECIAL))] == [""] * len(SPECIAL)


def test_ids_without_a_token_are_not_text():
    assert DetokenizerFactory(backend())().push(10**6) == ""


@pytest.mark.parametrize("text", ["the fox", "中文 👩‍👧 fox", "abc é"])
def test_byte_fallback_tokenizers_stream_whole_characters(text):
    tokenizer = byte_fallback_tokenizer()
    marked = text.replace(" ", "▁")
    ids = []
    for char in marked:
        known = tokenizer.token_to_id(char)
        ids += [known] if known is not None else list(char.encode())
    detokenizer = DetokenizerFactory(tokenizer)()
    pieces = [detokenizer.push(token) for token in ids]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_byte_fallback_does_not_wait_for_ever_on_broken_bytes():
    detokenizer = DetokenizerFactory(byte_fallback_tokenizer())()
    pieces = [detokenizer.push(0xFF) for _ in range(50)]
    assert "".join(pieces).count("\ufffd") >= 40
    assert max(map(len, pieces)) <= 10


@pytest.mark.parametrize("make", [backend, byte_fallback_tokenizer])
def test_the_cost_per_token_does_not_grow(make):
    detokenizer = DetokenizerFactory(make())()

    def spent(count):
        began = time.perf_counter()
        for index in range(count):
            detokenizer.push(200 if index % 3 else 70)
        return time.perf_counter() - began

    spent(200)
    first = min(spent(500) for _ in range(3))
    spent(5000)
    assert min(spent(500) for _ in range(3)) < 5 * first + 0.005


def test_a_stop_string_across_pieces_is_found_and_left_out():
    stop = StopFilter(["END"])
    assert [stop.push(piece) for piece in ("abc E", "N", "D xyz")] == ["abc ", "", ""]
    assert stop.stopped
    assert stop.push("more") == ""
    assert stop.finish() == ""


def test_what_looked_like_a_stop_string_comes_later():
    stop = StopFilter(["END"])
    assert [stop.push(piece) for piece in ("E", "N", "x", "E")] == ["", "", "ENx", ""]
    assert not stop.stopped
    assert stop.finish() == "E"


def test_self_overlapping_stop_strings():
    stop = StopFilter(["aab"])
    assert stop.push("aaab!") == "a"
    assert stop.stopped


def test_the_first_of_several_stop_strings_wins():
    stop = StopFilter(["world", "o w", ""])
    assert stop.push("hello world") == "hell"
    assert stop.stopped


@pytest.mark.parametrize("seed", range(50))
def test_stop_strings_agree_with_a_plain_search(seed):
    rng = random.Random(seed)
    text = "".join(rng.choice("ab") for _ in range(60))
    stops = ["".join(rng.choice("ab") for _ in range(rng.randint(2, 7))) for _ in range(2)]
    stop = StopFilter(stops)
    got, at = "", 0
    while at < len(text):
        size = rng.randint(1, 5)
        got += stop.push(text[at : at + size])
        at += size
    got += stop.finish()
    # the stop string that is complete first ends the text
    ends = [text.find(one) + len(one) for one in stops if one in text]
    wanted = text
    if ends:
        wanted = text[: min(ends)]
        wanted = wanted[: -max(len(one) for one in stops if wanted.endswith(one))]
    assert got == wanted
    assert stop.stopped == bool(ends)


def test_a_stream_joins_both():
    stream = TextStream(DetokenizerFactory(backend())(), ["brown fox"])
    pieces = [stream.push(token) for token in backend().encode("the quick brown fox jumps").ids]
    assert "".join(pieces) == "the quick "
    assert stream.stopped
