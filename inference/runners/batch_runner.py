"""What the Runners over a BatchEngine share: an encoder, its reader of texts, the engine."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch

from inference.runners.base import Emit, InvalidInput, LoadError, Memory, RunnerConfig, Stats
from inference.runners.batch_engine import STEP_SECONDS, BatchEngine, BatchLimits
from inference.runners.batch_line import BatchRequest, Item
from inference.runners.device import use_device
from inference.runners.encoder import (
    Encoder,
    encoder_workspace,
    estimated,
    step_rows,
    step_tokens,
    text_context,
)
from inference.runners.pooling import Pooling, read_pooling
from inference.runners.texts import TextReader

WAITING_TOKENS = 2_000_000


class BatchRunner:
    """One encoder on one device.

    `options`: step_tokens and rows (the largest step), step_seconds (what a step may take) and
    waiting_tokens (how long the line may get).
    """

    tasks: frozenset[str]
    takes_images = False
    has_scores: ClassVar[bool]
    """Whether the model itself scores pairs; else it makes vectors."""

    def __init__(self, config: RunnerConfig) -> None:
        """Nothing is read before `load`."""
        self._config = config
        self._on_fatal: Callable[[str], None] | None = None
        self._encoder: Encoder | None = None
        self._engine: BatchEngine | None = None
        self._memory = Memory(0, 0, 0)
        self._pooling = Pooling()
        self._context = 0
        self._reader: TextReader

    @property
    def context(self) -> int:
        """The most tokens a text (or pair) may have; known after `load`."""
        return self._context

    @classmethod
    def estimate(cls, config: RunnerConfig) -> Memory:
        """See Runner."""
        weights, workspace = estimated(config)
        return Memory(weights, 0, workspace)

    def load(self, on_progress: Callable[[float, str], None]) -> Memory:
        """See Runner. The folder is checked first: nothing in it may carry code."""
        try:
            return self._load(on_progress)
        except LoadError:
            self.unload()
            raise
        except Exception as error:  # whatever transformers makes of a broken folder
            self.unload()
            raise LoadError(f"{type(error).__name__}: {error}"[:500]) from error

    def describe(self) -> str:
        """See Runner."""
        return "batch, scores" if self.has_scores else f"batch, {self._pooling.mode}"

    def on_fatal(self, callback: Callable[[str], None]) -> None:
        """See Runner."""
        self._on_fatal = callback

    def start(self, emit: Emit) -> None:
        """See Runner."""
        self._require_engine().start(emit)

    def submit(self, request_id: str, task: str, request: dict[str, Any], *, salt: str) -> None:
        """See Runner. Tokenises in the caller's thread."""
        engine = self._require_engine()
        if task not in self.tasks:
            raise InvalidInput(f"This model does not do {task}", param="model")
        engine.submit(self.prepare(request_id, task, request, salt=salt))

    def cancel(self, request_id: str) -> None:
        """See Runner."""
        if self._engine is not None:
            self._engine.cancel(request_id)

    def stats(self) -> Stats:
        """See Runner."""
        if self._engine is None:
            return Stats(active=0, waiting=0)
        return replace(self._engine.stats(), memory=self._memory.total)

    def unload(self) -> None:
        """See Runner. Raises RuntimeError if the engine thread does not end."""
        if self._engine is not None and not self._engine.stop():
            raise RuntimeError("the engine thread does not end")
        self._engine = self._encoder = None
        gc.collect()
        if self._config.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def prepare(
        self, request_id: str, task: str, request: dict[str, Any], *, salt: str
    ) -> BatchRequest:
        """The texts of a request and what becomes of their values. Raises InvalidInput."""
        raise NotImplementedError

    def compute(self, items: Sequence[Item]) -> Sequence[Any]:
        """The values of one step."""
        raise NotImplementedError

    def _load(self, on_progress: Callable[[float, str], None]) -> Memory:
        config = self._config
        on_progress(0.1, "weights")
        self._encoder = encoder = Encoder(config, scores=self.has_scores)
        self._pooling = read_pooling(encoder.folder)
        self._context = text_context(
            encoder.config,
            config,
            self._pooling.longest,
            encoder.tokenizer.model_max_length,
        )
        self._reader = TextReader(
            encoder.tokenizer, context=self._context, vocabulary=encoder.vocabulary
        )
        on_progress(0.8, "first step")
        peak = encoder.warm_up(step_tokens(config), self._context)
        workspace = encoder_workspace(encoder.config, config, encoder.dtype)
        if encoder.device.type == "cuda":
            workspace = peak  # measured at the largest step
        self._memory = Memory(encoder.held_bytes(), 0, workspace)
        options = config.options
        limits = BatchLimits(
            waiting_tokens=int(options.get("waiting_tokens", WAITING_TOKENS)),
            step_tokens=step_tokens(config),
            rows=step_rows(config),
            step_seconds=float(options.get("step_seconds", STEP_SECONDS)),
        )
        self._engine = BatchEngine(
            self.compute,
            limits=limits,
            on_start=lambda: use_device(encoder.device),
            on_fatal=self._on_fatal,
        )
        on_progress(1.0, "ready")
        return self._memory

    def _require_engine(self) -> BatchEngine:
        if self._engine is None:
            raise LoadError("the model is not loaded")
        return self._engine
