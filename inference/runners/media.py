"""The images of one prompt on their way into the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True, eq=False)
class Picture:
    """One image: `count` placeholder tokens of the prompt from `start` on stand for it.

    `patches` (`[patches, values]`) are what the vision part takes, `grid` their time, height and
    width. `features` (`[count, width]`) are what it gives, from the first chunk that touches the
    image to the last; after that both are gone.
    """

    start: int
    count: int
    patches: torch.Tensor
    grid: tuple[int, int, int]
    features: torch.Tensor | None = None


@dataclass(slots=True, eq=False)
class Media:
    """What a prompt with images needs beside its tokens.

    `positions` (`[3, prompt]`) are the rotary positions in time, height and width; an answer's
    tokens count on from the cache's length plus `delta`. `digest` tells equal images from others.
    """

    pictures: list[Picture]
    positions: torch.Tensor
    delta: int
    digest: bytes
