"""Tiny random-weight pipelines of Wan's real classes, saved as folders the Runner loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import UMT5Config, UMT5EncoderModel

from tests.inference.tiny_images import WORDS, tokenizer

CHANNELS = 4


def text_encoder() -> UMT5EncoderModel:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return UMT5EncoderModel(
        UMT5Config(vocab_size=len(WORDS), pad_token_id=0, eos_token_id=3, **sizes)
    )


def transformer(inputs: int = CHANNELS) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=inputs,
        out_channels=CHANNELS,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
    )


def vae(**more: Any) -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        **more,
    )


def parts(**more: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "tokenizer": tokenizer(),
        "text_encoder": text_encoder(),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        "vae": vae(),
        "transformer": transformer(),
        **more,
    }


def from_words(folder: Path) -> Path:
    """Wan 2.1's kind: words only."""
    WanPipeline(**parts(scheduler=FlowMatchEulerDiscreteScheduler())).save_pretrained(folder)
    return folder


def two_experts(folder: Path) -> Path:
    """Wan 2.2 A14B's kind: one transformer for much noise, another for little."""
    made = parts(transformer_2=transformer())
    WanPipeline(**made, boundary_ratio=0.875).save_pretrained(folder)
    return folder


def from_both(folder: Path) -> Path:
    """Wan 2.2 TI2V 5B's kind: each token has its own noise level, pixels are folded first."""
    folded = {"patch_size": 2, "in_channels": 12, "out_channels": 12, "is_residual": True}
    torch.manual_seed(0)
    made = parts(vae=vae(**folded, decoder_base_dim=8, scale_factor_spatial=16))
    WanPipeline(**made, expand_timesteps=True).save_pretrained(folder)
    return folder


def from_pictures(folder: Path) -> Path:
    """Wan 2.2 I2V A14B's kind: the first picture goes in beside the noise."""
    torch.manual_seed(0)
    inputs = 2 * CHANNELS + 4
    made = parts(transformer=transformer(inputs), transformer_2=transformer(inputs))
    WanImageToVideoPipeline(
        **made, image_processor=None, image_encoder=None, boundary_ratio=0.9
    ).save_pretrained(folder)
    return folder
