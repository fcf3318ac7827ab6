"""Models of diffusers that keep some layers in float32 whatever the rest is held in (Wan's do).

Its own loading of those insists on a further package; reading them is little work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from inference.runners.base import LoadError
from inference.runners.model_folder import read_json


def mixed_parts(folder: Path, index: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Those parts of a pipeline's folder, by name. Raises LoadError."""
    import diffusers  # noqa: PLC0415 - heavy

    found = {}
    for name, entry in index.items():
        if not isinstance(entry, list) or entry[0] != "diffusers" or not isinstance(entry[1], str):
            continue
        made = getattr(diffusers, entry[1], None)
        if getattr(made, "_keep_in_fp32_modules", None) is not None:
            found[name] = load_mixed(made, folder / name, dtype)
    return found


def load_mixed(made: Any, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """One model. Raises LoadError."""
    from diffusers.models.modeling_utils import no_init_weights  # noqa: PLC0415 - heavy

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = made.from_config(read_json(folder / "config.json"))
    finally:
        torch.set_default_dtype(before)
    _keep(model, torch.float32)
    lacking = {name for name, _ in model.named_parameters()}
    for file in sorted(folder.glob("*.safetensors")):
        values = load_file(file)
        model.load_state_dict(values, strict=False)
        lacking -= values.keys()
    if lacking:
        raise LoadError(f"{folder.name} lacks {len(lacking)} weights, such as {min(lacking)}")
    return model.eval().requires_grad_(False)


def _keep(model: Any, dtype: torch.dtype) -> None:
    """In that dtype, what the model's class says is to stay so."""
    marks = model._keep_in_fp32_modules or ()
    for name, weight in model.named_parameters():
        if any(mark in name.split(".") for mark in marks):
            weight.data = weight.data.to(dtype)
