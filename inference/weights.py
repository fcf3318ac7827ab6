"""Real weights for a ModelSpec: fetched from the hub or taken from a folder, checked, switched to.

Nothing of a folder is run: safetensors and configuration only, at a pinned revision. The manifest
kept with the spec names each file with its size and SHA-256.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from inference import estimates, hosting
from inference.enums import PlacementState
from inference.models import ModelSpec, Placement
from inference.runners.base import LoadError
from inference.runners.model_folder import check_folder

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.tiktoken"]
# The same weights again, in forms that are not read here.
DOUBLES = ["onnx/*", "openvino/*", "original/*", "consolidated*"]
CHUNK = 1 << 20

Manifest = dict[str, dict[str, Any]]


class WeightsError(Exception):
    """The weights cannot be had, or must not be used; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A folder whose files are what its source says they are."""

    folder: Path
    source: str
    revision: str
    manifest: Manifest

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry["size"] for entry in self.manifest.values())


def find_spec(name: str) -> ModelSpec:
    """The spec of that id or alias, without case. Raises WeightsError."""
    wanted = name.lower()
    for spec in ModelSpec.objects.order_by("pk"):
        names = (spec.model_id, spec.public_id, *map(str, spec.aliases))
        if wanted in map(str.lower, names):
            return spec
    raise WeightsError(f"There is no model {name!r}; `manage.py models` lists them")


# -- getting them ---------------------------------------------------------------------------------


def take_folder(path: str) -> Weights:
    """A local folder, as it is. Raises WeightsError."""
    folder = Path(path).expanduser().resolve()
    return Weights(_checked(folder), str(folder), "", manifest_of(folder))


def fetch(repository: str, *, revision: str = "") -> Weights:
    """A repository of the hub at one commit; what is in the hub's cache is not loaded again.

    With HF_HUB_OFFLINE only the cache is looked at. Raises WeightsError.
    """
    wanted: dict[str, Any] = {"allow_patterns": FILES, "ignore_patterns": DOUBLES}
    expected = None
    try:
        if constants.HF_HUB_OFFLINE:
            revision = revision or _latest_commit(repository)
        else:
            info = HfApi().model_info(repository, revision=revision or None, files_metadata=True)
            revision, expected = info.sha or revision, info.siblings or []
        folder = Path(snapshot_download(repository, revision=revision or None, **wanted))
    except HFValidationError as error:
        raise WeightsError(str(error)) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        hint = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{repository} could not be fetched{hint}: {told}") from error
    manifest = manifest_of(_checked(folder))
    if expected is not None:
        _compare(folder, manifest, expected)
    return Weights(folder, repository, folder.name, manifest)


def _latest_commit(repository: str) -> str:
    """Of those in the hub's cache; empty where there is none."""
    hub = estimates.hub_folder()
    folder = estimates.find_folder(repository, base=hub, hub=hub)
    return folder.name if folder is not None else ""


def _checked(folder: Path) -> Path:
    try:
        check_folder(str(folder))
    except LoadError as error:
        raise WeightsError(str(error)) from None
    if not any(folder.rglob("*.safetensors")):
        raise WeightsError(f"{folder} has no safetensors weights")
    return folder


def manifest_of(folder: Path) -> Manifest:
    """Size and SHA-256 of every file, by its path within the folder."""
    return {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _git_id(file: Path) -> str:
    """What git names a file's content by."""
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _compare(folder: Path, manifest: Manifest, expected: list[Any]) -> None:
    """Raises WeightsError where a file is not what the hub says of it."""
    for entry in expected:
        found = manifest.get(entry.rfilename)
        if found is None:
            continue
        if entry.lfs is not None:
            is_right = found["sha256"] == entry.lfs.sha256
        else:
            is_right = entry.blob_id in (None, _git_id(folder / entry.rfilename))
        if not is_right:
            raise WeightsError(f"{entry.rfilename} is not what the hub says it is; fetch it again")


# -- using them -----------------------------------------------------------------------------------


@transaction.atomic
def switch(spec: ModelSpec, weights: Weights, *, now: datetime, engine: str = "") -> None:
    """Have the spec served by these weights; Runners with the old ones drain and leave.

    `engine` runs them where an upstream served the model until now.
    """
    row = ModelSpec.objects.select_for_update().get(pk=spec.pk)
    if row.engine == hosting.UPSTREAM:
        row.engine, row.options = engine, {}
    row.source, row.revision, row.manifest = weights.source, weights.revision, weights.manifest
    row.loaded_as = ""
    if row.is_demo:  # its options were those of the demo weights
        row.is_demo, row.dtype, row.options = False, "auto", {}
    row.save()
    stop_all(row, reason="other weights", now=now)


def differences(spec: ModelSpec) -> list[str]:
    """What of the spec's folder is not as its manifest says; raises WeightsError without one."""
    if not spec.manifest:
        raise WeightsError(f"{spec.model_id} has no manifest; `manage.py pull_model` makes one")
    folder = estimates.find_folder(
        spec.source, base=settings.BASE_DIR, hub=estimates.hub_folder(), revision=spec.revision
    )
    if folder is None:
        raise WeightsError(f"The weights of {spec.model_id} are not on this host")
    found = manifest_of(folder)
    names = sorted({*spec.manifest, *found})
    words = {(True, False): "is missing", (False, True): "was added", (True, True): "differs"}
    return [
        f"{name} {words[name in spec.manifest, name in found]}"
        for name in names
        if spec.manifest.get(name) != found.get(name)
    ]


@transaction.atomic
def set_enabled(spec: ModelSpec, enabled: bool, *, now: datetime) -> None:
    """Offer the model, or take it away: its Runners leave, its callers get 404."""
    ModelSpec.objects.filter(pk=spec.pk).update(enabled=enabled)
    if not enabled:
        stop_all(spec, reason="disabled", now=now)


@transaction.atomic
def set_kept(spec: ModelSpec, kept: bool, *, now: datetime) -> None:
    """Load it and keep it loaded, or let it go; it comes back when somebody asks for it."""
    if kept and not spec.enabled:
        raise WeightsError(f"{spec.model_id} is disabled")
    ModelSpec.objects.filter(pk=spec.pk).update(keep_loaded=kept)
    if kept:
        ModelSpec.objects.filter(pk=spec.pk).update(wanted_at=now)
    else:
        ModelSpec.objects.filter(pk=spec.pk).update(wanted_at=None)
        stop_all(spec, reason="unloaded by an operator", now=now)


def stop_all(spec: ModelSpec, *, reason: str, now: datetime) -> None:
    """Have every node let go of it."""
    wanted = Placement.objects.filter(state=PlacementState.WANTED, spec=spec)
    for placement_id in wanted.values_list("public_id", flat=True):
        hosting.stop_placement(placement_id=placement_id, reason=reason, now=now)
