"""Operators put upstreams into the table; how they are placed; what is put back when one is away."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from casola_site.core.errors import from_runner
from inference import hosting
from inference.enums import PlacementState
from inference.estimates import UPSTREAM_BYTES
from inference.models import ModelSpec, Placement
from tests.inference.upstream_standin import NAME, standin

MODEL = "Qwen/Qwen3.5-4B"
WEIGHTS = Path(settings.BASE_DIR) / "inference/demo/weights/embeddings"
pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def server():
    with standin() as found:
        yield found


@pytest.mark.sqlite
def test_a_new_model_is_added_once_its_upstream_answers(server, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "sk-secret")
    told = run(
        "add_upstream", MODEL, server.url, "--task", "openai/chat-completion", "--name", NAME,
        "--key-env", "TEST_KEY", "--alias", "qwen", "--context", "4096", "--option", "images=true",
    )  # fmt: skip
    spec = ModelSpec.objects.get()
    assert (spec.engine, spec.source, spec.device, spec.tasks, spec.aliases, spec.context) == (
        "upstream",
        server.url,
        "cpu",
        ["openai/chat-completion"],
        ["qwen"],
        4096,
    )
    assert spec.options == {"model": NAME, "key_env": "TEST_KEY", "images": True}
    assert (spec.keep_loaded, spec.slots, spec.is_demo) == (True, 256, False)
    assert [one.headers["authorization"] for one in server.seen] == ["Bearer sk-secret"]
    assert told == f"{MODEL} is served by {server.url}\n"
    assert "sk-secret" not in repr(ModelSpec.objects.values().get())


def test_a_known_model_is_switched_and_switched_back(server, tmp_path):
    spec = ModelSpec.objects.create(
        model_id=MODEL,
        aliases=["qwen"],
        tasks=["openai/embeddings"],
        engine="chat",
        source="inference/demo/weights/chat",
        is_demo=True,
    )
    Placement.objects.create(spec=spec, node="n", device="cpu", used_at=timezone.now())
    run("add_upstream", MODEL.lower(), server.url, "--name", NAME)
    spec.refresh_from_db()
    assert (spec.model_id, spec.engine, spec.is_demo) == (MODEL, "upstream", False)
    assert (spec.tasks, spec.aliases) == (["openai/embeddings"], ["qwen"])
    placement = spec.placements.get()
    assert (placement.state, placement.detail) == (
        PlacementState.STOPPING,
        "served by an upstream",
    )
    with pytest.raises(CommandError, match="--engine says what runs weights"):
        run("pull_model", MODEL, "--folder", str(WEIGHTS))
    run("pull_model", MODEL, "--folder", str(WEIGHTS), "--engine", "embeddings")
    spec.refresh_from_db()
    assert (spec.engine, spec.source, spec.options) == ("embeddings", str(WEIGHTS), {})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "A new model needs --task"),
        (["--task", "openai/audio-speech"], "cannot serve openai/audio-speech"),
        (["--task", "openai/embeddings", "--name", "no"], "has no model 'no'; it lists"),
        (["--task", "openai/embeddings", "--key-env", "NONE"], "no key in the variable NONE"),
        (["--task", "openai/embeddings", "--option", "x"], "'x' is not NAME=VALUE"),
    ],
)
def test_what_cannot_work_is_said_and_changes_nothing(server, arguments, told):
    name = [] if "--name" in arguments else ["--name", NAME]
    with pytest.raises(CommandError, match=told):
        run("add_upstream", MODEL, server.url, *arguments, *name)
    assert not ModelSpec.objects.exists()


@pytest.mark.parametrize(
    ("address", "option"),
    [
        ("http://user:hunter2@127.0.0.1:9/v1", "images=true"),
        ("http://127.0.0.1:9/v1?key=hunter2", "images=true"),
        ("http://127.0.0.1:9/v1", "api_key=hunter2"),
    ],
)
def test_a_secret_never_reaches_the_table(address, option):
    with pytest.raises(CommandError) as refused:
        run(
            "add_upstream", MODEL, address, "--task", "openai/rerank", "--no-check",
            "--option", option,
        )  # fmt: skip
    assert "hunter2" not in str(refused.value)
    assert not ModelSpec.objects.exists()


def test_one_that_is_away_can_be_added_unasked():
    address = "http://127.0.0.1:9/v1"
    with pytest.raises(CommandError, match="cannot be reached"):
        run("add_upstream", MODEL, address, "--task", "openai/rerank")
    run("add_upstream", MODEL, address, "--task", "openai/rerank", "--no-check")
    assert ModelSpec.objects.get().source == address


@pytest.mark.sqlite
def test_it_is_placed_beside_the_accelerators_and_takes_nothing_of_them():
    now = timezone.now()
    ModelSpec.objects.create(
        model_id=MODEL, engine="upstream", source="http://gpu:1/v1", device="auto", keep_loaded=True
    )
    devices = [
        {"name": "cuda:0", "memory_bytes": 80 << 30},
        {"name": "cpu", "memory_bytes": 1 << 30},
    ]
    now = hosting.beat(node="n", pid=1, slots=2, devices=devices)
    (place,) = hosting.make_plan(now=now).places
    assert (place.device, place.memory) == ("cpu", UPSTREAM_BYTES)


def test_a_callers_error_carries_when_to_come_again():
    error = from_runner("model_unavailable", "The model is busy", None, 17)
    assert (error.status, error.headers["retry-after"]) == (503, "17")
    assert from_runner("worker_error", "x", None, 17).status == 502
