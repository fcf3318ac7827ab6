"""What a device can do and how much memory it has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from inference.runners.base import LoadError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def float_type(device: str, dtype: str) -> torch.dtype:
    """The dtype to hold weights in; "auto" is bfloat16 where the device computes in it.

    Raises LoadError for any other name, and where the device is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise LoadError("this machine has no CUDA device")
    if dtype == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if dtype not in DTYPES:
        raise LoadError(f"dtype {dtype!r} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 is faster than float32 there (on CPUs: AMX or AVX512-BF16)."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # torch has no public name for it
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def free_bytes(device: str) -> int:
    """Memory that is free on the device now."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return page * os.sysconf("SC_AVPHYS_PAGES")
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else page * os.sysconf("SC_AVPHYS_PAGES")


def resident_bytes() -> int:
    """Physical memory of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def use_device(device: torch.device) -> None:
    """Make a GPU the calling thread's own, or pinned memory would set up another one as well."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def to_device(
    values: Sequence[int] | Sequence[float], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """A tensor of `values` on the device, without the host waiting for what runs there.

    A plain `torch.tensor(..., device="cuda")` waits for all the work queued before it. The pinned
    memory is torch's, which uses it again only after the copy.
    """
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
