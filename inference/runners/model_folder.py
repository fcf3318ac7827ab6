"""A ModelSpec's folder on disk: is it safe to load, and how much memory will it take?

Only reads JSON and safetensors headers; nothing from the folder is ever run. Raises LoadError.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from inference.runners.base import LoadError

UNSAFE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".so"})
LONGEST_HEADER = 100 * 1024 * 1024
FLOAT_TYPES = frozenset({"F64", "F32", "F16", "BF16"})
TYPE_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2}


def check_folder(path: str) -> Path:
    """Refuse anything that could carry code: pickles, scripts, `auto_map` in a config."""
    folder = Path(path)
    if not folder.is_dir():
        raise LoadError(f"{path} is not a folder")
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in UNSAFE_SUFFIXES:
            raise LoadError(f"refused: {file.relative_to(folder)} could carry code")
    for file in sorted(folder.glob("*.json")):
        if _has_key(read_json(file), "auto_map"):
            raise LoadError(f"refused: {file.name} names code of its own (auto_map)")
    return folder


def read_json(file: Path) -> Any:
    """The parsed file; raises LoadError where it is missing or broken."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{file.name} cannot be read: {error}") from error


def weight_bytes(folder: Path, float_bytes: int) -> int:
    """Bytes of all tensors once floats are converted to `float_bytes` each."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise LoadError("the folder has no safetensors weights")
    return sum(_tensor_bytes(file, float_bytes) for file in files)


def _tensor_bytes(file: Path, float_bytes: int) -> int:
    total = 0
    for name, entry in _header(file).items():
        if name == "__metadata__":
            continue
        count = 1
        for size in entry["shape"]:
            count *= size
        kind = entry["dtype"]
        total += count * (float_bytes if kind in FLOAT_TYPES else TYPE_BYTES.get(kind, 1))
    return total


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > LONGEST_HEADER:
                raise LoadError(f"{file.name} has a broken header")
            return json.loads(stream.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise LoadError(f"{file.name} has a broken header: {error}") from error


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(_has_key(item, key) for item in value)
