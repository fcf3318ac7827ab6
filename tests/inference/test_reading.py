"""Contracts of embeddings, rerank and score: bodies in, answers out, and what they can use."""

from __future__ import annotations

import base64
import json
import math
import struct

import pytest

from inference.contracts import embeddings, reading, rerank, score

VECTORS = [[0.1, -0.25, 1e-8], [1 / 3, 2.5e10, 0.0]]
RESULT = {"vectors": struct.pack("<6f", *VECTORS[0], *VECTORS[1]), "width": 3}
ABOUT = {"job_id": "0189-ab", "created": 5, "model": "m", "units": {"prompt_tokens": 7}}


def answer(surface, body, result):
    return surface.answer_body(**ABOUT, body=body, result=result)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_rendered_vectors_are_the_answers_own(encoding):
    body = answer(embeddings, {"encoding_format": encoding}, RESULT)
    texts = [embeddings.rendered(vector, encoding) for vector in embeddings.split(RESULT)]
    for text, entry in zip(texts, body["data"], strict=True):
        shown = json.loads(text)
        if encoding == "base64":
            assert shown == entry["embedding"]
        else:
            assert struct.pack("<3f", *shown) == struct.pack("<3f", *entry["embedding"])
    assert [entry["index"] for entry in body["data"]] == [0, 1]
    assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_base64_is_the_bytes_of_float32():
    body = answer(embeddings, {"encoding_format": "base64"}, RESULT)
    raw = base64.b64decode(body["data"][1]["embedding"])
    assert struct.unpack("<3f", raw) == pytest.approx(VECTORS[1])


def test_nine_digits_tell_neighbours_apart():
    """Every float32 comes back as it was."""
    values = [math.nextafter(0.1, 1), 0.1, 1.1754944e-38, 3.4028235e38, 1e-45, 16777217.0]
    packed = struct.pack(f"<{len(values)}f", *values)
    shown = json.loads(embeddings.rendered(memoryview(packed), "float"))
    assert struct.pack(f"<{len(shown)}f", *shown) == packed


def test_rerank_sorts_and_cuts():
    body = {"documents": ["a", "b", "c"], "top_n": 2, "return_documents": True}
    found = answer(rerank, body, {"scores": [0.1, 0.9, 0.9]})
    assert [entry["index"] for entry in found["data"]] == [1, 2]
    assert found["results"] == [
        {"index": 1, "relevance_score": 0.9, "document": {"text": "b"}},
        {"index": 2, "relevance_score": 0.9, "document": {"text": "c"}},
    ]
    assert found["id"] == "rerank-0189ab"
    for top_n in (0, None, 5):
        whole = answer(rerank, {"documents": ["a", "b"], "top_n": top_n}, {"scores": [0.1, 0.2]})
        assert [entry["index"] for entry in whole["data"]] == [1, 0]
        assert "document" not in whole["data"][0]


def test_score_keeps_the_order():
    found = answer(score, {}, {"scores": [0.3, 0.1]})
    assert [(entry["index"], entry["score"]) for entry in found["data"]] == [(0, 0.3), (1, 0.1)]
    assert (found["id"], found["created"]) == ("score-0189ab", 5)


@pytest.mark.parametrize(
    ("one", "two", "pairs"),
    [
        (["a"], ["b"], [("a", "b")]),
        (["a"], ["b", "c"], [("a", "b"), ("a", "c")]),
        (["a", "b"], ["c", "d"], [("a", "c"), ("b", "d")]),
    ],
)
def test_pairs(one, two, pairs):
    assert score.from_body({"text_1": one, "text_2": two}).pairs() == pairs


def test_contracts_survive_a_frame():
    wish = embeddings.from_body(
        {"input": ["a", [1, 2]], "dimensions": 4, "truncate_prompt_tokens": -1}
    )
    assert embeddings.EmbeddingsInput.from_dict(wish.as_dict()) == wish
    wish = embeddings.from_body({"input": ["a"]})
    assert wish.as_dict() == {"input": ["a"]}
    ranking = rerank.from_body({"query": "q", "documents": ["a"], "top_n": 1})
    assert rerank.RerankInput.from_dict(ranking.as_dict()) == ranking
    pair = score.from_body({"text_1": ["q"], "text_2": ["a", "b"]})
    assert score.ScoreInput.from_dict(pair.as_dict()) == pair


ODD = ["a" * 50, "é" * 20, "\U0001f4a5" * 9, "漢字", "ﷺ" * 3, " ", "x y z ! ? ."]


def test_no_request_uses_more_than_is_foreseen(tmp_path):
    """Against the tokenizers of the tiny models, which split into letters at worst."""
    from tests.inference.tiny_encoders import bert_tokenizer, xlmr_tokenizer

    for make in (bert_tokenizer, xlmr_tokenizer):
        backend = make().backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        for text in ODD:
            alone = len(backend.encode(text).ids)
            assert alone <= reading.most_tokens(embeddings.TASK, {"input": [text]})
            pair = len(backend.encode(text, text).ids)
            wish = {"query": text, "documents": [text]}
            assert pair <= reading.most_tokens(rerank.TASK, wish)
            assert pair <= reading.most_tokens(score.TASK, {"text_1": [text], "text_2": [text]})
    assert reading.most_tokens(embeddings.TASK, {"input": [[1, 2, 3]]}) >= 5
