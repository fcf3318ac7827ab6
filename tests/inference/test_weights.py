"""Pulling weights: from a stand-in hub by the hub's own client, from folders; listing and switching."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.utils import timezone

from inference.enums import PlacementState
from inference.models import ModelSpec, Placement
from inference.weights import WeightsError, manifest_of, take_folder
from tests.inference.hub_standin import Repository, hub

WEIGHTS = Path(settings.BASE_DIR) / "inference/demo/weights/embeddings"
NAME = "BAAI/bge-large-en-v1.5"
FETCH = """
import json, sys, django
django.setup()
from inference.weights import WeightsError, fetch
try:
    found = fetch(sys.argv[1], revision=sys.argv[2])
    print(json.dumps([str(found.folder), found.revision, found.manifest]))
except WeightsError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "hub"


def fetched(url: str, cache: Path, revision: str = "", *, offline: str = "0", name: str = NAME):
    """What `fetch` gives in a process of its own: the hub's client reads its settings once."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", FETCH, name, revision],
        env=environment,
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_repository_is_fetched_without_what_could_carry_code(cache):
    more = {"pytorch_model.bin": b"x", "modeling.py": b"import os", "README.md": b"#"}
    repository = Repository.of(NAME, WEIGHTS)
    repository.files.update({**more, "onnx/model.json": b"{}"})
    with hub(repository) as url:
        folder, revision, manifest = fetched(url, cache)
    assert revision == repository.commit
    assert Path(folder).name == repository.commit
    wanted = manifest_of(WEIGHTS)
    assert wanted.pop("README.md")
    assert manifest == wanted
    assert not {*more, "onnx/model.json"} & set(repository.downloads)


def test_what_is_in_the_cache_serves_offline(cache):
    repository = Repository.of(NAME, WEIGHTS)
    with hub(repository) as url:
        online = fetched(url, cache)
        downloads = len(repository.downloads)
        assert fetched(url, cache) == online
        assert fetched(url, cache, offline="1") == online
        assert len(repository.downloads) == downloads
    assert fetched("http://127.0.0.1:9", cache, repository.commit, offline="1") == online


def test_offline_without_a_cache_says_so(cache):
    told = fetched("http://127.0.0.1:9", cache, offline="1")
    assert told.startswith(f"{NAME} could not be fetched (HF_HUB_OFFLINE is set): ")


@pytest.mark.parametrize("name", ["nobody/nothing", "a/b/c", "../etc"])
def test_what_the_hub_does_not_have_is_said(cache, name):
    with hub(Repository.of(NAME, WEIGHTS)) as url:
        told = fetched(url, cache, name=name)
    assert isinstance(told, str)
    assert told


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_that_is_not_what_the_hub_says_is_refused(cache, file):
    repository = Repository.of(NAME, WEIGHTS)
    repository.told[file] = repository.files[file][:-1] + b" "
    with hub(repository) as url:
        told = fetched(url, cache)
    assert isinstance(told, str), "taken"
    assert file in told


def test_a_folder_that_could_carry_code_is_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    (folder / "run.py").write_text("import os")
    with pytest.raises(WeightsError, match=r"run\.py could carry code"):
        take_folder(str(folder))
    (folder / "run.py").unlink()
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "x.Y"}}')
    with pytest.raises(WeightsError, match="auto_map"):
        take_folder(str(folder))


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="no safetensors"):
        take_folder(str(tmp_path))
    with pytest.raises(WeightsError, match="is not a folder"):
        take_folder(str(tmp_path / "none"))


# -- the commands ---------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def spec(db):
    made = ModelSpec.objects.create(
        model_id=NAME,
        aliases=["bge"],
        tasks=["openai/embeddings"],
        engine="embeddings",
        source="inference/demo/weights/embeddings",
        dtype="float32",
        options={"memory_mb": 7},
        is_demo=True,
    )
    Placement.objects.create(spec=made, node="n", device="cpu", used_at=timezone.now())
    return made


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(WEIGHTS, tmp_path / "model"))


def test_a_model_is_switched_to_a_folder(spec, folder):
    told = run("pull_model", "BGE", "--folder", str(folder))
    spec.refresh_from_db()
    assert (spec.source, spec.revision, spec.is_demo, spec.dtype, spec.options) == (
        str(folder),
        "",
        False,
        "auto",
        {},
    )
    assert spec.manifest == manifest_of(WEIGHTS)
    placement = spec.placements.get()
    assert (placement.state, placement.detail) == (PlacementState.STOPPING, "other weights")
    assert f"{len(spec.manifest)} files" in told
    assert "needs about" in told


def test_what_is_refused_changes_nothing(spec, folder):
    (folder / "model.pkl").write_bytes(b"x")
    before = ModelSpec.objects.values().get()
    with pytest.raises(CommandError, match="could carry code"):
        run("pull_model", NAME, "--folder", str(folder))
    assert ModelSpec.objects.values().get() == before
    assert spec.placements.get().state == PlacementState.WANTED


def test_a_new_model_is_made(db, folder):
    task = "openai/embeddings"
    run("pull_model", "my/own", "--folder", str(folder), "--task", task, "--engine", "embeddings")
    spec = ModelSpec.objects.get()
    assert (spec.model_id, spec.tasks, spec.engine) == ("my/own", [task], "embeddings")
    assert (spec.source, spec.is_demo, spec.enabled) == (str(folder), False, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nobody"], "There is no model 'nobody'"),
        (["my/own", "--task", "openai/embeddings"], "needs --task and --engine"),
        ([NAME, "--task", "t", "--engine", "embeddings"], "is there already"),
        (["my/own", "--task", "t", "--engine", "steam"], "There is no engine 'steam'"),
        ([NAME, "--folder", "x", "--revision", "main"], "--folder takes neither"),
        ([NAME, "--folder", "/none"], "is not a folder"),
    ],
)
def test_what_makes_no_sense_is_said(spec, arguments, told):
    with pytest.raises(CommandError, match=told):
        run("pull_model", *arguments)
    assert ModelSpec.objects.count() == 1


def test_models_are_listed(spec):
    head, line = run("models").splitlines()
    assert head.split() == ["MODEL", "STATUS", "ENGINE", "WHERE", "SOURCE", "TASKS"]
    assert line.split() == [
        NAME, "(demo)", "offline", "embeddings", "n:cpu", spec.source, "openai/embeddings",
    ]  # fmt: skip


def test_an_operator_disables_enables_places_and_unloads(spec):
    run("models", "disable", "bge")
    spec.refresh_from_db()
    assert (spec.enabled, spec.placements.get().state) == (False, PlacementState.STOPPING)
    with pytest.raises(CommandError, match="is disabled"):
        run("models", "place", "bge")
    run("models", "enable", NAME)
    run("models", "place", NAME)
    spec.refresh_from_db()
    assert (spec.enabled, spec.keep_loaded) == (True, True)
    spec.placements.update(state=PlacementState.WANTED)
    run("models", "unload", NAME)
    spec.refresh_from_db()
    assert (spec.keep_loaded, spec.wanted_at) == (False, None)
    assert spec.placements.get().state == PlacementState.STOPPING


def test_files_are_compared_with_what_was_pulled(spec, folder):
    with pytest.raises(CommandError, match="has no manifest"):
        run("models", "verify", NAME)
    run("pull_model", NAME, "--folder", str(folder))
    assert "files are as they were pulled" in run("models", "verify", NAME)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "modules.json").unlink()
    (folder / "more.json").write_text("{}")
    with pytest.raises(CommandError) as refused:
        run("models", "verify", NAME)
    assert str(refused.value).splitlines()[1:] == [
        "modules.json is missing",
        "more.json was added",
        "tokenizer.json differs",
    ]


def test_an_action_needs_a_model(db):
    with pytest.raises(CommandError, match="needs a model"):
        run("models", "place")
    with pytest.raises(CommandError, match="There is no model 'x'"):
        run("models", "place", "x")
