"""Films from words, and from a first picture: diffusers' Wan pipelines on the StepEngine.

What a model cannot do is done around it: sizes and lengths it was not made for are made smaller and
shorter, and brought to what was asked for.
"""

from __future__ import annotations

import gc
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from inference.contracts import video
from inference.contracts.video import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, VideoInput
from inference.runners.base import Emit, InvalidInput, LoadError, Media, Memory, RunnerConfig, Stats
from inference.runners.device import float_type, use_device
from inference.runners.image_model import parts_bytes
from inference.runners.image_pixels import drawn_size
from inference.runners.model_folder import check_folder
from inference.runners.step_engine import OnStep, StepEngine, StepLimits
from inference.runners.step_line import StepItem, StepRequest
from inference.runners.video_model import (
    PICTURE,
    USUAL_FRAMES,
    USUAL_SIDE,
    WORDS,
    Shape,
    VideoModel,
    Wish,
    workspace_bytes,
)
from inference.runners.video_pixels import film_size, first_picture, mp4_of

MOST_WAITING = 200  # films
MOST_AREA = 1.0  # times the model's own: a film is far too costly to draw larger
KINDS = {TEXT_TO_VIDEO: WORDS, IMAGE_TO_VIDEO: PICTURE}


class VideoRunner:
    """One Wan pipeline on one device.

    `options`: native_side and native_frames (how large and how long the model's films are at most),
    only_native (it makes that one square size and length only), steps and guidance (the usual ones),
    rows (films in one run at the native size) and waiting (films in line).
    """

    tasks = video.TASKS
    takes_images = True

    def __init__(self, config: RunnerConfig) -> None:
        """Nothing is read before `load`."""
        self._config = config
        self._on_fatal: Callable[[str], None] | None = None
        self._model: VideoModel | None = None
        self._engine: StepEngine | None = None
        self._memory = Memory(0, 0, 0)

    @classmethod
    def estimate(cls, config: RunnerConfig) -> Memory:
        """See Runner."""
        folder = check_folder(config.path)
        size = float_type(config.device, config.dtype).itemsize
        side = int(config.options.get("native_side") or USUAL_SIDE)
        frames = int(config.options.get("native_frames") or USUAL_FRAMES)
        workspace = workspace_bytes(folder, size, _rows(config) * side * side, frames)
        return Memory(parts_bytes(folder, size), 0, workspace)

    def load(self, on_progress: Callable[[float, str], None]) -> Memory:
        """See Runner. The folder is checked first: nothing in it may carry code."""
        try:
            return self._load(on_progress)
        except LoadError:
            self.unload()
            raise
        except Exception as error:  # whatever diffusers makes of a broken folder
            self.unload()
            raise LoadError(f"{type(error).__name__}: {error}"[:500]) from error

    def describe(self) -> str:
        """See Runner."""
        return f"steps, {self._require_model().name}"

    def on_fatal(self, callback: Callable[[str], None]) -> None:
        """See Runner."""
        self._on_fatal = callback

    def start(self, emit: Emit) -> None:
        """See Runner."""
        self._require_engine().start(emit)

    def submit(self, request_id: str, task: str, request: dict[str, Any], *, salt: str) -> None:
        """See Runner. Reads the first picture in the caller's thread."""
        engine = self._require_engine()
        if KINDS.get(task) not in self._require_model().kinds:
            raise InvalidInput(f"This model does not do {task}", param="model")
        asked = VideoInput.from_dict(request)
        engine.submit(self._request(request_id, task, asked, owner=salt))

    def cancel(self, request_id: str) -> None:
        """See Runner."""
        if self._engine is not None:
            self._engine.cancel(request_id)

    def stats(self) -> Stats:
        """See Runner."""
        if self._engine is None:
            return Stats(active=0, waiting=0)
        return replace(self._engine.stats(), memory=self._memory.total)

    def unload(self) -> None:
        """See Runner. Raises RuntimeError if the engine thread does not end."""
        if self._engine is not None and not self._engine.stop():
            raise RuntimeError("the engine thread does not end")
        self._engine = self._model = None
        gc.collect()
        if self._config.device.startswith("cuda"):
            torch.cuda.empty_cache()

    # -- loading --------------------------------------------------------------------------------

    def _load(self, on_progress: Callable[[float, str], None]) -> Memory:
        config = self._config
        on_progress(0.1, "weights")
        self._model = model = VideoModel(config)
        on_progress(0.7, "first film")
        rows, is_gpu = _rows(config), model.device.type == "cuda"
        if is_gpu:
            torch.cuda.reset_peak_memory_stats(model.device)
        self._warm_up(model, rows if is_gpu else 1)
        area = rows * model.native * model.native
        bytes_each = float_type(config.device, config.dtype).itemsize
        workspace = workspace_bytes(Path(config.path), bytes_each, area, model.frames)
        if is_gpu:
            workspace = max(0, torch.cuda.max_memory_reserved(model.device) - model.weights)
        self._memory = Memory(model.weights, 0, workspace)
        waiting = int(config.options.get("waiting", MOST_WAITING))
        self._engine = StepEngine(
            self._draw,
            limits=StepLimits(rows, area * model.frames, waiting),
            on_start=lambda: use_device(model.device),
            on_fatal=self._on_fatal,
        )
        on_progress(1.0, "ready")
        return self._memory

    def _warm_up(self, model: VideoModel, rows: int) -> None:
        """The smallest film on a CPU; the largest run on a GPU, whose memory it measures."""
        is_gpu = model.device.type == "cuda"
        side = max(model.step, model.native // model.step * model.step)
        width, frames = (side, model.frames) if is_gpu else (model.step, 1 + video.FRAME_GROUP)
        starts_from = WORDS if WORDS in model.kinds else PICTURE
        picture = Image.new("RGB", (width, width)) if starts_from == PICTURE else None
        shape = Shape(width, width, frames, 2, model.guidance, "warm-up" if picture else "")
        wishes = [Wish("a film", "", seed, picture) for seed in range(rows)]
        model.film(shape, wishes, lambda done, total: None)

    def _require_model(self) -> VideoModel:
        if self._model is None:
            raise LoadError("the model is not loaded")
        return self._model

    def _require_engine(self) -> StepEngine:
        if self._engine is None:
            raise LoadError("the model is not loaded")
        return self._engine

    # -- a request ------------------------------------------------------------------------------

    def _request(self, request_id: str, task: str, asked: VideoInput, *, owner: str) -> StepRequest:
        """Its film as the engine's item. Raises InvalidInput."""
        model = self._require_model()
        if task == IMAGE_TO_VIDEO and not asked.image:
            raise InvalidInput("A first picture is needed", param="image")
        try:
            video.check_frames(asked.frames)
        except ValueError as error:
            raise InvalidInput(f"num_frames {error}", param="num_frames") from error
        if asked.frames > model.frames and not self._only_native:
            message = f"This model makes at most {model.frames} frames"
            raise InvalidInput(message, param="num_frames")
        wanted = (asked.width, asked.height) if asked.width and asked.height else None
        picture = first_picture(asked.image[0], wanted) if task == IMAGE_TO_VIDEO else None
        size = picture.size if picture else wanted or film_size((model.native, model.native))
        shape = self._shape(model, asked, size)
        if picture is not None:
            picture = picture.resize((shape.width, shape.height), Image.Resampling.LANCZOS)
            shape = replace(shape, picture=hashlib.sha256(picture.tobytes()).hexdigest())
        seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
        keep_shape = self._only_native and picture is None
        finish = partial(_files, asked=asked, size=size, seed=seed, keep_shape=keep_shape)
        request = StepRequest(request_id, owner, finish)
        request.add(
            shape,
            Wish(asked.prompt, asked.negative_prompt, seed, picture),
            size=shape.width * shape.height * shape.frames,
            video_ms=video.milliseconds(asked.frames, asked.fps),
        )
        return request

    def _shape(self, model: VideoModel, asked: VideoInput, size: tuple[int, int]) -> Shape:
        only = self._only_native
        width, height = drawn_size(
            size, native=model.native, step=model.step, only_square=only, most=MOST_AREA
        )
        return Shape(
            width,
            height,
            model.frames if only else asked.frames,
            asked.steps or model.steps,
            model.guidance if asked.guidance is None else asked.guidance,
        )

    @property
    def _only_native(self) -> bool:
        return bool(self._config.options.get("only_native"))

    # -- the engine's thread --------------------------------------------------------------------

    def _draw(self, batch: Sequence[StepItem], on_step: OnStep) -> Sequence[Any]:
        shape: Any = batch[0].key
        return self._require_model().film(shape, [item.wish for item in batch], on_step)


def _rows(config: RunnerConfig) -> int:
    return max(1, int(config.options.get("rows", 1)))


def _files(
    films: list[np.ndarray],
    *,
    asked: VideoInput,
    size: tuple[int, int],
    seed: int,
    keep_shape: bool,
) -> tuple[Media, ...]:
    """The finished file of one request."""
    content = mp4_of(films[0], size, frames=asked.frames, fps=asked.fps, keep_shape=keep_shape)
    about = {
        "width": size[0],
        "height": size[1],
        "num_frames": asked.frames,
        "fps": asked.fps,
        "duration": round(asked.frames / asked.fps, 3),
        "seed": seed,
    }
    return (Media(content, "mp4", about),)
