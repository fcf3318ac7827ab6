"""Pictures from words, and pictures changed: diffusers pipelines on the StepEngine.

What a model cannot do is done around it: sizes it was not made for are drawn smaller and enlarged,
pixels outside a mask are those of the original, several sources become one.
"""

from __future__ import annotations

import gc
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from inference.contracts.images import EDIT, FORMATS, GENERATION, MOST_SEED, ImageInput
from inference.runners import image_pixels as pixels
from inference.runners.base import (
    Emit,
    InvalidInput,
    LoadError,
    Media,
    Memory,
    RunnerConfig,
    Stats,
)
from inference.runners.device import float_type, use_device
from inference.runners.image_model import (
    MASKED,
    USUAL_SIDE,
    WORDS,
    ImageModel,
    Shape,
    Wish,
    parts_bytes,
    workspace_bytes,
)
from inference.runners.model_folder import check_folder
from inference.runners.step_engine import OnStep, StepEngine, StepLimits
from inference.runners.step_line import StepItem, StepRequest

MOST_WAITING = 500  # pictures
ROWS = 8
MOST_AREA = 2.25  # times the model's own: what it still draws without going astray
USUAL_STRENGTH = 0.8  # of what a picture is changed where no mask says where
INSERTED_STRENGTH = 0.6  # where another picture was laid into the mask first


@dataclass(frozen=True, slots=True)
class Sources:
    """What an edit starts from, in the size of the answer."""

    picture: Image.Image
    mask: Image.Image | None
    is_inserted: bool


class ImageRunner:
    """One diffusers pipeline on one device.

    `options`: native_side (how large the model draws), only_square, steps and guidance (the usual
    ones), rows
    (pictures in one run at the native size) and waiting (pictures in line).
    """

    tasks = frozenset({GENERATION, EDIT})
    takes_images = True

    def __init__(self, config: RunnerConfig) -> None:
        """Nothing is read before `load`."""
        self._config = config
        self._on_fatal: Callable[[str], None] | None = None
        self._model: ImageModel | None = None
        self._engine: StepEngine | None = None
        self._memory = Memory(0, 0, 0)

    @classmethod
    def estimate(cls, config: RunnerConfig) -> Memory:
        """See Runner."""
        folder = check_folder(config.path)
        size = float_type(config.device, config.dtype).itemsize
        side = int(config.options.get("native_side") or USUAL_SIDE)
        room = _rows(config) * side * side
        return Memory(parts_bytes(folder, size), 0, workspace_bytes(folder, size, room))

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
        """See Runner. Reads the sources in the caller's thread."""
        engine = self._require_engine()
        if task not in self.tasks:
            raise InvalidInput(f"This model does not do {task}", param="model")
        engine.submit(self._request(request_id, ImageInput.from_dict(request), owner=salt))

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
        self._model = model = ImageModel(config)
        on_progress(0.7, "first picture")
        rows = _rows(config)
        is_gpu = model.device.type == "cuda"
        if is_gpu:
            torch.cuda.reset_peak_memory_stats(model.device)
        self._warm_up(model, rows if is_gpu else 1)
        held = model.weights
        room = rows * model.native * model.native
        workspace = workspace_bytes(Path(config.path), _float_bytes(config), room)
        if is_gpu:
            workspace = max(0, torch.cuda.max_memory_reserved(model.device) - held)
        self._memory = Memory(held, 0, workspace)
        self._engine = StepEngine(
            self._draw,
            limits=StepLimits(rows, room, int(config.options.get("waiting", MOST_WAITING))),
            on_start=lambda: use_device(model.device),
            on_fatal=self._on_fatal,
        )
        on_progress(1.0, "ready")
        return self._memory

    def _warm_up(self, model: ImageModel, rows: int) -> None:
        shape = Shape(WORDS, model.native, model.native, steps=2)
        wishes = [Wish("a picture", "", seed) for seed in range(rows)]
        model.draw(shape, wishes, lambda done, total: None)

    def _require_model(self) -> ImageModel:
        if self._model is None:
            raise LoadError("the model is not loaded")
        return self._model

    def _require_engine(self) -> StepEngine:
        if self._engine is None:
            raise LoadError("the model is not loaded")
        return self._engine

    # -- a request ------------------------------------------------------------------------------

    def _request(self, request_id: str, asked: ImageInput, *, owner: str) -> StepRequest:
        """Its pictures as items of the engine. Raises InvalidInput."""
        model = self._require_model()
        if asked.format not in FORMATS:
            raise InvalidInput("There is no such format", param="output_format")
        sources = self._sources(asked) if asked.image else None
        if sources is None and asked.mask is not None:
            raise InvalidInput("A mask needs an image", param="mask")
        if sources is not None:
            size = sources.picture.size
        else:
            size = asked.width or model.native, asked.height or model.native
        drawn = pixels.drawn_size(
            size,
            native=model.native,
            step=model.step,
            only_square=bool(self._config.options.get("only_square")),
            most=MOST_AREA,
        )
        shape = self._shape(model, asked, sources, drawn)
        finish = partial(_files, asked=asked, size=size, sources=sources)
        request = StepRequest(request_id, owner, finish)
        seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
        for number in range(asked.count):
            wish = Wish(
                asked.prompt,
                asked.negative_prompt,
                (seed + number) % (MOST_SEED + 1),
                *_small_sources(sources, shape),
            )
            area = drawn[0] * drawn[1]
            request.add(shape, wish, size=area, images=1, pixels=size[0] * size[1])
        return request

    def _sources(self, asked: ImageInput) -> Sources:
        first = "image" if len(asked.image) == 1 else "image[0]"
        picture, mask = pixels.read_source(asked.image[0], param=first)
        # One after another, so that many large ones never are in memory together.
        others = [
            pixels.bounded(pixels.read_source(part, param=f"image[{place}]")[0])
            for place, part in enumerate(asked.image[1:], 1)
        ]
        if asked.mask is not None:
            mask = pixels.read_mask(asked.mask, picture.size)
        if others and mask is not None:
            picture = pixels.put_into(picture, pixels.side_by_side(others), mask)
        elif others:
            picture = pixels.side_by_side([picture, *others])
        size = asked.width, asked.height
        wanted = size if all(size) else pixels.within_bounds(picture.size)
        if wanted != picture.size:
            picture = picture.resize(wanted, Image.Resampling.LANCZOS)  # type: ignore[arg-type]
            mask = mask and mask.resize(wanted, Image.Resampling.NEAREST)  # type: ignore[arg-type]
        return Sources(picture, mask, is_inserted=bool(others) and mask is not None)

    def _shape(
        self, model: ImageModel, asked: ImageInput, sources: Sources | None, drawn: tuple[int, int]
    ) -> Shape:
        steps = asked.steps or model.steps
        shape = Shape(
            model.kind(
                has_source=sources is not None,
                has_mask=sources is not None and sources.mask is not None,
            ),
            *drawn,
            steps=steps,
            guidance=model.guidance if asked.guidance is None else asked.guidance,
            is_negative=bool(asked.negative_prompt),
        )
        if sources is None:
            return shape
        if not model.takes_pictures:
            raise InvalidInput("This model cannot change pictures", param="model")
        usual = USUAL_STRENGTH if sources.mask is None else 1.0
        usual = INSERTED_STRENGTH if sources.is_inserted else usual
        strength = usual if asked.strength is None else asked.strength
        # Less than one step would leave nothing to be done.
        return replace(shape, strength=max(strength, 1 / steps))

    # -- the engine's thread --------------------------------------------------------------------

    def _draw(self, batch: Sequence[StepItem], on_step: OnStep) -> Sequence[Any]:
        shape: Any = batch[0].key
        return self._require_model().draw(shape, [item.wish for item in batch], on_step)


def _rows(config: RunnerConfig) -> int:
    return max(1, int(config.options.get("rows", ROWS)))


def _float_bytes(config: RunnerConfig) -> int:
    return float_type(config.device, config.dtype).itemsize


def _small_sources(
    sources: Sources | None, shape: Shape
) -> tuple[Image.Image | None, Image.Image | None]:
    """What the model itself is shown."""
    if sources is None:
        return None, None
    size = shape.width, shape.height
    picture = sources.picture.resize(size, Image.Resampling.LANCZOS)
    if shape.kind != MASKED or sources.mask is None:
        return picture, None
    return picture, _touched(sources.mask, size)


def _touched(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask in the size drawn: every pixel of which any part may change."""
    small = mask.resize(size, Image.Resampling.BOX)
    return small.point(lambda value: 255 if value else 0)


def _files(
    drawn: list[Image.Image],
    *,
    asked: ImageInput,
    size: tuple[int, int],
    sources: Sources | None,
) -> tuple[Media, ...]:
    """The finished pictures of one request."""
    found = []
    for one in drawn:
        picture = pixels.enlarged(one.convert("RGB"), size, keep_shape=sources is None)
        if sources is not None and sources.mask is not None:
            picture = pixels.composed(picture, sources.picture, sources.mask)
        content = pixels.file_of(picture, asked.format, asked.quality)
        about = {"width": picture.width, "height": picture.height}
        found.append(Media(content, asked.format, about))
    return tuple(found)
