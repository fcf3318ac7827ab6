"""From a ModelSpec's folder to a loaded causal language model, and what it needs of memory."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from inference.runners.assembly import prepare
from inference.runners.base import LoadError, RunnerConfig
from inference.runners.device import free_bytes
from inference.runners.families import LINEAR, Family, family_of
from inference.runners.model_folder import read_json
from inference.runners.packing import can_pack, pack_linears, packed_bytes
from inference.runners.prefix_cache import BLOCK
from inference.runners.sampling import SamplingDefaults
from inference.runners.slots import LENGTH_STEP, CacheLayout, StateShape, round_up
from inference.runners.token_engine import PREFILL_TOKENS

USUAL_ROW_TOKENS = 2048
PREFIX_SHARE = 4  # the prefix cache gets one byte for so many of the slots


def read_config(folder: Path) -> tuple[PretrainedConfig, Family]:
    """The text model's configuration and its family. Raises LoadError where it is broken."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return config.get_text_config(decoder=True), family_of(config)
    except Exception as error:  # transformers raises many kinds here
        raise LoadError(f"config.json is not usable: {error}"[:500]) from error


def cache_layout(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> CacheLayout:
    """What one token position needs in the cache, and what a row holds beside it."""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:  # no attention at all: a guess, for the counting of rows only
        layers = config.num_hidden_layers
        return CacheLayout((1,) * layers, (config.hidden_size,) * layers, dtype, device)
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    types = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
    if not hasattr(config, "linear_num_key_heads"):
        types = [None] * len(types)
    linear = [index for index, kind in enumerate(types) if kind == LINEAR]
    return CacheLayout(
        tuple(0 if kind == LINEAR else kv_heads for kind in types),
        tuple(0 if kind == LINEAR else dim for kind in types),
        dtype,
        device,
        tuple((index, _state_shape(config)) for index in linear),
    )


def _state_shape(config: PretrainedConfig) -> StateShape:
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    return StateShape(
        channels=2 * keys + values,
        kernel=config.linear_conv_kernel_dim,
        heads=config.linear_num_value_heads,
        key_dim=config.linear_key_head_dim,
        value_dim=config.linear_value_head_dim,
    )


def context_length(config: PretrainedConfig, runner: RunnerConfig) -> int:
    """The model's context; rotary scalings that change with the longest row stay unscaled."""
    context = config.max_position_embeddings
    scaling = getattr(config, "rope_parameters", None) or {}
    if scaling.get("rope_type") in {"dynamic", "longrope"}:
        context = scaling.get("original_max_position_embeddings") or context
    return min(context, runner.max_context or context)


def workspace_bytes(config: PretrainedConfig, runner: RunnerConfig, dtype: torch.dtype) -> int:
    """Bytes of one full step, roughly: activations of a layer, and the logits in float32."""
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    activations = (PREFILL_TOKENS + runner.slots) * (6 * config.hidden_size + 3 * wide)
    return activations * dtype.itemsize + 3 * 4 * runner.slots * config.vocab_size


def cache_budget(config: RunnerConfig, layout: CacheLayout, context: int, taken: int) -> int:
    """Bytes for slots and prefix cache: what the memory budget leaves, at most all slots at full
    context and the prefix cache beside them.

    Without a memory budget: every slot at USUAL_ROW_TOKENS, but at least one at full context, and
    at most half of what is free.
    """
    full_row = round_up(context, LENGTH_STEP) * layout.bytes_per_token + layout.state_bytes
    if config.memory_budget is not None:
        most = config.slots * full_row
        budget = min(config.memory_budget - taken, most + _prefix_wish(config, most))
    else:
        usual_row = min(full_row, USUAL_ROW_TOKENS * layout.bytes_per_token + layout.state_bytes)
        usual = max(config.slots * usual_row, full_row)
        budget = min(usual + _prefix_wish(config, usual), free_bytes(config.device) // 2)
    if budget < min(LENGTH_STEP * layout.bytes_per_token, full_row) + 2 * layout.state_bytes:
        raise LoadError("the memory budget leaves no room for the cache")
    return budget


def prefix_budget(config: RunnerConfig, layout: CacheLayout, context: int, budget: int) -> int:
    """The part of `cache_budget` for the prefix cache: whole blocks, and a full row is left."""
    full_row = round_up(context, LENGTH_STEP) * layout.bytes_per_token
    wish = _prefix_wish(config, budget - budget // (PREFIX_SHARE + 1))
    block = BLOCK * layout.bytes_per_token
    return max(0, min(wish, budget - full_row)) // block * block


def _prefix_wish(config: RunnerConfig, slots_bytes: int) -> int:
    """Option `prefix_cache_bytes`, or a share of what the slots have."""
    wish = config.options.get("prefix_cache_bytes")
    return slots_bytes // PREFIX_SHARE if wish is None else max(0, int(wish))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer. Raises LoadError where it is slow or has no chat template."""
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    if not tokenizer.is_fast:
        raise LoadError("the tokenizer has no fast version (tokenizer.json)")
    if not tokenizer.chat_template:
        raise LoadError("the tokenizer has no chat template")
    return tokenizer


def load_model(
    folder: Path, dtype: torch.dtype, device: torch.device, family: Family
) -> PreTrainedModel:
    """The weights, made ready for the family's engine."""
    disable_progress_bar()
    kind = AutoModelForImageTextToText if family.takes_images else AutoModelForCausalLM
    model = kind.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    prepare(model, family)
    model = model.to(device).eval().requires_grad_(False)
    pack_linears(model)
    return model


def held_bytes(model: PreTrainedModel) -> int:
    """Bytes of all that a loaded model holds in memory."""
    return sum(one.nbytes for one in (*model.parameters(), *model.buffers())) + packed_bytes(model)


def tied_head_bytes(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> int:
    """What packing adds: a head that shares its weight with the embedding gets one of its own."""
    if not getattr(config, "tie_word_embeddings", False) or not can_pack(device, dtype):
        return 0
    return config.vocab_size * config.hidden_size * dtype.itemsize


def eos_ids(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer."""
    eos = config.eos_token_id
    ids = set(eos) if isinstance(eos, list) else {eos}
    return (ids | {tokenizer.eos_token_id}) - {None}


def sampling_defaults(folder: Path) -> SamplingDefaults:
    """What generation_config.json says; `do_sample: false` means greedy.

    Read from the file: what transformers fills in for missing values depends on its version.
    """
    file = folder / "generation_config.json"
    config = read_json(file) if file.exists() else {}
    names = SamplingDefaults.__dataclass_fields__
    given = {name: config[name] for name in names if config.get(name) is not None}
    if config.get("do_sample") is False:
        given["temperature"] = 0.0
    return SamplingDefaults(**given)
