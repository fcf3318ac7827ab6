"""A diffusers folder of Wan's kind as two pipelines over one set of weights: words, first picture."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inference.runners.base import LoadError, RunnerConfig
from inference.runners.image_model import TENSORS, load_pipeline, tensors_bytes
from inference.runners.model_folder import read_json

USUAL_SIDE = 960
USUAL_FRAMES = 121
USUAL_STEPS = 50
USUAL_GUIDANCE = 5.0
USUAL_CHANNELS = 128
LONGEST_PROMPT = 512  # tokens
SIDE_STEP = 16  # what Wan's pipelines insist on
FRAMES_AT_ONCE = 4  # that the decoder works on
WORDS, PICTURE = "words", "picture"
CLASSES = ("WanPipeline", "WanImageToVideoPipeline")


@dataclass(frozen=True, slots=True)
class Wish:
    """One film to be made, as a pipeline is told. `source` is a PIL picture."""

    prompt: str
    negative: str
    seed: int
    source: Any = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What films must have in common to be made in one run; `picture` names the first picture."""

    width: int
    height: int
    frames: int
    steps: int
    guidance: float
    picture: str = ""


def workspace_bytes(folder: Path, float_bytes: int, pixels: int, frames: int) -> int:
    """What decoding films with so many pixels in a frame takes, roughly, and the films themselves."""
    file = folder / "vae" / "config.json"
    config = read_json(file) if file.is_file() else {}
    channels = int(config.get("decoder_base_dim") or config.get("base_dim") or USUAL_CHANNELS)
    patch = int(config.get("patch_size") or 1)
    layer = pixels * min(frames, FRAMES_AT_ONCE) * channels // (patch * patch)
    return (TENSORS * layer + 3 * 3 * pixels * frames) * float_bytes


class VideoModel:
    """Used by the engine's thread alone: schedulers hold the state of a run."""

    def __init__(self, config: RunnerConfig) -> None:
        """Reads the weights. Raises LoadError."""
        pipeline = load_pipeline(config)
        self.name = type(pipeline).__name__
        if self.name not in CLASSES:
            raise LoadError(f"{self.name} makes no films that this runner knows of")
        options = config.options
        self.device = torch.device(config.device)
        self.native = int(options.get("native_side") or USUAL_SIDE)
        self.frames = int(options.get("native_frames") or USUAL_FRAMES)
        self.steps = int(options.get("steps") or USUAL_STEPS)
        self.guidance = float(options.get("guidance") or USUAL_GUIDANCE)
        self.step = math.lcm(SIDE_STEP, _multiple(pipeline))
        self._pipelines = _pipelines(pipeline)
        self.weights = tensors_bytes(pipeline)

    @property
    def kinds(self) -> frozenset[str]:
        """What it can start from."""
        return frozenset(self._pipelines)

    def film(
        self, shape: Shape, wishes: Sequence[Wish], on_step: Callable[[int, int], None]
    ) -> list[np.ndarray]:
        """Films of all wishes in one run: frames, rows, columns, colours, as bytes. What `on_step`
        raises ends it."""
        pipeline = self._pipelines[PICTURE if shape.picture else WORDS]

        def step_ended(pipe: Any, step: int, _: Any, __: Any) -> dict[str, Any]:
            on_step(step + 1, pipe.num_timesteps)
            return {}

        wanted: dict[str, Any] = {
            "prompt_embeds": self._read(pipeline, [wish.prompt for wish in wishes]),
            "negative_prompt_embeds": self._read(pipeline, [wish.negative for wish in wishes]),
            "width": shape.width,
            "height": shape.height,
            "num_frames": shape.frames,
            "num_inference_steps": shape.steps,
            "guidance_scale": shape.guidance,
            "generator": [torch.Generator().manual_seed(wish.seed) for wish in wishes],
            "callback_on_step_end": step_ended,
            "output_type": "pt",
        }
        if shape.picture:
            # It is encoded once for every generator: company must start from the same one.
            wanted["image"] = wishes[0].source
        with torch.inference_mode():
            return [_as_bytes(one) for one in pipeline(**wanted).frames]

    @staticmethod
    @torch.inference_mode()
    def _read(pipeline: Any, texts: list[str]) -> torch.Tensor:
        """Texts as the transformer is given them. The one class's way serves both: the other's
        fails without a package that it should have asked for."""
        from diffusers import WanPipeline  # noqa: PLC0415 - heavy

        longest = min(LONGEST_PROMPT, pipeline.tokenizer.model_max_length)
        return WanPipeline._get_t5_prompt_embeds(pipeline, texts, max_sequence_length=longest)


def _multiple(pipeline: Any) -> int:
    """What a frame's sides must be multiples of."""
    patch = (pipeline.transformer or pipeline.transformer_2).config.patch_size
    return int(pipeline.vae_scale_factor_spatial) * max(patch[1:])


def _pipelines(pipeline: Any) -> dict[str, Any]:
    """Models that mark each token's own noise level (`expand_timesteps`) do both; others one."""
    from diffusers import WanImageToVideoPipeline, WanPipeline  # noqa: PLC0415 - heavy

    expands = bool(pipeline.config.expand_timesteps)
    found = {}
    for kind, made in ((WORDS, WanPipeline), (PICTURE, WanImageToVideoPipeline)):
        if isinstance(pipeline, made):
            found[kind] = pipeline
        elif expands:
            found[kind] = made(**_parts(pipeline, made), expand_timesteps=True)
    for one in found.values():
        one.set_progress_bar_config(disable=True)
    return found


def _parts(pipeline: Any, made: type) -> dict[str, Any]:
    """Those parts of a pipeline that another class of it takes."""
    names = inspect.signature(made.__init__).parameters
    return {name: part for name, part in pipeline.components.items() if name in names}


def _as_bytes(film: torch.Tensor) -> np.ndarray:
    return film.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
