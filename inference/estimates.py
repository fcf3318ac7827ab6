"""How much memory a ModelSpec will take, from its folder alone (pure; no Django, no torch).

An upper bound for deciding where it goes; once loaded, the Runner's own measurement counts.
"""

from __future__ import annotations

import functools
import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
UNKNOWN_BYTES = 512 * MIB  # no folder on this host: one not downloaded
UPSTREAM_BYTES = 96 * MIB  # a process without weights
MARGIN_BYTES = 128 * MIB
MARGIN_SHARE = 0.15
ACCELERATOR_BYTES = 256 * MIB  # workspaces of matrix products, captured graphs, whole pages
USUAL_TOKENS = 2048  # cache per slot
# Engines that keep nothing of a request between steps, and the tokens of their largest step.
STEP_TOKENS = {"embeddings": (32768, 4096), "rerank": (32768, 4096)}
# Of films: the usual side and length, how many frames a decoder works on, and its layers' width.
FILM_SIDE, FILM_FRAMES = 960, 121
DECODED_FRAMES, FILM_CHANNELS = 4, 128
# Of pictures: the usual side and number in a run, and what a decoder's widest layer holds of each pixel.
PICTURE_SIDE, PICTURE_ROWS = 1024, 8
PICTURE_CHANNELS, DECODED_TENSORS = 128, 6
LONGEST_HEADER = 100 * MIB
FLOATS = {"F64", "F32", "F16", "BF16"}
STORED = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
}
DTYPES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes on an accelerator, and on a CPU (where `auto` may mean float32)."""

    accelerator: int
    cpu: int


def find_folder(source: str, *, base: Path, hub: Path, revision: str = "") -> Path | None:
    """The spec's local folder: a path (relative to `base`), else a snapshot in the hub's cache.

    A revision means that snapshot and no other; without one it is the newest.
    """
    if not source:
        return None
    local = base / Path(source).expanduser()
    if local.is_dir():
        return local
    snapshots = hub / f"models--{source.replace('/', '--')}" / "snapshots"
    if revision:
        return snapshots / revision if (snapshots / revision).is_dir() else None
    try:
        found = sorted(
            (p for p in snapshots.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime
        )
    except OSError:
        return None
    return found[-1] if found else None


def estimate(folder: Path | None, *, dtype: str, slots: int, context: int | None) -> Need:
    """Weights, cache of `slots` requests and a margin. Broken files count with their size."""
    if folder is None:
        return Need(UNKNOWN_BYTES, UNKNOWN_BYTES)
    fixed = DTYPES.get(dtype)
    return Need(
        _need(folder, fixed or 2, slots, context) + ACCELERATOR_BYTES,
        _need(folder, fixed or 4, slots, context),
    )


def _need(folder: Path, float_bytes: int, slots: int, context: int | None) -> int:
    weights = weight_bytes(folder, float_bytes)
    config = _config(folder)
    longest = context or int(config.get("max_position_embeddings") or USUAL_TOKENS)
    row = min(longest, USUAL_TOKENS) * cache_bytes_per_token(config, float_bytes)
    cache = slots * (row + state_bytes(config, float_bytes))
    return math.ceil(weights * (1 + MARGIN_SHARE)) + cache + MARGIN_BYTES


def estimate_batch(folder: Path | None, *, dtype: str, engine: str) -> Need:
    """The same for an engine of STEP_TOKENS: weights, the largest step and a margin."""
    if folder is None:
        return Need(UNKNOWN_BYTES, UNKNOWN_BYTES)
    fixed = DTYPES.get(dtype)
    on_accelerator, on_cpu = STEP_TOKENS[engine]
    return Need(
        _batch_need(folder, fixed or 2, on_accelerator) + ACCELERATOR_BYTES,
        _batch_need(folder, fixed or 4, on_cpu),
    )


def _batch_need(folder: Path, float_bytes: int, tokens: int) -> int:
    config = _config(folder)
    try:
        width = int(config["hidden_size"])
        inner = int(config.get("intermediate_size") or 4 * width)
    except (KeyError, TypeError, ValueError):
        width = inner = 0
    step = tokens * (8 * width + 2 * inner) * float_bytes
    weights = weight_bytes(folder, float_bytes)
    return math.ceil(weights * (1 + MARGIN_SHARE)) + step + MARGIN_BYTES


def estimate_pictures(folder: Path | None, *, dtype: str, options: dict[str, Any]) -> Need:
    """The same for a folder of diffusers: all its parts, and a run's pictures as they are decoded."""
    if folder is None:
        return Need(UNKNOWN_BYTES, UNKNOWN_BYTES)
    side = int(options.get("native_side") or PICTURE_SIDE)
    pixels = side * side * int(options.get("rows") or PICTURE_ROWS)
    fixed = DTYPES.get(dtype)
    return Need(
        _picture_need(folder, fixed or 2, pixels) + ACCELERATOR_BYTES,
        _picture_need(folder, fixed or 4, pixels),
    )


def _picture_need(folder: Path, float_bytes: int, pixels: int) -> int:
    try:
        widest = int(_config(folder / "vae")["block_out_channels"][0])
    except (KeyError, TypeError, ValueError, IndexError):
        widest = PICTURE_CHANNELS
    return _parts_need(folder, float_bytes, DECODED_TENSORS * pixels * widest * float_bytes)


def _parts_need(folder: Path, float_bytes: int, step: int) -> int:
    parts = {file.parent for file in folder.rglob("*.safetensors")}
    weights = sum(weight_bytes(part, float_bytes) for part in parts)
    return math.ceil(weights * (1 + MARGIN_SHARE)) + step + MARGIN_BYTES


def estimate_films(folder: Path | None, *, dtype: str, options: dict[str, Any]) -> Need:
    """The same for films: some frames as they are decoded, and the whole films of a run."""
    if folder is None:
        return Need(UNKNOWN_BYTES, UNKNOWN_BYTES)
    side = int(options.get("native_side") or FILM_SIDE)
    frames = int(options.get("native_frames") or FILM_FRAMES)
    pixels = side * side * int(options.get("rows") or 1)
    config = _config(folder / "vae")
    try:
        channels = int(config.get("decoder_base_dim") or config["base_dim"])
        patch = int(config.get("patch_size") or 1)
    except (KeyError, TypeError, ValueError):
        channels, patch = FILM_CHANNELS, 1
    layer = DECODED_TENSORS * DECODED_FRAMES * channels // (patch * patch)
    values = pixels * (layer + 9 * frames)
    fixed = DTYPES.get(dtype)
    return Need(
        _parts_need(folder, fixed or 2, values * (fixed or 2)) + ACCELERATOR_BYTES,
        _parts_need(folder, fixed or 4, values * (fixed or 4)),
    )


def weight_bytes(folder: Path, float_bytes: int) -> int:
    """Bytes of all tensors with floats held in `float_bytes` each."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        stat = file.stat()
        total += _file_bytes(str(file), stat.st_mtime_ns, stat.st_size, float_bytes)
    return total


@functools.lru_cache(maxsize=1024)
def _file_bytes(file: str, changed: int, size: int, float_bytes: int) -> int:
    del changed  # part of the cache's key
    try:
        with open(file, "rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > LONGEST_HEADER:
                return size
            header = json.loads(stream.read(length))
        return sum(
            math.prod(entry["shape"])
            * (float_bytes if entry["dtype"] in FLOATS else STORED.get(entry["dtype"], 1))
            for name, entry in header.items()
            if name != "__metadata__"
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error):
        return size


def longest_context(folder: Path) -> int | None:
    """The most tokens that the folder's model can take; None when the config does not say."""
    longest = _config(folder).get("max_position_embeddings")
    return longest if isinstance(longest, int) and longest > 0 else None


def cache_bytes_per_token(config: dict[str, Any], float_bytes: int) -> int:
    """Keys and values of one token in every layer; 0 when the config does not say."""
    try:
        heads = int(config["num_attention_heads"])
        width = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
        shared = int(config.get("num_key_value_heads") or heads)
        layers = int(config["num_hidden_layers"]) - linear_layers(config)
        return 2 * layers * shared * width * float_bytes
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0


def linear_layers(config: dict[str, Any]) -> int:
    """How many layers keep a state per request instead of keys and values per token."""
    types = config.get("layer_types")
    if isinstance(types, list):
        return types.count("linear_attention")
    interval = int(config.get("full_attention_interval") or 1)
    layers = int(config["num_hidden_layers"])
    return layers - layers // interval


def state_bytes(config: dict[str, Any], float_bytes: int) -> int:
    """States of one request in all linear-attention layers; 0 when there are none."""
    try:
        heads = int(config["linear_num_value_heads"])
        key, value = int(config["linear_key_head_dim"]), int(config["linear_value_head_dim"])
        channels = 2 * int(config["linear_num_key_heads"]) * key + heads * value
        window = channels * int(config["linear_conv_kernel_dim"]) * float_bytes
        return linear_layers(config) * (window + 4 * heads * key * value)
    except (KeyError, TypeError, ValueError):
        return 0


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(config, dict):
        return {}
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def hub_folder() -> Path:
    """Where downloaded models lie."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
