"""Devices and estimates, without torch."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from inference import devices, estimates
from inference.devices import MIB, DeviceMemory, find_devices, parse_gpus


def test_the_cpu_is_always_there():
    assert find_devices(memory_mb=100)[-1] == DeviceMemory("cpu", 100 * MIB)
    assert find_devices()[-1] == DeviceMemory("cpu", int(devices.host_memory() * 0.6))


def test_a_control_group_limits_the_host(tmp_path, monkeypatch):
    limit, none = tmp_path / "memory.max", tmp_path / "other"
    limit.write_text("1048576\n")
    none.write_text("max\n")
    monkeypatch.setattr(devices, "CGROUPS", (none, limit, tmp_path / "absent"))
    assert devices.host_memory() == 1048576


def test_gpus_are_read_from_the_table():
    share = devices.GPU_SHARE
    assert parse_gpus("0, 143771\n1, 24576\n") == [
        DeviceMemory("cuda:0", int(143771 * MIB * share)),
        DeviceMemory("cuda:1", int(24576 * MIB * share)),
    ]
    assert parse_gpus("0, [N/A]\nNo devices were found\n") == []


@pytest.mark.parametrize(
    ("wish", "sizes"),
    [
        (None, [8, 4, 2]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 8]),
        ("1,7,0", [4]),
        ("GPU-abc,GPU-def", [2, 2]),
    ],
)
def test_only_visible_gpus_count_under_the_numbers_torch_gives_them(wish, sizes):
    found = [DeviceMemory(f"cuda:{index}", size) for index, size in enumerate([8, 4, 2])]
    expected = [DeviceMemory(f"cuda:{index}", size) for index, size in enumerate(sizes)]
    assert devices.visible(found, wish) == expected


@pytest.mark.parametrize("script", ["exit 9", "sleep 30", "echo nonsense"])
def test_a_broken_nvidia_smi_means_no_gpu(tmp_path, monkeypatch, script):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(devices, "ASK_SECONDS", 0.5)
    assert devices.find_gpus() == []


def write_model(folder: Path, config: dict) -> Path:
    header = {
        "__metadata__": {"format": "pt"},
        "w": {"dtype": "BF16", "shape": [100, 10], "data_offsets": [0, 2000]},
        "i": {"dtype": "I64", "shape": [5], "data_offsets": [2000, 2040]},
    }
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(2040))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


CONFIG = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "max_position_embeddings": 100,
}


def test_an_estimate_counts_weights_cache_and_margin(tmp_path):
    need = estimates.estimate(write_model(tmp_path, CONFIG), dtype="auto", slots=2, context=None)
    fixed = estimates.MARGIN_BYTES + estimates.ACCELERATOR_BYTES
    cache = (
        2 * 100 * (2 * 3 * 2 * 16)
    )  # slots, tokens, and per token: k and v, layers, heads, width
    assert need.accelerator == 2346 + cache * 2 + fixed
    assert need.cpu == 4646 + cache * 4 + estimates.MARGIN_BYTES


def test_an_estimate_reads_a_nested_config_and_survives_broken_files(tmp_path):
    write_model(tmp_path, {"text_config": CONFIG})
    plain = estimates.estimate(tmp_path, dtype="float32", slots=2, context=50)
    assert plain.cpu == 4646 + 100 * 192 * 4 + estimates.MARGIN_BYTES
    assert plain.accelerator == plain.cpu + estimates.ACCELERATOR_BYTES
    (tmp_path / "config.json").write_text("[")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 1000)
    assert estimates.weight_bytes(tmp_path, 4) == 1000
    assert estimates.estimate(tmp_path, dtype="auto", slots=2, context=None).cpu > 1000
    assert (
        estimates.estimate(None, dtype="auto", slots=1, context=None).cpu == estimates.UNKNOWN_BYTES
    )


def test_a_folder_is_found_in_the_project_or_the_hub(tmp_path):
    local, snapshot = tmp_path / "demo", tmp_path / "models--a--b" / "snapshots" / "abc"
    local.mkdir()
    snapshot.mkdir(parents=True)
    find = lambda source, revision="": estimates.find_folder(  # noqa: E731
        source, base=tmp_path, hub=tmp_path, revision=revision
    )
    assert find("demo") == local
    assert find("a/b") == find("a/b", "abc") == snapshot
    assert find("a/b", "gone") is None
    assert find("a/c") is None
    assert find("") is None


def test_the_agent_does_not_import_torch():
    code = (
        "import os, sys, django; django.setup();"
        "import inference.agent, inference.management.commands.qnode;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
