"""Films as Jobs: what the `input` of POST /api/jobs may hold for the two Tasks that make them."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from casola_site.core.fields import (
    StrictCharField,
    StrictFloatField,
    StrictIntegerField,
    StrictSerializer,
)
from inference.api.openai.checks import bad, missing
from inference.api.openai.images import PictureField
from inference.contracts import images, video

# Other services' names of the same things.
NAMES = {
    "image_url": "image",
    "frames_per_second": "fps",
    "duration": "seconds",
    "frames": "num_frames",
}


class VideoRequest(StrictSerializer):
    """What both Tasks take. Unknown fields are ignored, null means absent."""

    model = StrictCharField(max_length=200)
    negative_prompt = StrictCharField(
        required=False, allow_blank=True, max_length=video.MAX_CHARACTERS
    )
    size = StrictCharField(required=False, help_text="Such as 1280x720, or width and height")
    width = StrictIntegerField(required=False)
    height = StrictIntegerField(required=False)
    num_frames = StrictIntegerField(required=False, help_text="One more than a multiple of 4")
    seconds = StrictFloatField(required=False, help_text="Instead of num_frames")
    fps = StrictIntegerField(
        required=False, min_value=video.LEAST_FPS, max_value=video.MOST_FPS, help_text="16"
    )
    seed = StrictIntegerField(required=False, min_value=0, max_value=video.MOST_SEED)
    num_inference_steps = StrictIntegerField(
        required=False, min_value=1, max_value=video.MOST_STEPS
    )
    guidance_scale = StrictFloatField(required=False, min_value=0, max_value=100)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """With our names in place of others."""
        if isinstance(data, dict):
            for other, ours in NAMES.items():
                if data.get(ours) is None and data.get(other) is not None:
                    data = {**data, ours: data[other]}
        return super().to_internal_value(data)

    def validate_num_frames(self, value: int) -> int:
        """A number that the models can make."""
        try:
            video.check_frames(value)
        except ValueError as error:
            raise bad(str(error)) from None
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Size and length in one way each."""
        return _with_frames(_with_size(attrs))


def _with_size(attrs: dict[str, Any]) -> dict[str, Any]:
    """Width and height, or neither."""
    text, sides = attrs.pop("size", None), [attrs.get("width"), attrs.get("height")]
    if sides == [None, None]:
        try:
            found = images.sides_of(text)
        except ValueError as error:
            raise bad(str(error), "size") from None
        if found is None:
            return attrs
    elif None in sides:
        raise missing("width" if sides[0] is None else "height")
    elif text not in (None, "auto"):
        raise bad("cannot be had together with width and height", "size")
    else:
        found = sides[0], sides[1]
    if (wrong := video.wrong_side(*found)) is not None:
        side, message = wrong
        raise bad(message, side) if text is None else bad(f"{side} {message}", "size")
    return {**attrs, "width": found[0], "height": found[1]}


def _with_frames(attrs: dict[str, Any]) -> dict[str, Any]:
    """The number of frames, where it is said in whichever way."""
    seconds = attrs.pop("seconds", None)
    if seconds is None:
        return attrs
    if attrs.get("num_frames") is not None:
        raise bad("cannot be had together with num_frames", "seconds")
    fps = attrs.get("fps") or video.USUAL_FPS
    longest = video.MOST_FRAMES / fps
    if not 0 < seconds <= longest:
        raise bad(f"must be more than 0 and at most {longest:.2f} at {fps} fps", "seconds")
    return {**attrs, "num_frames": video.frames_of(seconds, fps)}


class TextToVideoRequest(VideoRequest):
    """A film of what a text describes."""

    prompt = StrictCharField(max_length=video.MAX_CHARACTERS)

    def validate_prompt(self, value: str) -> str:
        """Something to show."""
        if not value.strip():
            raise bad("must not be empty")
        return value


class ImageToVideoRequest(VideoRequest):
    """A film that begins with a picture; without words it simply comes to life."""

    prompt = StrictCharField(required=False, allow_blank=True, max_length=video.MAX_CHARACTERS)
    image = PictureField(help_text="An address, also a data: one; image_url means the same")


def _checked(serializer: type[VideoRequest], body: dict[str, Any]) -> dict[str, Any]:
    try:
        found = serializer().run_validation(body)
    except serializers.ValidationError as error:
        raise serializers.ValidationError({"input": error.detail}) from None
    # A list, as whoever loads the pictures of requests looks for them.
    return {**found, "image": [found["image"]]} if "image" in found else found


def check_text(body: dict[str, Any]) -> dict[str, Any]:
    """A Job's input of the Task fal/text-to-video. Raises ValidationError."""
    return _checked(TextToVideoRequest, body)


def check_image(body: dict[str, Any]) -> dict[str, Any]:
    """A Job's input of the Task fal/image-to-video. Raises ValidationError."""
    return _checked(ImageToVideoRequest, body)
