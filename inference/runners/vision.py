"""Models that see (Qwen3.5): images into patches, patches into features, features into the prompt.

The prompt holds one placeholder token per feature. Patches are made in the caller's thread; the
vision part of the model runs in the engine's, once per image, when prefilling comes to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, PreTrainedModel

from inference.runners.attention import Chunk, RaggedStep, running
from inference.runners.base import InvalidInput, LoadError
from inference.runners.forward import RaggedForward
from inference.runners.generation import Generation
from inference.runners.media import Media, Picture
from inference.runners.pictures import Sent, decode, open_picture

MOST_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 22}


class ImageReader:
    """Turns images into Media for one model. Thread-safe."""

    def __init__(self, folder: Path, model: PreTrainedModel, *, most_pixels: int) -> None:
        """Reads the folder's image processor; larger images are scaled to `most_pixels`.

        Raises LoadError where there is none.
        """
        try:
            self._processor = AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, backend="pil"
            )
        except Exception as error:  # transformers raises many kinds here
            raise LoadError(f"the image processor is not usable: {error}"[:500]) from error
        size = dict(self._processor.size)
        size["longest_edge"] = min(size["longest_edge"], most_pixels)
        self._processor.size = size
        self._index = model.model
        self._dtype = model.dtype
        self._token = model.config.image_token_id
        self._merged = self._processor.merge_size**2

    def open(self, messages: Sequence[dict[str, Any]]) -> list[tuple[str, Sent, bytes]]:
        """The images of all messages in order, each with its place and a digest.

        Only headers are read. Raises InvalidInput.
        """
        found = []
        for index, message in enumerate(messages):
            content = message.get("content")
            for number, part in enumerate(content if isinstance(content, list) else ()):
                if isinstance(part, dict) and part.get("type") == "image":
                    place = f"messages[{index}].content[{number}]"
                    picture = open_picture(part.get("data"), param=place)
                    digest = hashlib.blake2b(part["data"], digest_size=32).digest()
                    found.append((place, picture, digest))
        return found

    def expand(self, tokens: list[int], images: Sequence[tuple[str, Sent, bytes]]) -> list[int]:
        """The prompt with as many placeholders for each image as it has features.

        Raises InvalidInput where the template did not place every image.
        """
        if tokens.count(self._token) != len(images):
            message = "The model's chat template did not place every image"
            raise InvalidInput(message, param="messages")
        counts = iter([self._features(image) for _, image, _ in images])
        expanded: list[int] = []
        for token in tokens:
            expanded += [token] * (next(counts) if token == self._token else 1)
        return expanded

    def read(self, prompt: list[int], images: Sequence[tuple[str, Sent, bytes]]) -> Media:
        """Decode and cut the images of an expanded prompt. Raises InvalidInput."""
        pictures = []
        at = 0
        for place, image, _ in images:
            made = self._processor(images=[decode(image, param=place)], return_tensors="pt")
            grid = tuple(made["image_grid_thw"][0].tolist())
            start = prompt.index(self._token, at)
            at = start + int(made["image_grid_thw"][0].prod()) // self._merged
            if prompt[start:at] != [self._token] * (at - start) or prompt[at] == self._token:
                raise InvalidInput("The image is damaged", code="invalid_image", param=place)
            patches = made["pixel_values"].to(self._dtype)
            pictures.append(Picture(start, at - start, patches, grid))
        digest = hashlib.blake2b(b"".join(one for *_, one in images), digest_size=32).digest()
        return Media(pictures, *self._positions(prompt, pictures), digest)

    def _features(self, image: Sent) -> int:
        height, width = image.upright_size
        return self._processor.get_number_of_image_patches(height, width) // self._merged

    def _positions(self, prompt: list[int], pictures: list[Picture]) -> tuple[torch.Tensor, int]:
        ids = torch.tensor([prompt])
        positions, delta = self._index.get_rope_index(
            ids,
            mm_token_type_ids=(ids == self._token).int(),
            image_grid_thw=torch.tensor([picture.grid for picture in pictures]),
        )
        return positions[:, 0], int(delta[0, 0])


class SeeingForward(RaggedForward):
    """A RaggedForward whose prompts may hold images; steps without any run as ever."""

    def run(
        self,
        decoding: Sequence[Generation],
        chunks: Sequence[Chunk],
        prefilling: Sequence[Generation],
        fed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See Forward."""
        if not any(generation.media for generation in (*decoding, *prefilling)):
            more = {} if fed is None else {"fed": fed}
            return super().run(decoding, chunks, prefilling, **more)
        tokens = [generation.last_token for generation in decoding]
        keep = list(range(len(decoding)))
        for chunk, generation in zip(chunks, prefilling, strict=True):
            end = chunk.start + chunk.count
            tokens += generation.prompt[chunk.start : end]
            if end == len(generation.prompt):
                keep.append(len(tokens) - 1)
        device = self._cache.layout.device
        lengths = [self._cache.length(row) for row in range(len(decoding))]
        step = RaggedStep(self._cache, lengths, list(chunks))
        ids = torch.tensor([tokens]).to(device)
        if fed is not None:
            ids[0, : len(decoding)] = fed
        embedded = self._model.get_input_embeddings()(ids)
        positions = step.positions.repeat(3, 1)
        deltas = [one.media.delta if one.media else 0 for one in decoding]
        positions[:, : len(decoding)] += torch.tensor(deltas, dtype=torch.long, device=device)
        at = len(decoding)
        for chunk, generation in zip(chunks, prefilling, strict=True):
            if generation.media is not None:
                end = chunk.start + chunk.count
                own = generation.media.positions[:, chunk.start : end]
                positions[:, at : at + chunk.count] = own.to(device)
                self._show(generation.media, chunk, embedded[0, at : at + chunk.count])
            at += chunk.count
        with running(step):
            return self._model(
                inputs_embeds=embedded,
                position_ids=positions[:, None],
                use_cache=False,
                logits_to_keep=torch.tensor(keep, dtype=torch.long, device=device),
            ).logits[0]

    def _show(self, media: Media, chunk: Chunk, embedded: torch.Tensor) -> None:
        """Put the features of the images that the chunk touches in place of the placeholders."""
        end = chunk.start + chunk.count
        for picture in media.pictures:
            first = max(picture.start, chunk.start)
            last = min(picture.start + picture.count, end)
            if first >= last:
                continue
            if picture.features is None:
                picture.features = self._encode(picture)
            own = picture.features[first - picture.start : last - picture.start]
            embedded[first - chunk.start : last - chunk.start] = own.to(embedded.dtype)
            if last == picture.start + picture.count:
                picture.features = None
                picture.patches = picture.patches[:0].clone()

    def _encode(self, picture: Picture) -> torch.Tensor:
        device = self._cache.layout.device
        grid = torch.tensor([picture.grid], device=device)
        return self._model.get_image_features(picture.patches.to(device), grid).pooler_output[0]


def vision_bytes(config: Any, most_pixels: int, dtype: torch.dtype) -> int:
    """Bytes of activations while the largest image is encoded, roughly."""
    vision = config.vision_config
    patches = most_pixels // vision.patch_size**2
    width = 6 * vision.hidden_size + 2 * vision.intermediate_size
    values = 3 * vision.temporal_patch_size * vision.patch_size**2
    return patches * (width * dtype.itemsize + 4 * values)
