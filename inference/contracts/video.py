"""Films: what a runner is given and what it answers.

Tasks `fal/text-to-video` (from words alone) and `fal/image-to-video` (from a first picture).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

TEXT_TO_VIDEO = "fal/text-to-video"
IMAGE_TO_VIDEO = "fal/image-to-video"
TASKS = frozenset({TEXT_TO_VIDEO, IMAGE_TO_VIDEO})
MAX_CHARACTERS = 32_000
SHORTEST_SIDE, LONGEST_SIDE = 64, 1_920
MOST_PIXELS = 1_920 * 1_080  # of a frame
USUAL_WIDTH, USUAL_HEIGHT = 1_280, 720
FRAME_GROUP = 4  # such models make one frame, and then groups of so many
USUAL_FRAMES, MOST_FRAMES = 81, 257
USUAL_FPS, LEAST_FPS, MOST_FPS = 16, 4, 60
LONGEST_SECONDS = MOST_FRAMES / LEAST_FPS
MOST_STEPS = 100
MOST_SEED = 2**63 - 1
ANIMATE = "The scene comes to life with smooth, natural motion"
"""What is asked for where a picture comes without words."""

Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class VideoInput:
    """One request as a runner sees it.

    `image` holds the first picture, if any, as a part: with a `url` on its way, with bytes as `data`
    once loaded. Without a size the film is shaped as that picture. What is None is the model's own.
    """

    prompt: str
    width: int | None = None
    height: int | None = None
    frames: int = USUAL_FRAMES
    fps: int = USUAL_FPS
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str = ""
    image: tuple[Part, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a frame."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        return {**found, "image": list(self.image)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VideoInput:
        """Rebuild from `as_dict`; unknown keys are ignored so that old and new code can meet."""
        found = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**found, "image": tuple(data.get("image") or ())})


def wrong_side(width: int, height: int) -> tuple[str, str] | None:
    """Which side of a film cannot be so, and why; None where all is well."""
    for name, side in (("width", width), ("height", height)):
        if not SHORTEST_SIDE <= side <= LONGEST_SIDE:
            return name, f"must be {SHORTEST_SIDE} to {LONGEST_SIDE} pixels"
        if side % 2:
            return name, "must be even: the file's format knows no odd sides"
    if width * height > MOST_PIXELS:
        return "width", f"times height must be at most {MOST_PIXELS:,} pixels, as of 1920x1080"
    return None


def check_frames(frames: int) -> None:
    """Raises ValueError for a number that such models cannot make."""
    if not 1 <= frames <= MOST_FRAMES:
        raise ValueError(f"must be 1 to {MOST_FRAMES}")
    if frames % FRAME_GROUP != 1:
        below = (frames - 1) // FRAME_GROUP * FRAME_GROUP + 1
        raise ValueError(
            f"must be one more than a multiple of {FRAME_GROUP}, such as {below} "
            f"or {min(below + FRAME_GROUP, MOST_FRAMES)}"
        )


def frames_of(seconds: float, fps: int) -> int:
    """As many frames as come nearest to that long."""
    return max(0, round((seconds * fps - 1) / FRAME_GROUP)) * FRAME_GROUP + 1


def milliseconds(frames: int, fps: int) -> int:
    """How long a film is."""
    return math.ceil(1000 * frames / fps)


def from_body(body: dict[str, Any]) -> VideoInput:
    """The contract from a request body that the Task's serializer has already checked."""
    image = body.get("image")
    width, height = body.get("width"), body.get("height")
    if image is None and width is None:
        width, height = USUAL_WIDTH, USUAL_HEIGHT
    return VideoInput(
        prompt=body.get("prompt") or ANIMATE,
        width=width,
        height=height,
        frames=body.get("num_frames") or USUAL_FRAMES,
        fps=body.get("fps") or USUAL_FPS,
        seed=body.get("seed"),
        steps=body.get("num_inference_steps"),
        guidance=body.get("guidance_scale"),
        negative_prompt=body.get("negative_prompt") or "",
        image=() if image is None else ({"type": "image", "url": image[0]},),
    )


def most_milliseconds(request: dict[str, Any]) -> int:
    """How long the film of an engine's input is."""
    return milliseconds(request.get("frames", USUAL_FRAMES), request.get("fps", USUAL_FPS))


def result_body(media: list[dict[str, Any]], *, created: int) -> dict[str, Any]:
    """A Job's result: where the film is, what it is like, and the seed it came from."""
    del created
    film = dict(media[0])
    seed = film.pop("seed", None)
    return {"video": film, "seed": seed}
