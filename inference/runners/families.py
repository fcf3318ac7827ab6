"""Which engine runs a family of models: decided by its config, admitted by test.

A family is listed here once a tiny model of it gives token for token what transformers' own
`generate` gives (tests/inference/test_families.py). Whatever is not listed runs on the plain
engine: the same requests and answers, one row after another, on the model's own kind of cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SLOTS = "slots"
HYBRID = "hybrid"
PLAIN = "plain"

ATTENTION_TYPES = frozenset({"full_attention", "sliding_attention"})
LINEAR = "linear_attention"

ADMITTED = {
    "arcee": SLOTS,
    "cohere": SLOTS,
    "cohere2": SLOTS,
    "exaone4": SLOTS,
    "gemma": SLOTS,
    "gemma3_text": SLOTS,
    "glm": SLOTS,
    "glm4": SLOTS,
    "granite": SLOTS,
    "granitemoe": SLOTS,
    "helium": SLOTS,
    "hunyuan_v1_dense": SLOTS,
    "llama": SLOTS,
    "ministral": SLOTS,
    "ministral3": SLOTS,
    "mistral": SLOTS,
    "mixtral": SLOTS,
    "nemotron": SLOTS,
    "olmo2": SLOTS,
    "olmo3": SLOTS,
    "olmoe": SLOTS,
    "phi": SLOTS,
    "phi3": SLOTS,
    "qwen2": SLOTS,
    "qwen2_moe": SLOTS,
    "qwen3": SLOTS,
    "qwen3_moe": SLOTS,
    "seed_oss": SLOTS,
    "smollm3": SLOTS,
    "stablelm": SLOTS,
    "starcoder2": SLOTS,
    "qwen3_5_text": HYBRID,
    "qwen3_5_moe_text": HYBRID,
    "qwen3_next": HYBRID,
}
SEEING = frozenset({"qwen3_5", "qwen3_5_moe"})


@dataclass(frozen=True, slots=True)
class Family:
    """`engine` is SLOTS, HYBRID or PLAIN; `takes_images` if image parts are understood."""

    name: str
    engine: str
    takes_images: bool = False


def family_of(config: Any) -> Family:
    """The family of a model by its configuration (the whole one, not only the text part)."""
    text = config.get_text_config(decoder=True)
    engine = ADMITTED.get(text.model_type, PLAIN)
    layers = set(getattr(text, "layer_types", None) or ())
    known = ATTENTION_TYPES | {LINEAR} if engine == HYBRID else ATTENTION_TYPES
    if not layers <= known:
        engine = PLAIN
    sees = config.model_type in SEEING and getattr(config, "vision_config", None) is not None
    return Family(text.model_type, engine, takes_images=sees and engine != PLAIN)
