"""POST /openai/v1/images/generations and /openai/v1/images/edits."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.response import Response

from casola_site.core import outputs
from casola_site.core.clock import now
from casola_site.core.database import in_thread
from casola_site.core.errors import ApiError, Surface, Unavailable, body_for
from casola_site.core.fields import (
    StrictBooleanField,
    StrictCharField,
    StrictChoiceField,
    StrictFloatField,
    StrictIntegerField,
)
from casola_site.core.multipart import FORM_PARSERS, Upload
from casola_site.core.network import base_url
from casola_site.core.scopes import Scope
from casola_site.core.views import ApiViewSet
from inference.api.interactive import Call, Interactive, Stream
from inference.api.later import InferenceRequest
from inference.api.openai.chat import OTHERWISE, job_check
from inference.api.openai.checks import bad, missing
from inference.api.openai.streams import sse
from inference.contracts import images
from inference.hub import Finished, Hub, Piece
from jobs.files import WHILE_OPEN, KeptFile, require_room, store_upload
from tokens.identity import Identity
from usage.limits import RateClass

require_room_async = in_thread(require_room)

ADDRESS = {
    "oneOf": [
        {"type": "string", "description": "A data: or an https: address"},
        {
            "type": "object",
            "properties": {"image_url": {"type": "string"}},
            "required": ["image_url"],
        },
    ]
}
LIST = {"type": "array", "items": ADDRESS, "minItems": 1, "maxItems": images.MOST_SOURCES}


class ImageRequest(InferenceRequest):
    """What both endpoints take. Unknown fields are ignored, null means absent."""

    model = StrictCharField(max_length=200)
    prompt = StrictCharField(max_length=images.MAX_CHARACTERS)
    n = StrictIntegerField(required=False, min_value=1, max_value=images.MOST_IMAGES)
    size = StrictCharField(required=False, help_text="Such as 1024x1024, or auto")
    response_format = StrictChoiceField(choices=list(images.ANSWERS), required=False)
    output_format = StrictChoiceField(choices=list(images.FORMATS), required=False)
    output_compression = StrictIntegerField(
        required=False, min_value=1, max_value=100, help_text="The quality of jpeg and webp"
    )
    seed = StrictIntegerField(
        required=False,
        min_value=0,
        max_value=images.MOST_SEED,
        help_text="Of the first picture; each further one counts up",
    )
    num_inference_steps = StrictIntegerField(
        required=False, min_value=1, max_value=images.MOST_STEPS
    )
    guidance_scale = StrictFloatField(required=False, min_value=0, max_value=100)
    negative_prompt = StrictCharField(
        required=False, allow_blank=True, max_length=images.MAX_CHARACTERS
    )
    stream = StrictBooleanField(required=False, help_text="Answer with server-sent events")
    partial_images = StrictIntegerField(
        required=False, min_value=0, max_value=3, help_text="At most so many; none are sent so far"
    )

    def validate_prompt(self, value: str) -> str:
        """Something to draw."""
        if not value.strip():
            raise bad("must not be empty")
        return value

    def validate_size(self, value: str) -> str:
        """Two sides within bounds."""
        try:
            images.size_of(value)
        except ValueError as error:
            raise bad(str(error)) from None
        return value


class GenerationRequest(ImageRequest):
    """OpenAI's request for pictures from words."""


@extend_schema_field({"oneOf": [*ADDRESS["oneOf"], LIST]})
class SourcesField(serializers.Field):
    """The pictures to be changed: addresses, or what the files of a form became."""

    default_error_messages = {"required": "is required", "null": "is required"}

    def to_internal_value(self, data: Any) -> list[str | bytes]:
        """Their addresses or contents."""
        if not isinstance(data, list):
            return [_source(data)]
        if not data:
            raise bad("must not be empty")
        if len(data) > images.MOST_SOURCES:
            raise bad(f"must hold at most {images.MOST_SOURCES} images")
        return [_source(one, index) for index, one in enumerate(data)]

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


@extend_schema_field(ADDRESS)
class PictureField(serializers.Field):
    """One picture."""

    def to_internal_value(self, data: Any) -> str | bytes:
        """Its address or content."""
        return _source(data)

    def to_representation(self, value: Any) -> Any:
        """As it is."""
        return value


def _source(data: Any, *path: int) -> str | bytes:
    if isinstance(data, Upload):
        return data.content.read()
    if isinstance(data, dict):
        address = data.get("image_url", data.get("url"))
        if address is None:
            raise missing(*path, "image_url")
        data = address
    if not isinstance(data, str):
        raise bad("must be an image: a file of a form, or an address", *path)
    if not data:
        raise bad("must not be empty", *path)
    return data


class EditRequest(ImageRequest):
    """OpenAI's request for changed pictures, as JSON or as a form with files."""

    image = SourcesField(help_text="The first is changed; further ones are brought into it")
    mask = PictureField(required=False, help_text="Transparent, or white, where it may change")
    strength = StrictFloatField(
        required=False, min_value=0, max_value=1, help_text="How much is changed"
    )

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """`images`, as OpenAI's JSON calls it, means the same as `image`."""
        if isinstance(data, dict) and data.get("image") is None and data.get("images"):
            data = {**data, "image": data["images"]}
        return super().to_internal_value(data)


class PictureSerializer(serializers.Serializer):
    """One picture."""

    url = serializers.CharField(required=False, help_text="Opens for a day without a token")
    b64_json = serializers.CharField(required=False)


class ImagesSerializer(serializers.Serializer):
    """OpenAI's images response."""

    created = serializers.IntegerField()
    data = PictureSerializer(many=True)
    output_format = serializers.CharField()
    size = serializers.CharField()


class ImageStream:
    """OpenAI's events of pictures; each comes when all are finished."""

    def __init__(self, call: Call, kind: str) -> None:
        """`kind` is the first half of the events' names."""
        self._call, self._kind = call, kind

    def opening(self) -> bytes:
        """Nothing comes before the pictures."""
        return b""

    def chunks(self, piece: Piece) -> bytes:
        """An event for each picture."""
        if not isinstance(piece, Finished) or piece.result is None:
            return b""
        return b"".join(
            sse(
                {
                    "type": f"{self._kind}.completed",
                    "b64_json": item["b64_json"],
                    "created_at": int(self._call.created),
                    "size": f"{item['width']}x{item['height']}",
                    "output_format": _format(self._call.body),
                    "background": "opaque",
                    "quality": "auto",
                }
            )
            for item in piece.result["media"]
        )


class ImagesViewSet(Interactive, ApiViewSet):
    """What both endpoints share: files in storage, and an answer that tells where or holds them."""

    error_format: ClassVar[Surface] = "openai"
    required_scopes = {"POST": Scope.USER_WRITE}
    rate_classes = {"POST": RateClass.JOB_SUBMISSION}
    body_cap = 28 * 1024 * 1024  # with what goes around it, less than Redis hands on at once
    tells_addresses = True
    events: ClassVar[str]

    @classmethod
    def check(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The validated body. Raises DRF's ValidationError, or StorageFull."""
        body = super().check(data)
        outputs.require_room()
        return body

    @classmethod
    async def prepare(cls, link: Hub, identity: Identity, data: dict[str, Any]) -> Call:
        """The same, unless the Organization's files take all their room. Raises FilesFull."""
        call = await super().prepare(link, identity, data)
        if identity.storage_bytes is not None:
            await require_room_async(
                organization_id=identity.organization_pk,
                cap=identity.storage_bytes,
                plan=identity.plan,
                now=now(),
            )
        return call

    @classmethod
    def contract(cls, body: dict[str, Any]) -> dict[str, Any]:
        """What the engine is given."""
        return images.from_body(body).as_dict()

    @classmethod
    def keep_files(
        cls, body: dict[str, Any], *, organization_id: int, now: datetime
    ) -> list[KeptFile]:
        """See Interactive. The body has their addresses in the storage instead, which nobody else
        is told."""
        kept: list[KeptFile] = []

        def stored(source: str | bytes) -> str:
            if isinstance(source, str):
                return source
            file = store_upload(io.BytesIO(source), organization_id=organization_id, now=now)
            kept.append(file)
            return outputs.address(file.name, now=now, lifetime=WHILE_OPEN)

        if "image" in body:
            body["image"] = [stored(source) for source in body["image"]]
        if "mask" in body:
            body["mask"] = stored(body["mask"])
        return kept

    @classmethod
    def forms(cls, body: dict[str, Any]) -> set[str]:
        """As what pictures are answered."""
        if body.get("stream"):
            return {images.BASE64}
        return {body.get("response_format") or images.URL}

    @classmethod
    async def pieces(cls, link: Hub, call: Call) -> AsyncGenerator[Piece, None]:
        """The same, with the files' contents where they are wanted."""
        async with aclosing(super().pieces(link, call)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finished) and images.BASE64 in cls.forms(call.body):
                    await asyncio.to_thread(_fill, piece)
                yield piece

    @classmethod
    def answer(cls, call: Call, finished: Finished) -> dict[str, Any]:
        """OpenAI's images response."""
        assert finished.result is not None  # noqa: S101 - these Tasks have one
        forms, found = cls.forms(call.body), finished.result["media"]
        data = outputs.absolute(
            [{form: item[form] for form in sorted(forms)} for item in found], call.base
        )
        return {
            "created": int(call.created),
            "data": data,
            "output_format": _format(call.body),
            "size": f"{found[0]['width']}x{found[0]['height']}",
        }

    @classmethod
    def stream(cls, call: Call) -> Stream:
        """OpenAI's events."""
        return ImageStream(call, cls.events)

    @classmethod
    def stream_error(cls, error: ApiError) -> bytes:
        """An error after the first output."""
        return sse({"type": "error", **body_for(error, "openai")})

    def respond(self, request: Any) -> Response:
        """The whole answer, for servers without an event loop."""
        call, finished = self.wait(request.auth, request.data)
        call.base = base_url(request)
        return Response(self.answer(call, finished), headers=call.headers())


class GenerationViewSet(ImagesViewSet):
    """Pictures from words."""

    task = images.GENERATION
    request_serializer_class = GenerationRequest
    events = "image_generation"

    @extend_schema(
        operation_id="create_image",
        summary="Image generation",
        tags=["OpenAI"],
        request=GenerationRequest,
        responses={
            200: OpenApiResponse(ImagesSerializer, "With stream: server-sent events"),
            **OTHERWISE,
        },
    )
    def create(self, request: Any) -> Response:
        """Draw what a text describes."""
        return self.respond(request)


class EditViewSet(ImagesViewSet):
    """Pictures changed, whole or within a mask."""

    task = images.EDIT
    request_serializer_class = EditRequest
    parser_classes = FORM_PARSERS
    takes_forms = True
    form_lists = frozenset({"image", "images"})
    events = "image_edit"

    @extend_schema(
        operation_id="create_image_edit",
        summary="Image editing and inpainting",
        tags=["OpenAI"],
        request={"application/json": EditRequest, "multipart/form-data": EditRequest},
        responses={
            200: OpenApiResponse(ImagesSerializer, "With stream: server-sent events"),
            **OTHERWISE,
        },
    )
    def create(self, request: Any) -> Response:
        """Change a picture as a text describes it."""
        return self.respond(request)

    @classmethod
    def forms(cls, body: dict[str, Any]) -> set[str]:
        """Some clients read the content without asking for it here, so both are told."""
        if not body.get("stream") and body.get("response_format") is None:
            return {images.URL, images.BASE64}
        return super().forms(body)


def _format(body: dict[str, Any]) -> str:
    return body.get("output_format") or images.DEFAULT_FORMAT


def _fill(finished: Finished) -> None:
    """Put the files' contents beside their addresses. Raises Unavailable where one is gone."""
    for item in (finished.result or {}).get("media", ()):
        try:
            name = item["url"].removeprefix(outputs.PREFIX).partition("?")[0]
            with outputs.read(name) as file:
                item[images.BASE64] = base64.b64encode(file.read()).decode("ascii")
        except OSError as error:
            raise Unavailable from error


def check_generation(body: dict[str, Any]) -> dict[str, Any]:
    """A request for pictures as a Job's input; see `job_check`."""
    return job_check(GenerationViewSet, body)


def check_edit(body: dict[str, Any]) -> dict[str, Any]:
    """A request for changed pictures as a Job's input; see `job_check`."""
    return job_check(EditViewSet, body)
