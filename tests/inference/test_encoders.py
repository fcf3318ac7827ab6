"""Embeddings, rerank and score on tiny models of real classes, against plain transformers."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from inference.contracts import embeddings, rerank, score
from inference.runners.base import InvalidInput, LoadError, RunnerConfig
from inference.runners.embeddings import EmbeddingsRunner
from inference.runners.registry import runner_class
from inference.runners.rerank import RerankRunner
from tests.inference import tiny_encoders
from tests.inference.recorder import Recorder
from tests.inference.tiny_encoders import POSITIONS

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "cat",
    "sat",
    "on",
    "mat",
    "zebra",
]
QUERY = "the quick fox"


def texts(count: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) for _ in range(count)]


def config(folder, **options) -> RunnerConfig:
    return RunnerConfig("tiny", str(folder), dtype="float32", options=options)


@pytest.fixture
def loaded():
    """Load a Runner on a folder; it and what it says."""
    runners = []

    def load(kind, folder, **options):
        runner = kind(config(folder, **options))
        memory = runner.load(lambda done, text: None)
        assert memory.weights > 0
        seen = Recorder()
        runner.start(seen)
        runners.append(runner)
        return runner, seen

    yield load
    for runner in runners:
        runner.unload()


def vectors(result) -> np.ndarray:
    return np.frombuffer(result["vectors"], "<f4").reshape(-1, result["width"])


def ask(runner, seen, task, request, name="r"):
    runner.submit(name, task, request, salt="org")
    return seen.end(name)


def plain_vectors(folder, found, pool) -> np.ndarray:
    """One text at a time, as sentence-transformers does it."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    rows = []
    with torch.inference_mode():
        for text in found:
            encoded = tokenizer(text, return_tensors="pt", padding=False, truncation=False)
            hidden = model(
                input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]
            ).last_hidden_state[0]
            rows.append(torch.nn.functional.normalize(pool(hidden), dim=-1).numpy())
    return np.stack(rows)


POOLS = {
    "cls_token": lambda hidden: hidden[0],
    "mean_tokens": lambda hidden: hidden.mean(0),
    "max_tokens": lambda hidden: hidden.amax(0),
    "lasttoken": lambda hidden: hidden[-1],
    None: lambda hidden: hidden.mean(0),
}


@pytest.mark.parametrize("mode", list(POOLS))
def test_vectors_are_those_of_plain_transformers(tmp_path, loaded, mode):
    folder = tiny_encoders.bert_folder(tmp_path, mode=mode)
    runner, seen = loaded(EmbeddingsRunner, folder)
    found = texts(40)
    for number, part in enumerate((found[:25], found[25:])):
        runner.submit(f"r{number}", embeddings.TASK, {"input": part}, salt=f"org{number}")
    seen.wait("r0", "r1")
    got = np.concatenate([vectors(seen.end(f"r{number}").result) for number in range(2)])
    assert np.allclose(got, plain_vectors(folder, found, POOLS[mode]), atol=2e-5)
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    counts = [len(tokenizer(text, truncation=False)["input_ids"]) for text in found[:25]]
    assert seen.end("r0").units.prompt_tokens == sum(counts)


def test_a_decoder_embeds_by_its_last_token(tmp_path, loaded):
    folder = tiny_encoders.decoder_folder(tmp_path)
    runner, seen = loaded(EmbeddingsRunner, folder)
    found = texts(20)
    end = ask(runner, seen, embeddings.TASK, {"input": found})
    assert np.allclose(
        vectors(end.result), plain_vectors(folder, found, POOLS["lasttoken"]), atol=2e-5
    )


def test_dimensions_are_the_first_ones_at_unit_length(tmp_path, loaded):
    runner, seen = loaded(EmbeddingsRunner, tiny_encoders.bert_folder(tmp_path))
    whole = vectors(ask(runner, seen, embeddings.TASK, {"input": texts(5)}, "whole").result)
    short = ask(runner, seen, embeddings.TASK, {"input": texts(5), "dimensions": 8}, "short")
    found = vectors(short.result)
    assert found.shape == (5, 8)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    assert np.allclose(found, expected, atol=1e-6)
    with pytest.raises(InvalidInput, match="between 1 and 32") as caught:
        ask(runner, seen, embeddings.TASK, {"input": ["a"], "dimensions": 33}, "long")
    assert caught.value.param == "dimensions"


def test_token_ids_are_the_text(tmp_path, loaded):
    folder = tiny_encoders.bert_folder(tmp_path)
    runner, seen = loaded(EmbeddingsRunner, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "the quick fox and a zebra"
    bare = tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"]
    marked = tokenizer(text, truncation=False)["input_ids"]
    end = ask(runner, seen, embeddings.TASK, {"input": [text, bare, marked]})
    one, two, three = vectors(end.result)
    assert np.allclose(one, two, atol=1e-6)
    assert np.allclose(one, three, atol=1e-6)
    assert end.units.prompt_tokens == 3 * len(marked)
    for ids in ([10**6], [5, 300_000]):
        with pytest.raises(InvalidInput, match="check_embedding_ctx_length") as caught:
            ask(runner, seen, embeddings.TASK, {"input": ["a", ids]}, "x")
        assert caught.value.param == "input[1]"


def test_a_text_that_is_too_long_is_refused_or_cut(tmp_path, loaded):
    runner, seen = loaded(EmbeddingsRunner, tiny_encoders.bert_folder(tmp_path))
    assert runner.context == POSITIONS
    long = " ".join(["fox"] * 100)
    with pytest.raises(InvalidInput) as caught:
        ask(runner, seen, embeddings.TASK, {"input": ["a", long]})
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input[1]")
    end = ask(runner, seen, embeddings.TASK, {"input": [long], "truncate": -1}, "cut")
    assert end.units.prompt_tokens == POSITIONS
    exact = ask(
        runner, seen, embeddings.TASK, {"input": [" ".join(["fox"] * (POSITIONS - 2))]}, "exact"
    )
    assert np.allclose(vectors(end.result), vectors(exact.result), atol=1e-6)
    few = ask(runner, seen, embeddings.TASK, {"input": [long], "truncate": 10}, "few")
    assert few.units.prompt_tokens == 10


def plain_scores(folder, pairs) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        return [
            model(**tokenizer(one, two, return_tensors="pt", truncation=False, padding=False))
            .logits.sigmoid()
            .item()
            for one, two in pairs
        ]


@pytest.mark.parametrize("make", ["xlmr_reranker_folder", "bert_reranker_folder"])
def test_a_cross_encoder_reranks_as_plain_transformers_does(tmp_path, loaded, make):
    folder = getattr(tiny_encoders, make)(tmp_path)
    runner, seen = loaded(RerankRunner, folder)
    documents = [text[:24] for text in texts(30)]
    end = ask(runner, seen, rerank.TASK, {"query": QUERY, "documents": documents})
    expected = plain_scores(folder, [(QUERY, text) for text in documents])
    assert np.allclose(end.result["scores"], expected, atol=1e-5)
    assert max(expected) - min(expected) > 0.01
    wish = {"text_1": [QUERY], "text_2": documents}
    again = ask(runner, seen, score.TASK, wish, "score")
    assert np.allclose(again.result["scores"], expected, atol=1e-5)
    own = ask(runner, seen, score.TASK, {"text_1": documents, "text_2": documents}, "own")
    pairs = list(zip(documents, documents, strict=True))
    assert np.allclose(own.result["scores"], plain_scores(folder, pairs), atol=1e-5)


def test_a_long_document_is_cut_and_a_long_query_refused(tmp_path, loaded):
    runner, seen = loaded(RerankRunner, tiny_encoders.xlmr_reranker_folder(tmp_path))
    assert runner.context == POSITIONS
    long = "the fox " * 200
    end = ask(runner, seen, rerank.TASK, {"query": "the cat", "documents": [long, "the fox"]})
    assert len(end.result["scores"]) == 2
    with pytest.raises(InvalidInput) as caught:
        ask(runner, seen, rerank.TASK, {"query": long, "documents": ["the fox"]}, "x")
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "query")


def test_an_embedding_model_ranks_by_cosine_between_0_and_1(tmp_path, loaded):
    folder = tiny_encoders.decoder_folder(tmp_path)
    runner, seen = loaded(EmbeddingsRunner, folder)
    documents = texts(12)
    end = ask(runner, seen, rerank.TASK, {"query": QUERY, "documents": documents})
    # the folder's prompt for queries is put before the query
    query = plain_vectors(folder, [f"find the fox {QUERY}"], POOLS["lasttoken"])[0]
    cosines = plain_vectors(folder, documents, POOLS["lasttoken"]) @ query
    assert np.allclose(end.result["scores"], (1 + cosines) / 2, atol=1e-5)
    wish = {"text_1": [QUERY], "text_2": [*documents, documents[0]]}
    scored = ask(runner, seen, score.TASK, wish, "score")
    assert np.allclose(scored.result["scores"][:-1], end.result["scores"], atol=1e-6)
    assert scored.result["scores"][-1] == scored.result["scores"][0]
    assert scored.units == end.units or scored.units.prompt_tokens == end.units.prompt_tokens


@pytest.mark.parametrize(
    ("kind", "task"),
    [(EmbeddingsRunner, "openai/chat-completion"), (RerankRunner, embeddings.TASK)],
)
def test_another_task_is_refused(tmp_path, loaded, kind, task):
    make = (
        tiny_encoders.bert_folder
        if kind is EmbeddingsRunner
        else tiny_encoders.bert_reranker_folder
    )
    runner, _ = loaded(kind, make(tmp_path))
    with pytest.raises(InvalidInput) as caught:
        runner.submit("x", task, {"input": ["a"]}, salt="o")
    assert caught.value.param == "model"


def broken(folder, name, content) -> None:
    (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("modules.json", '[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]', "Dense"),
        ("modules.json", '{"a": 1}', "not usable"),
        ("1_Pooling/config.json", '{"pooling_mode_weightedmean_tokens": true}', "pooling"),
        (
            "1_Pooling/config.json",
            '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}',
            "pooling",
        ),
        (
            "modules.json",
            '[{"type": "x.Pooling", "path": "../.."}, {"type": "x.Transformer", "path": ""}]',
            "outside",
        ),
        ("pytorch_model.bin", "x", "could carry code"),
        ("config.json", "{", "config.json"),
        ("tokenizer.json", "{}", "tokenizer is not usable"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_run_says_why(tmp_path, name, content, reason):
    folder = tiny_encoders.bert_folder(tmp_path)
    broken(folder, name, content)
    with pytest.raises(LoadError, match=reason):
        EmbeddingsRunner(config(folder)).load(lambda done, text: None)


def test_missing_weights_are_not_made_up(tmp_path):
    """A reranker without its head would answer with random scores."""
    folder = tiny_encoders.bert_folder(tmp_path)
    with pytest.raises(LoadError, match="classifier"):
        RerankRunner(config(folder)).load(lambda done, text: None)


def test_a_classifier_of_two_labels_is_no_reranker(tmp_path):
    folder = tiny_encoders.xlmr_reranker_folder(tmp_path, labels=2)
    with pytest.raises(LoadError, match="one label"):
        RerankRunner(config(folder)).load(lambda done, text: None)


def test_estimates_hold_what_is_loaded(tmp_path, loaded):
    folder = tiny_encoders.bert_folder(tmp_path)
    estimate = EmbeddingsRunner.estimate(config(folder))
    runner, _ = loaded(EmbeddingsRunner, folder)
    assert 0 <= runner.stats().memory - estimate.total < 10_000  # buffers that no file holds
    shutil.rmtree(folder)
    with pytest.raises(LoadError):
        EmbeddingsRunner.estimate(config(folder))


def test_the_registry_knows_them():
    assert runner_class("embeddings") is EmbeddingsRunner
    assert runner_class("rerank") is RerankRunner


def test_the_runner_says_how_it_runs(tmp_path, loaded):
    runner, _ = loaded(EmbeddingsRunner, tiny_encoders.bert_folder(tmp_path / "a"))
    assert runner.describe() == "batch, cls"
    runner, _ = loaded(RerankRunner, tiny_encoders.bert_reranker_folder(tmp_path / "b"))
    assert runner.describe() == "batch, scores"
