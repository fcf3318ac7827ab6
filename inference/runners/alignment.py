"""When each word of a transcript is said: where the decoder looks as it writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperTokenizer
from transformers.models.whisper.generation_whisper import (
    _dynamic_time_warping,
    _median_filter,
)
from transformers.models.whisper.tokenization_whisper import (
    TO_LANGUAGE_CODE,
    _combine_tokens_into_words,
)

TICK = 0.02
NAMES = {code: name for name, code in TO_LANGUAGE_CODE.items()}


@dataclass(slots=True)
class Word:
    """A word with its times in seconds of its window."""

    word: str
    start: float
    end: float


def align(
    model: WhisperForConditionalGeneration,
    tokenizer: WhisperTokenizer,
    *,
    before: list[int],
    text: list[int],
    end: int,
    states: torch.Tensor,
    positions: int,
    language: str,
) -> list[Word]:
    """The words of `text` in one window, of which `positions` of the encoder's states hold sound.

    `before` is what the decoder is told first.
    """
    looks = _looks(model, [*before, *text, end], states)[:, :, :positions]
    spread = looks.std(-2, keepdim=True, unbiased=False).clamp_min(1e-6)
    looks = (looks - looks.mean(-2, keepdim=True)) / spread
    width = model.config.median_filter_width
    matrix = _median_filter(looks, width).mean(0)[len(before) - 1 : -1]
    tokens, times = _dynamic_time_warping(-matrix.double().cpu().numpy())
    jumps = np.pad(np.diff(tokens), (1, 0), constant_values=1).astype(bool)
    begins = times[jumps] * TICK  # of each token, and of the end
    words, parts, _ = _combine_tokens_into_words(tokenizer, text, NAMES.get(language, "english"))
    found, at = [], 0
    for word, part in zip(words, parts, strict=True):
        until = at + len(part)
        found.append(Word(word.strip(), float(begins[at]), float(begins[min(until, len(begins) - 1)])))  # fmt: skip
        at = until
    return [word for word in found if word.word]


def _looks(
    model: WhisperForConditionalGeneration, ids: list[int], states: torch.Tensor
) -> torch.Tensor:
    """Of the heads that follow the sound: how much each token looks at each state."""
    config: Any = model.config
    usual = config._attn_implementation
    model.set_attn_implementation("eager")  # the only one that tells
    try:
        out = model.model.decoder(
            input_ids=torch.tensor([ids], device=states.device),
            encoder_hidden_states=states,
            use_cache=False,
            output_attentions=True,
        )
    finally:
        model.set_attn_implementation(usual)
    heads = getattr(model.generation_config, "alignment_heads", None) or [
        [layer, head]
        for layer in range(config.decoder_layers // 2, config.decoder_layers)
        for head in range(config.decoder_attention_heads)
    ]
    return torch.stack([out.cross_attentions[layer][0, head] for layer, head in heads]).float()
