"""Tiny random-weight models of the families that runners admit, and of some they do not."""

from __future__ import annotations

import functools

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from inference.runners.assembly import make_cache, make_forward, prepare
from inference.runners.families import family_of
from inference.runners.loading import cache_layout
from tests.inference.tiny_models import VOCABULARY

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LINEAR = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
WINDOWS = {
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
FAMILIES = {
    "arcee": {},
    "cohere": {},
    "cohere2": WINDOWS,
    "exaone4": WINDOWS,
    "gemma": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, **WINDOWS},
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "granite": {},
    "granitemoe": {"num_local_experts": 4},
    "helium": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 16},
    "llama": {},
    "ministral": {"head_dim": 16, **WINDOWS},
    "ministral3": {"head_dim": 16},
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 4, "sliding_window": None},
    "nemotron": {},
    "olmo2": {},
    "olmo3": WINDOWS,
    "olmoe": EXPERTS,
    "phi": {},
    "phi3": {"sliding_window": None},
    "qwen2": {},
    "qwen2_moe": EXPERTS,
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, **EXPERTS},
    "seed_oss": {"head_dim": 16},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "qwen3_5_text": LINEAR,
    "qwen3_5_moe_text": {**LINEAR, **EXPERTS},
    "qwen3_next": {**LINEAR, **EXPERTS},
}
OTHERS = {
    "gpt2": {"n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 512},
    "gemma2": {"head_dim": 16, "sliding_window": 16},
    "mamba": {"state_size": 8, "num_hidden_layers": 3},
}


def _settings(kind: str) -> dict:
    if kind == "gpt2":
        common = {key: COMMON[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")}
        return {**common, "initializer_range": 0.3, **OTHERS[kind]}
    if kind == "mamba":
        common = {key: COMMON[key] for key in ("vocab_size", "hidden_size", "pad_token_id")}
        return {**common, "initializer_range": 0.3, **OTHERS[kind]}
    return {**COMMON, **(FAMILIES.get(kind) or OTHERS.get(kind) or {})}


def build(kind: str) -> PreTrainedModel:
    """Deterministic float32 weights, spread wide enough that greedy choices are clear-cut."""
    torch.manual_seed(11)
    config = AutoConfig.for_model(kind, **_settings(kind))
    model = AutoModelForCausalLM.from_config(config)
    return model.eval().requires_grad_(False)


@functools.cache
def reference(kind: str) -> PreTrainedModel:
    model = build(kind)
    model.generation_config.eos_token_id = None
    return model


@functools.cache
def engine_model(kind: str) -> PreTrainedModel:
    model = build(kind)
    prepare(model, family_of(model.config))
    return model


def forward_and_cache(kind: str, slots: int = 8, tokens: int = 8192):
    model = engine_model(kind)
    family = family_of(model.config)
    layout = cache_layout(model.config.get_text_config(decoder=True), model.dtype, model.device)
    budget = tokens * layout.bytes_per_token + slots * layout.state_bytes
    cache = make_cache(family, layout, slots=slots, context=512, budget=budget)
    return make_forward(family, model, cache), cache


def wanted(kind: str, prompt: list[int], count: int) -> list[int]:
    """What transformers' own greedy `generate` answers when nothing ends the answer early."""
    config = GenerationConfig(do_sample=False, max_new_tokens=count, pad_token_id=0)
    ids = torch.tensor([prompt])
    output = reference(kind).generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=config
    )
    return output[0, len(prompt) :].tolist()
