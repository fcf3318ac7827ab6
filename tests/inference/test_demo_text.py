"""The texts that the demo encoders learn from, a small training, and the shipped weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import inference
from inference.demo import evaluate_embeddings, evaluate_reranker, train_embeddings, train_reranker
from inference.demo.text_data import FOREIGN, RIGHT, Drawer, group, pair
from inference.demo.text_training import Plan, orthogonal
from inference.demo.text_words import gerund, with_articles
from inference.runners.base import RunnerConfig
from inference.runners.embeddings import EmbeddingsRunner
from inference.runners.rerank import RerankRunner
from tests.inference.recorder import Recorder

WEIGHTS = Path(inference.__file__).parent / "demo" / "weights"


def test_equal_seeds_draw_equal_texts():
    def drawn(seed):
        source = Drawer(seed)
        return [pair(source) for _ in range(30)], [group(source, 6) for _ in range(10)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_no_meaning_is_on_both_sides():
    def keys(source):
        meanings = [source.meaning() for _ in range(600)]
        assert all(meaning.is_held_out == source.held_out for meaning in meanings)
        return {(meaning.frame.name, meaning.senses) for meaning in meanings}

    assert not keys(Drawer(1)) & keys(Drawer(2, held_out=True))


def test_what_surrounds_a_meaning_stays_on_its_side():
    for held_out in (False, True):
        source = Drawer(5, held_out=held_out)
        for _ in range(100):
            meaning = source.meaning()
            near = (source.changed(meaning), source.about_the_same(meaning))
            for other in (*near, source.of_topic(meaning.topic)):
                assert other is None or other.is_held_out == held_out


def test_every_frame_is_filled():
    source = Drawer(6)
    for frame in source.frames:
        meaning = source.meaning(frame)
        for template in (*frame.statements, *frame.questions):
            assert "{" not in source.say(meaning, template)


def test_a_group_has_its_right_document_first():
    source = Drawer(7)
    for _ in range(50):
        found = group(source, 6)
        assert len(found.documents) == len(found.labels) == 6
        assert found.labels[0] == RIGHT == max(found.labels)
        assert FOREIGN in found.labels
        assert found.labels.count(RIGHT) == 1


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("bake bread", "baking bread"),
        ("cut up onions", "cutting up onions"),
        ("see a doctor", "seeing a doctor"),
        ("tie the knot", "tying the knot"),
        ("mow the lawn", "mowing the lawn"),
    ],
)
def test_gerunds(phrase, expected):
    assert gerund(phrase) == expected


def test_articles():
    assert with_articles("a oven and the the sea") == "An oven and the sea"


def test_orthogonal_matrices_have_equal_singular_values():
    torch.manual_seed(0)
    for shape in ((8, 16), (16, 8)):
        found = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert found.min() > 0.5
        assert found.max() < 1.4


@pytest.mark.slow
def test_a_small_training_learns_and_can_be_run(tmp_path):
    """Both scripts in small, from the texts to Runners over what they saved."""
    plan = Plan(steps=12, rows=24, vocabulary=800, width=32, layers=1, inner=32, corpus=200)
    model, tokenizer, losses = train_embeddings.train(plan)
    assert sum(losses[-3:]) < sum(losses[:3])
    train_embeddings.save(model, tokenizer, tmp_path / "embeddings")
    scoring, tokenizer, losses = train_reranker.train(plan, tmp_path / "embeddings")
    assert losses[-1] < losses[0]
    train_reranker.save(scoring, tokenizer, tmp_path / "reranker")
    for kind, name, task, wish in (
        (EmbeddingsRunner, "embeddings", "openai/embeddings", {"input": ["a cat"]}),
        (RerankRunner, "reranker", "openai/rerank", {"query": "a", "documents": ["b"]}),
    ):
        runner = kind(RunnerConfig("demo", str(tmp_path / name), dtype="float32"))
        runner.load(lambda done, text: None)
        seen = Recorder()
        runner.start(seen)
        runner.submit("r", task, wish, salt="o")
        assert seen.end("r").reason == "stop"
        runner.unload()


@pytest.mark.slow
def test_the_shipped_embeddings_find_the_paraphrase_among_fifty():
    shares = evaluate_embeddings.evaluate(WEIGHTS / "embeddings", count=60)
    assert shares["paraphrase"] >= 0.9
    assert shares["answer"] >= 0.85  # 90 % on 400; sixty are good to five points


@pytest.mark.slow
def test_the_shipped_reranker_finds_the_answer_among_twenty():
    shares = evaluate_reranker.evaluate(WEIGHTS / "reranker", count=60)
    assert shares["answer"] >= 0.85
