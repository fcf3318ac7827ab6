"""Memory of engines that keep nothing between steps."""

from __future__ import annotations

import json
import math

from inference import estimates
from tests.inference import tiny_images
from tests.inference.tiny_encoders import bert_folder

MIB = estimates.MIB


def test_slots_cost_nothing(tmp_path):
    folder = bert_folder(tmp_path)
    need = estimates.estimate_batch(folder, dtype="float32", engine="embeddings")
    step = 4096 * (8 * 32 + 2 * 64) * 4
    weights = estimates.weight_bytes(folder, 4)
    assert need.cpu == int(-(-weights * 1.15 // 1)) + step + estimates.MARGIN_BYTES
    assert need.accelerator > need.cpu
    chat = estimates.estimate(folder, dtype="float32", slots=512, context=None)
    assert chat.cpu > need.cpu


def test_unknown_and_broken_folders(tmp_path):
    assert estimates.estimate_batch(None, dtype="auto", engine="rerank").cpu == 512 * MIB
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": "x"}))
    need = estimates.estimate_batch(tmp_path, dtype="auto", engine="rerank")
    assert need.cpu == estimates.MARGIN_BYTES


def test_a_folder_of_pictures_counts_all_its_parts_and_a_run_decoded(tmp_path):
    folder = tiny_images.flux(tmp_path)
    need = estimates.estimate_pictures(
        folder, dtype="float32", options={"native_side": 32, "rows": 2}
    )
    parts = sum(estimates.weight_bytes(part, 4) for part in folder.iterdir() if part.is_dir())
    decoded = 6 * 2 * 32 * 32 * 8 * 4
    assert need.cpu == math.ceil(parts * 1.15) + decoded + estimates.MARGIN_BYTES
    assert need.accelerator == need.cpu + estimates.ACCELERATOR_BYTES
    assert estimates.estimate_pictures(None, dtype="auto", options={}).cpu == 512 * MIB
