"""Tiny random-weight models with a small byte-level tokenizer, made when a test needs them."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from inference.runners.attention import IMPLEMENTATION
from inference.runners.slots import CacheLayout, SlotCache

CHATML = (
    "{% for message in messages %}"
    "{% if message['role'] == 'forbidden' %}{{ raise_exception('no such role') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = ["the quick brown fox jumps over the lazy dog and the cat sat on the mat"] * 4
VOCABULARY = 320


@functools.cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny_model(kind: str = "qwen3", **changes: object) -> PreTrainedModel:
    """Deterministic float32 weights, spread wide enough that greedy choices are clear-cut."""
    torch.manual_seed(7)
    settings = {
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
        **changes,
    }
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**settings)).eval()
    return Qwen3ForCausalLM(Qwen3Config(head_dim=16, **settings)).eval()


@functools.cache
def slot_model(kind: str = "qwen3") -> PreTrainedModel:
    """The same weights as `tiny_model`, with slot attention."""
    model = tiny_model(kind)
    model.set_attn_implementation(IMPLEMENTATION)
    return model.requires_grad_(False)


@functools.cache
def plain_model(kind: str = "qwen3") -> PreTrainedModel:
    model = tiny_model(kind).requires_grad_(False)
    model.generation_config.eos_token_id = None
    return model


def layout_of(model: PreTrainedModel) -> CacheLayout:
    config = model.config
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = config.num_hidden_layers
    heads = config.num_key_value_heads
    return CacheLayout((heads,) * layers, (dim,) * layers, model.dtype, torch.device("cpu"))


def cache_for(model: PreTrainedModel, slots: int = 8, tokens: int = 8192) -> SlotCache:
    layout = layout_of(model)
    return SlotCache(layout, slots=slots, context=512, budget=tokens * layout.bytes_per_token)


def expected_tokens(prompt: list[int], count: int, kind: str = "qwen3") -> list[int]:
    """What transformers' own greedy `generate` answers when nothing ends the answer early."""
    config = GenerationConfig(do_sample=False, max_new_tokens=count, pad_token_id=0)
    ids = torch.tensor([prompt])
    model = plain_model(kind)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return output[0, len(prompt) :].tolist()


def random_prompt(rng: random.Random, least: int = 1, most: int = 90) -> list[int]:
    return [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(least, most))]


def save_folder(folder: Path, kind: str = "qwen3", **changes: object) -> Path:
    tiny_model(kind, **changes).save_pretrained(folder, safe_serialization=True)
    tiny_tokenizer().save_pretrained(folder)
    return folder
