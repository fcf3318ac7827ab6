"""A diffusers folder as three pipelines over one set of weights: words, picture, picture with mask."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inference.runners.base import LoadError, RunnerConfig
from inference.runners.device import float_type
from inference.runners.diffusers_parts import mixed_parts
from inference.runners.model_folder import check_folder, read_json, weight_bytes

INDEX = "model_index.json"
LIBRARIES = frozenset({"diffusers", "transformers", None})
USUAL_SIDE = 1_024
USUAL_STEPS = 28
USUAL_CFG = 4.0  # how strongly a negative prompt leads away, where nothing else is said
LONGEST_PROMPT = 512  # tokens
WORDS, PICTURE, MASKED = "words", "picture", "masked"
TENSORS = 6  # of a decoder's widest layer that are held at a time, roughly


@dataclass(frozen=True, slots=True)
class Wish:
    """One picture to be drawn, as a pipeline is told. `sources` are PIL pictures."""

    prompt: str
    negative: str
    seed: int
    source: Any = None
    mask: Any = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What pictures must have in common to be drawn in one run."""

    kind: str
    width: int
    height: int
    steps: int
    guidance: float | None = None
    is_negative: bool = False
    strength: float | None = None


def read_index(folder: Path) -> dict[str, Any]:
    """model_index.json, checked: nothing of it may name code from elsewhere. Raises LoadError."""
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise LoadError(f"{INDEX} does not name a pipeline")
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list):
            continue
        if len(entry) != 2 or entry[0] not in LIBRARIES:
            raise LoadError(f"refused: {name} comes from {entry[0]!r}")
    return index


def parts_bytes(folder: Path, float_bytes: int) -> int:
    """Bytes of the weights of all parts. Raises LoadError."""
    folders = sorted({file.parent for file in folder.rglob("*.safetensors")})
    if not folders:
        raise LoadError("the folder has no safetensors weights")
    return sum(weight_bytes(part, float_bytes) for part in folders)


def workspace_bytes(folder: Path, float_bytes: int, pixels: int) -> int:
    """What decoding so many pixels takes, roughly: it is far more than the steps before it."""
    file = folder / "vae" / "config.json"
    config = read_json(file) if file.is_file() else {}
    channels = config.get("block_out_channels") or [config.get("base_dim") or 128]
    return TENSORS * pixels * int(channels[0]) * float_bytes


def load_pipeline(config: RunnerConfig) -> Any:
    """The pipeline of a folder on its device, in no mood for training. Raises LoadError."""
    # Heavy imports, and both libraries would ask the hub at odd moments.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import diffusers  # noqa: PLC0415
    from diffusers.utils import logging as diffusers_logging  # noqa: PLC0415
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    disable_progress_bar()
    folder = check_folder(config.path)
    index, dtype = read_index(folder), float_type(config.device, config.dtype)
    made = getattr(diffusers, index["_class_name"], None)
    if not (isinstance(made, type) and issubclass(made, diffusers.DiffusionPipeline)):
        raise LoadError(f"{index['_class_name']} is no pipeline of diffusers")
    pipeline = made.from_pretrained(
        folder,
        **mixed_parts(folder, index, dtype),
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=False,
    )
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipeline.to(config.device)


def tensors_bytes(pipeline: Any) -> int:
    """What the weights of all parts take."""
    return sum(
        tensor.nbytes
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for tensor in part.parameters()
    )


class ImageModel:
    """Used by the engine's thread alone: schedulers hold the state of a run."""

    def __init__(self, config: RunnerConfig) -> None:
        """Reads the weights. Raises LoadError."""
        pipeline = load_pipeline(config)
        self.name = type(pipeline).__name__
        self.device = torch.device(config.device)
        self.native = int(config.options.get("native_side") or _native_side(pipeline))
        self.step = 2 * int(getattr(pipeline, "vae_scale_factor", 8))
        self.steps = int(config.options.get("steps") or USUAL_STEPS)
        guidance = config.options.get("guidance")
        self.guidance = None if guidance is None else float(guidance)
        self._pipelines = _pipelines(pipeline)
        self.weights = tensors_bytes(pipeline)

    @property
    def takes_pictures(self) -> bool:
        """Whether it can start from a picture."""
        return PICTURE in self._pipelines

    def kind(self, *, has_source: bool, has_mask: bool) -> str:
        """Which pipeline draws such a request; without one for masks, the runner's own does it."""
        if not has_source:
            return WORDS
        return MASKED if has_mask and MASKED in self._pipelines else PICTURE

    def draw(
        self, shape: Shape, wishes: Sequence[Wish], on_step: Callable[[int, int], None]
    ) -> list[Any]:
        """Pictures (PIL) of all wishes in one run; what `on_step` raises ends it."""
        pipeline = self._pipelines[shape.kind]

        def step_ended(pipe: Any, step: int, _: Any, __: Any) -> dict[str, Any]:
            on_step(step + 1, pipe.num_timesteps)
            return {}

        wanted: dict[str, Any] = {
            "prompt": [wish.prompt for wish in wishes],
            "width": shape.width,
            "height": shape.height,
            "num_inference_steps": shape.steps,
            "generator": [torch.Generator().manual_seed(wish.seed) for wish in wishes],
            "callback_on_step_end": step_ended,
            **self._lead(pipeline, shape, wishes),
        }
        if shape.kind != WORDS:
            wanted["image"] = [wish.source for wish in wishes]
            wanted["strength"] = shape.strength
        if shape.kind == MASKED:
            wanted["mask_image"] = [wish.mask for wish in wishes]
        if "max_sequence_length" in _parameters(pipeline):
            wanted["max_sequence_length"] = _longest_prompt(pipeline)
        with torch.inference_mode():
            return list(pipeline(**wanted).images)

    def _lead(self, pipeline: Any, shape: Shape, wishes: Sequence[Wish]) -> dict[str, Any]:
        """Guidance in the pipeline's own words: as an input of the model, or as a second pass with
        the negative prompt that is led away from."""
        found: dict[str, Any] = {}
        negative = [wish.negative for wish in wishes]
        if "true_cfg_scale" not in _parameters(pipeline):
            if shape.guidance is not None:
                found["guidance_scale"] = shape.guidance
            return {**found, "negative_prompt": negative} if shape.is_negative else found
        if getattr(pipeline.transformer.config, "guidance_embeds", False):
            if shape.guidance is not None:
                found["guidance_scale"] = shape.guidance
            if shape.is_negative:
                found.update(negative_prompt=negative, true_cfg_scale=USUAL_CFG)
            return found
        if shape.is_negative or (shape.guidance is not None and shape.guidance > 1):
            scale = USUAL_CFG if shape.guidance is None else shape.guidance
            found.update(negative_prompt=negative, true_cfg_scale=scale)
        return found


def _pipelines(pipeline: Any) -> dict[str, Any]:
    from diffusers import (  # noqa: PLC0415 - heavy
        AutoPipelineForImage2Image,
        AutoPipelineForInpainting,
    )

    found = {WORDS: pipeline}
    for kind, auto in ((PICTURE, AutoPipelineForImage2Image), (MASKED, AutoPipelineForInpainting)):
        try:
            found[kind] = auto.from_pipe(pipeline)
        except ValueError:  # this family has none
            continue
    for one in found.values():
        one.set_progress_bar_config(disable=True)
    return found


def _parameters(pipeline: Any) -> Any:
    return inspect.signature(type(pipeline).__call__).parameters


def _native_side(pipeline: Any) -> int:
    side = getattr(getattr(pipeline, "vae", None), "config", {}).get("sample_size")
    return side if isinstance(side, int) else USUAL_SIDE


def _longest_prompt(pipeline: Any) -> int:
    """As many tokens as the tokenizer says its encoder takes."""
    tokenizer = getattr(pipeline, "tokenizer_2", None) or pipeline.tokenizer
    return min(LONGEST_PROMPT, tokenizer.model_max_length)
