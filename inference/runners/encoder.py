"""From a ModelSpec's folder to an encoder that computes batches of texts, and what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from inference.runners.base import LoadError, RunnerConfig
from inference.runners.batch_line import Item
from inference.runners.device import float_type, resident_bytes, use_device
from inference.runners.loading import held_bytes
from inference.runners.model_folder import check_folder, weight_bytes
from inference.runners.packing import pack_linears
from inference.runners.pooling import Pooling

CPU_STEP_TOKENS, GPU_STEP_TOKENS = 4096, 32768
CPU_ROWS, GPU_ROWS = 64, 512
# Positions of these begin behind the padding token's id, so the last ones cannot be used.
OFFSET_TYPES = frozenset(
    [
        "camembert",
        "data2vec-text",
        "ibert",
        "longformer",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    ]
)
UNBOUNDED = 1_000_000  # tokenizers without a limit name one of thirty digits


def read_encoder_config(folder: Path) -> PretrainedConfig:
    """The model's configuration. Raises LoadError where it is broken."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return config.get_text_config()
    except Exception as error:  # transformers raises many kinds here
        raise LoadError(f"config.json is not usable: {error}"[:500]) from error


def load_text_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer that runs beside the engine and neither cuts nor pads. Raises LoadError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises Exception itself
        raise LoadError(f"the tokenizer is not usable: {error}"[:500]) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise LoadError("the folder has no tokenizer.json")
    backend.no_truncation()
    backend.no_padding()
    return tokenizer


def text_context(
    config: PretrainedConfig, runner: RunnerConfig, longest: int | None, named: int | None
) -> int:
    """Tokens that one text may have, marks included: the least of what the files say."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions and config.model_type in OFFSET_TYPES:
        positions -= (config.pad_token_id or 0) + 1
    found = [positions, longest, runner.max_context]
    found += [named] if named and named < UNBOUNDED else []
    return min((value for value in found if value), default=512)


def encoder_workspace(config: PretrainedConfig, runner: RunnerConfig, dtype: torch.dtype) -> int:
    """Bytes of a step at its largest: states and the inner layer (attention is never whole)."""
    width = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * width
    return step_tokens(runner) * (8 * width + 2 * inner) * dtype.itemsize


def step_tokens(runner: RunnerConfig) -> int:
    """Tokens of the largest step."""
    usual = CPU_STEP_TOKENS if runner.device == "cpu" else GPU_STEP_TOKENS
    return int(runner.options.get("step_tokens", usual))


def step_rows(runner: RunnerConfig) -> int:
    """Texts of the largest step."""
    usual = CPU_ROWS if runner.device == "cpu" else GPU_ROWS
    return int(runner.options.get("rows", usual))


class Encoder:
    """A loaded model; `hidden` and `logits` are for the engine's thread."""

    def __init__(self, config: RunnerConfig, *, scores: bool) -> None:
        """Load it; `scores` means a classification head with one label. Raises LoadError."""
        self.folder = check_folder(config.path)
        self.config = read_encoder_config(self.folder)
        self.dtype = float_type(config.device, config.dtype)
        self.device = torch.device(config.device)
        use_device(self.device)
        self.tokenizer = load_text_tokenizer(self.folder)
        kind = AutoModelForSequenceClassification if scores else AutoModel
        self.model = self._load(kind)
        if scores and self.model.config.num_labels != 1:
            raise LoadError(f"a reranker has one label, this model {self.model.config.num_labels}")
        self._pad = self.tokenizer.pad_token_id or 0
        self._takes_kinds = getattr(self.config, "type_vocab_size", 0) > 1

    @property
    def vocabulary(self) -> int:
        """Token ids end before this one."""
        return self.config.vocab_size

    def held_bytes(self) -> int:
        """Bytes of the weights in memory."""
        return held_bytes(self.model)

    def warm_up(self, tokens: int, longest: int) -> int:
        """Try it once; on a GPU with the largest step. Bytes it took beside the weights."""
        if self.device.type == "cpu":
            before = resident_bytes()
            self._inputs_run([[0] * min(8, longest)] * 2)
            return max(0, resident_bytes() - before)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        width = min(longest, tokens)
        self._inputs_run([[0] * width] * max(1, tokens // width))
        return torch.cuda.max_memory_allocated(self.device) - before

    def vectors(self, items: Sequence[Item], pooling: Pooling) -> list[Any]:
        """One float32 vector per text; None where it is not finite."""
        with torch.inference_mode():
            inputs, last = self._inputs(items)
            hidden = self.model(**inputs).last_hidden_state
            found = pooling.pool(hidden, inputs.get("attention_mask"), last)
            if pooling.normalise:
                found = torch.nn.functional.normalize(found, dim=-1)
            fine = found.isfinite().all(-1).tolist()
            return [row if ok else None for row, ok in zip(found.cpu().numpy(), fine, strict=True)]

    def scores(self, items: Sequence[Item]) -> list[float | None]:
        """One score between 0 and 1 per pair; None where it is not finite."""
        with torch.inference_mode():
            inputs, _ = self._inputs(items)
            logits = self.model(**inputs).logits[:, 0].float()
            fine = logits.isfinite().tolist()
            values = logits.sigmoid().tolist()
            return [value if ok else None for value, ok in zip(values, fine, strict=True)]

    def _inputs(self, items: Sequence[Item]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        lengths = [len(item) for item in items]
        width = max(lengths)
        rows = [item.tokens + [self._pad] * (width - len(item)) for item in items]
        inputs = {"input_ids": torch.tensor(rows, device=self.device)}
        last = torch.tensor(lengths, device=self.device) - 1
        if min(lengths) < width:  # rows of one length need no mask
            steps = torch.arange(width, device=self.device)
            inputs["attention_mask"] = (steps <= last.unsqueeze(1)).long()
        if self._takes_kinds and any(item.kinds for item in items):
            kinds = [(item.kinds or []) + [0] * (width - len(item.kinds or [])) for item in items]
            inputs["token_type_ids"] = torch.tensor(kinds, device=self.device)
        return inputs, last

    def _inputs_run(self, rows: list[list[int]]) -> None:
        with torch.inference_mode():
            self.model(input_ids=torch.tensor(rows, device=self.device))

    def _load(self, kind: Any) -> PreTrainedModel:
        disable_progress_bar()
        set_verbosity_error()  # it would warn of a pooler that nobody uses
        model, report = kind.from_pretrained(
            self.folder,
            dtype=self.dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
        if missing:
            raise LoadError(f"weights are missing: {', '.join(missing)}"[:500])
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # of BERT's kind: not what these models were trained with
        model = model.to(self.device).eval().requires_grad_(False)
        pack_linears(model)
        return model


def estimated(config: RunnerConfig) -> tuple[int, int]:
    """Bytes of weights and workspace, from the files alone. Raises LoadError."""
    folder = check_folder(config.path)
    dtype = float_type(config.device, config.dtype)
    weights = weight_bytes(folder, dtype.itemsize)
    return weights, encoder_workspace(read_encoder_config(folder), config, dtype)
