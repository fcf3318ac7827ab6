"""What a node has to hold models: found without torch, which would tie the agent to a device."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 1024 * 1024
CPU_SHARE = 0.6
GPU_SHARE = 0.92  # the rest is for contexts and what else the host shows on it
ASK_SECONDS = 10
CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A device by its torch name, and the bytes that models may take of it."""

    name: str
    memory_bytes: int


def find_devices(*, memory_mb: int = 0) -> list[DeviceMemory]:
    """This host's devices, the GPUs first. `memory_mb` bounds the CPU's share (0: 60 % of it)."""
    cpu = memory_mb * MIB if memory_mb else int(host_memory() * CPU_SHARE)
    return [*find_gpus(), DeviceMemory("cpu", cpu)]


def host_memory() -> int:
    """Bytes of main memory, or of the control group when that has less."""
    return min([psutil.virtual_memory().total, *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
    limits = []
    for file in CGROUPS:
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return [limit for limit in limits if limit > 0]


def find_gpus() -> list[DeviceMemory]:
    """What nvidia-smi lists; nothing when it is absent, broken or slow."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=index,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            query, capture_output=True, text=True, timeout=ASK_SECONDS, check=True
        )
        return visible(parse_gpus(done.stdout), os.environ.get("CUDA_VISIBLE_DEVICES"))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        logger.warning("nvidia-smi is there but does not answer: %s", error)
        return []


def visible(found: list[DeviceMemory], wish: str | None) -> list[DeviceMemory]:
    """Those that CUDA_VISIBLE_DEVICES leaves, renumbered as torch will see them.

    Names other than numbers (UUIDs, MIG) cannot be matched: then only their count is known, and the
    smallest card stands for each.
    """
    if wish is None:
        return found
    names = [name.strip() for name in wish.split(",") if name.strip()]
    by_index = {device.name.partition(":")[2]: device.memory_bytes for device in found}
    chosen: list[int] = []
    for name in names:
        if name == "-1" or (name.isdigit() and name not in by_index):
            break  # as CUDA does: what follows an unknown card is not seen either
        chosen.append(by_index.get(name, min(by_index.values(), default=0)))
    return [DeviceMemory(f"cuda:{index}", memory) for index, memory in enumerate(chosen) if memory]


def parse_gpus(text: str) -> list[DeviceMemory]:
    """Read `index, MiB` lines. A card whose memory is not a number is left out."""
    found = []
    for line in text.splitlines():
        index, _, total = (part.strip() for part in line.partition(","))
        if index.isdigit() and total.isdigit():
            found.append(DeviceMemory(f"cuda:{index}", int(int(total) * MIB * GPU_SHARE)))
    return found
