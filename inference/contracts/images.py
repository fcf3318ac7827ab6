"""Pictures: what a runner is given and what it answers.

Tasks `openai/image-generation` (from words alone) and `openai/image-edit` (from pictures and words).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GENERATION = "openai/image-generation"
EDIT = "openai/image-edit"
MOST_IMAGES = 10
MOST_SOURCES = 16
MAX_CHARACTERS = 32_000
SHORTEST_SIDE, LONGEST_SIDE = 64, 2_048
USUAL_SIDE = 1_024
MOST_PIXELS = LONGEST_SIDE * LONGEST_SIDE
MOST_STEPS = 100
MOST_SEED = 2**63 - 1
FORMATS = ("png", "jpeg", "webp")
DEFAULT_FORMAT = "png"
DEFAULT_QUALITY = 95  # of jpeg and webp
URL, BASE64 = "url", "b64_json"
ANSWERS = (URL, BASE64)

Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One request as a runner sees it.

    `image` and `mask` are parts: with a `url` on their way, with bytes as `data` once loaded.
    Without a size the answer is as large as the picture that is edited. Picture number i is drawn
    from `seed + i`. What is None is the model's own.
    """

    prompt: str
    count: int = 1
    width: int | None = None
    height: int | None = None
    format: str = DEFAULT_FORMAT
    quality: int = DEFAULT_QUALITY
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative_prompt: str = ""
    strength: float | None = None
    image: tuple[Part, ...] = ()
    mask: Part | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a frame."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        return {**found, "image": list(self.image)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImageInput:
        """Rebuild from `as_dict`; unknown keys are ignored so that old and new code can meet."""
        found = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**found, "image": tuple(data.get("image") or ())})


def sides_of(text: str | None) -> tuple[int, int] | None:
    """`1024x768` as width and height; None for `auto` and for nothing. Raises ValueError."""
    if text is None or text == "auto":
        return None
    width, cross, height = text.partition("x")
    if not (
        cross and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()
    ):
        raise ValueError("must be auto, or width and height such as 1024x1024")
    return int(width[:6]), int(height[:6])


def size_of(text: str | None) -> tuple[int, int] | None:
    """The same, within the bounds of pictures. Raises ValueError."""
    found = sides_of(text)
    if found is not None and not all(SHORTEST_SIDE <= side <= LONGEST_SIDE for side in found):
        raise ValueError(f"must have sides of {SHORTEST_SIDE} to {LONGEST_SIDE} pixels")
    return found


def from_body(body: dict[str, Any]) -> ImageInput:
    """The contract from a request body that the API's serializer has already checked."""
    sources = [_part(one) for one in body.get("image") or ()]
    size = size_of(body.get("size"))
    if size is None and not sources:
        size = USUAL_SIDE, USUAL_SIDE
    width, height = size or (None, None)
    mask = body.get("mask")
    return ImageInput(
        prompt=body["prompt"],
        count=body.get("n") or 1,
        width=width,
        height=height,
        format=body.get("output_format") or DEFAULT_FORMAT,
        quality=body.get("output_compression") or DEFAULT_QUALITY,
        seed=body.get("seed"),
        steps=body.get("num_inference_steps"),
        guidance=body.get("guidance_scale"),
        negative_prompt=body.get("negative_prompt") or "",
        strength=body.get("strength"),
        image=tuple(sources),
        mask=None if mask is None else _part(mask),
    )


def _part(source: str | bytes) -> Part:
    """Of an address, or of a file that came with the request."""
    return {"type": "image", "data" if isinstance(source, bytes) else "url": source}


def most_pixels(request: dict[str, Any]) -> int:
    """What all pictures of an answer can have at most."""
    width, height = request.get("width"), request.get("height")
    return request.get("count", 1) * (width * height if width and height else MOST_PIXELS)


def result_body(media: list[dict[str, Any]], *, created: int) -> dict[str, Any]:
    """A Job's result: the pictures' addresses."""
    return {"created": created, "data": [{"url": item["url"]} for item in media]}
