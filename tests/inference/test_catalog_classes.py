"""The catalogue's models, tiny and with random weights, on their whole way: from a hub to an answer.

Each is of the class that the real weights have. The hub is a stand-in, all else is what operators
use: `pull_model`, the row it writes, the Runner that the row names; and for one of them a live
installation that is asked over HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inference.background import runner_config
from inference.contracts import chat, embeddings, images, rerank, transcription
from inference.contracts.surfaces import MEDIA_TASKS, TEXT_TASKS, WHOLE_TASKS
from inference.models import ModelSpec
from inference.runners.base import Ended
from inference.runners.registry import runner_class
from tests.inference import tiny_encoders, tiny_images
from tests.inference.hub_standin import Repository, hub
from tests.inference.recorder import Recorder
from tests.inference.tiny_vision import save_seeing
from tests.inference.tiny_whisper import save_whisper
from tests.live import Live
from tests.servers import free_port

PULL = """
import json, sys
from django.core.management import call_command
from inference.models import ModelSpec
for name, repository in {names!r}.items():
    call_command("pull_model", name, "--repository", repository, stdout=sys.stderr)
print(json.dumps(list(ModelSpec.objects.filter(model_id__in={names!r}).values(
    "model_id", "tasks", "engine", "source", "revision", "dtype", "slots", "options", "context",
    "is_demo", "manifest"))))
call_command("models", "place", {placed!r}, stdout=sys.stderr)
ModelSpec.objects.exclude(model_id={placed!r}).update(enabled=False)
"""


@dataclass(frozen=True)
class Case:
    """A model of the catalogue, the repository it comes from, and how it is tried."""

    model_id: str
    repository: str
    save: Callable[[Path], Path]
    task: str
    body: dict[str, Any]
    loaded_as: str
    check: Callable[[Ended, str], None]
    options: dict[str, Any] | None = None


def speaks(ended: Ended, text: str) -> None:
    assert ended.reason in ("length", "stop")
    assert 0 < ended.units.completion_tokens <= 5
    assert text


def embeds(ended: Ended, text: str) -> None:
    assert ended.result["width"] == 32
    vectors = np.frombuffer(ended.result["vectors"], "<f4").reshape(2, 32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


def ranks(ended: Ended, text: str) -> None:
    scores = ended.result["scores"]
    assert len(set(scores)) == 3
    assert all(0 < score < 1 for score in scores)


def hears(ended: Ended, text: str) -> None:
    assert transcription.unpacked(ended.result)["duration"] == 1.0
    assert ended.units.audio_ms == 1000


def draws(ended: Ended, text: str) -> None:
    (picture,) = ended.media
    assert Image.open(picture.content).size == (64, 64)


CASES = [
    Case(
        "Qwen/Qwen3.5-4B",
        "Qwen/Qwen3.5-4B",
        save_seeing,
        chat.TASK,
        {
            "messages": [{"role": "user", "content": "the fox"}],
            "max_tokens": 5,
            "temperature": 0,
        },
        "hybrid, images",
        speaks,
    ),
    Case(
        "BAAI/bge-large-en-v1.5",
        "BAAI/bge-large-en-v1.5",
        tiny_encoders.bert_folder,
        embeddings.TASK,
        {"input": ["the quick fox", "a lazy dog"]},
        "batch, cls",
        embeds,
    ),
    Case(
        "BAAI/bge-reranker-v2-m3",
        "BAAI/bge-reranker-v2-m3",
        tiny_encoders.xlmr_reranker_folder,
        rerank.TASK,
        {"query": "the quick fox", "documents": ["a fox", "the cat sat", "zebra"]},
        "batch, scores",
        ranks,
    ),
    Case(
        "whisper-large-v3",
        "openai/whisper-large-v3",
        save_whisper,
        transcription.TASK,
        {"temperature": 0.0},
        "batch, windows of 30 s",
        hears,
    ),
    Case(
        "flux",
        "black-forest-labs/FLUX.1-schnell",
        tiny_images.flux,
        images.GENERATION,
        {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 2, "seed": 1},
        "steps, FluxPipeline",
        draws,
        {"native_side": 32},
    ),
]
PLACED = "BAAI/bge-large-en-v1.5"
IDS = [case.model_id for case in CASES]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """An installation whose catalogue's models were pulled from a hub that is gone by now."""
    folder = tmp_path_factory.mktemp("pulled")
    repositories = []
    for number, case in enumerate(CASES):
        made = folder / f"made-{number}"
        made.mkdir()
        repositories.append(Repository.of(case.repository, case.save(made)))
    live = Live.from_environment(folder / "var", node="pulled", port=free_port())
    with hub(*repositories) as url:
        live.environment.update(
            HF_ENDPOINT=url, HF_HOME=str(folder / "hub"), HF_HUB_DISABLE_XET="1", HF_HUB_OFFLINE="0"
        )
        live.var_dir.mkdir()
        live.manage("migrate", "-v0")
        live.manage("ensure_demo")
        names = {case.model_id: case.repository for case in CASES}
        told = live.python(PULL.format(names=names, placed=PLACED))
        rows = json.loads(told.splitlines()[-1])
    live.rows = {row["model_id"]: row for row in rows}
    live.environment["HF_HUB_OFFLINE"] = "1"
    try:
        yield live
    finally:
        live.stop()


@pytest.fixture
def in_its_hub(installation, monkeypatch):
    monkeypatch.setenv("HF_HOME", installation.environment["HF_HOME"])


def contract(case: Case) -> dict[str, Any]:
    """The engine's input, as requests make it."""
    surface = {**TEXT_TASKS, **WHOLE_TASKS, **MEDIA_TASKS}[case.task]
    found = surface.from_body(case.body).as_dict()
    if case.task == transcription.TASK:
        chance = np.random.default_rng(1)
        found["samples"] = (chance.standard_normal(16_000) * 3000).astype("<i2")
    return found


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_pulled_model_is_pinned_loaded_and_answers(installation, in_its_hub, case):
    row = dict(installation.rows[case.model_id])
    assert (row["source"], row["revision"]) == (case.repository, Repository("", {}).commit)
    assert (row["is_demo"], row["dtype"], row["options"]) == (False, "auto", {})
    assert any(name.endswith("model.safetensors") for name in row["manifest"])
    spec = ModelSpec(**{**row, "slots": 4, "options": case.options or {}})
    config = runner_config(spec, device="cpu", memory_budget=None)
    assert Path(config.path).name == row["revision"]
    runner = runner_class(spec.engine)(config)
    assert runner.load(lambda fraction, text: None).total > 0
    assert runner.describe() == case.loaded_as
    seen = Recorder()
    runner.start(seen)
    try:
        runner.submit("r", case.task, contract(case), salt="org")
        ended = seen.end("r")
        assert isinstance(ended, Ended), ended
        case.check(ended, seen.text("r"))
    finally:
        runner.unload()


def test_a_revision_that_is_not_here_is_not_replaced_by_another(installation, in_its_hub):
    row = installation.rows["BAAI/bge-large-en-v1.5"]
    spec = ModelSpec(**{**row, "revision": "f" * 40})
    assert runner_config(spec, device="cpu", memory_budget=None).path == row["source"]


@pytest.mark.slow
def test_a_pulled_model_is_placed_and_answers_over_http(installation):
    live, case = installation, CASES[IDS.index(PLACED)]
    live.start_process("web", "web")
    live.start_process("gpu", "qnode", f"gpu-{live.node}")
    live.wait_ready(PLACED)
    answer = live.post("/openai/v1/embeddings", {"model": case.model_id, **case.body})
    assert answer.status_code == 200, answer.text
    assert [len(one["embedding"]) for one in answer.json()["data"]] == [32, 32]
    assert "x-casola-weights" not in answer.headers
    assert answer.headers["x-casola-job-id"]
