"""A tiny random-weight model that sees, its folder, and pictures to show it."""

from __future__ import annotations

import copy
import functools
import io
import json
import random
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.inference.tiny_families import COMMON, EXPERTS, LINEAR
from tests.inference.tiny_models import VOCABULARY, tiny_tokenizer

MARKS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
WORDS = len(tiny_tokenizer())
START, END, PAD, VIDEO = range(WORDS, WORDS + 4)
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "size": {"shortest_edge": 256, "longest_edge": 16384},
    "patch_size": 8,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@functools.cache
def seeing_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *MARKS]})
    assert tokenizer.convert_tokens_to_ids(MARKS) == [START, END, PAD, VIDEO]
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build_seeing(kind: str = "qwen3_5") -> PreTrainedModel:
    """Deterministic float32 weights."""
    torch.manual_seed(13)
    extra = EXPERTS if "moe" in kind else {}
    config = AutoConfig.for_model(
        kind,
        text_config={
            **COMMON,
            **LINEAR,
            **extra,
            "vocab_size": VOCABULARY + 8,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 48,
            "num_position_embeddings": 64,
            "initializer_range": 0.3,
        },
        image_token_id=PAD,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    return AutoModelForImageTextToText.from_config(config).eval().requires_grad_(False)


def save_seeing(folder: Path, kind: str = "qwen3_5") -> Path:
    build_seeing(kind).save_pretrained(folder)
    seeing_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@functools.cache
def reference_seeing(kind: str = "qwen3_5") -> PreTrainedModel:
    model = build_seeing(kind)
    model.generation_config.eos_token_id = None
    return model


def seen(prompt: list[int], pixels: torch.Tensor, grid: torch.Tensor, count: int, kind: str):
    """What transformers' own greedy `generate` answers to an expanded prompt with its patches."""
    ids = torch.tensor([prompt])
    images = {"pixel_values": pixels, "image_grid_thw": grid} if len(grid) else {}
    output = reference_seeing(kind).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == PAD).int(),
        generation_config=GenerationConfig(do_sample=False, max_new_tokens=count, pad_token_id=0),
        **images,
    )
    return output[0, len(prompt) :].tolist()


def words(rng: random.Random, most: int = 30) -> list[int]:
    return [rng.randrange(3, WORDS) for _ in range(rng.randint(1, most))]


def picture(rng: random.Random, width: int, height: int, form: str = "PNG") -> bytes:
    image = Image.frombytes("RGB", (width, height), rng.randbytes(3 * width * height))
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()
