"""The Runner for `openai/chat-completion`: a local transformers model behind a TokenEngine.

The host process sets OMP_WAIT_POLICY=passive before anything imports torch (twice the throughput
when cores are shared); torch reads it once, so it cannot be set here.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from inference.contracts import completion
from inference.contracts.chat import TASK, ChatInput
from inference.runners.assembly import make_cache, make_forward
from inference.runners.base import Emit, InvalidInput, LoadError, Memory, RunnerConfig, Stats
from inference.runners.constraints import Constraints
from inference.runners.cuda_setup import (
    GpuSwitches,
    capture,
    engine_class,
    graph_room,
    room_on,
)
from inference.runners.device import float_type, use_device
from inference.runners.families import PLAIN, SLOTS, Family
from inference.runners.generation import OPEN_RESERVE
from inference.runners.grammar import GrammarFactory
from inference.runners.intake import Bounds, Intake
from inference.runners.loading import (
    cache_budget,
    cache_layout,
    context_length,
    eos_ids,
    held_bytes,
    load_model,
    load_tokenizer,
    prefix_budget,
    read_config,
    sampling_defaults,
    tied_head_bytes,
    workspace_bytes,
)
from inference.runners.model_folder import check_folder, weight_bytes
from inference.runners.parsed_answer import AnswerMaker
from inference.runners.prefix_cache import PrefixCache
from inference.runners.prompt import PromptBuilder, tokenizer_format
from inference.runners.sampling import SamplingDefaults
from inference.runners.slots import SlotCache
from inference.runners.text import DetokenizerFactory
from inference.runners.threads import threaded
from inference.runners.token_engine import PREFILL_TOKENS, EngineLimits, TokenEngine
from inference.runners.vision import MOST_PIXELS, ImageReader, vision_bytes
from inference.runners.warm_up import warm_up

WAITING_TOKENS_PER_SLOT = 2 * OPEN_RESERVE


class ChatRunner:
    """One chat model on one device.

    `options`: waiting_tokens, prefill_tokens, prefix_cache_bytes (0 turns the prefix cache off),
    image_pixels (larger images are scaled down), and for GPUs those of cuda_setup.
    """

    tasks = frozenset({TASK, completion.TASK})

    def __init__(self, config: RunnerConfig) -> None:
        """Nothing is read before `load`."""
        self._config = config
        self._on_fatal: Callable[[str], None] | None = None
        self._model: PreTrainedModel | None = None
        self._cache: SlotCache | None = None
        self._engine: TokenEngine | None = None
        self._memory = Memory(0, 0, 0)
        self._context = 0
        self._family = Family("", SLOTS)
        self._defaults = SamplingDefaults()
        self._prefixes: PrefixCache | None = None
        self._constraints: Constraints | None = None
        self._intake: Intake

    @property
    def context(self) -> int:
        """The most tokens prompt and answer may have together; known after `load`."""
        return self._context

    @property
    def takes_images(self) -> bool:
        """Whether messages may hold images (as `data`); known after `load`."""
        return self._family.takes_images

    def describe(self) -> str:
        """How the model is run: "slots", "hybrid" or "plain"; known after `load`."""
        return self._family.engine + (", images" if self.takes_images else "")

    @property
    def healthy(self) -> bool:
        """False once the engine has given up; the host should unload and load again."""
        return self._engine is None or self._engine.healthy

    def on_fatal(self, callback: Callable[[str], None]) -> None:
        """Have `callback` told, from the engine thread, when the engine gives up."""
        self._on_fatal = callback

    @classmethod
    def estimate(cls, config: RunnerConfig) -> Memory:
        """See Runner."""
        folder = check_folder(config.path)
        model_config, family = read_config(folder)
        dtype = float_type(config.device, config.dtype)
        device = torch.device(config.device)
        weights = weight_bytes(folder, dtype.itemsize) + tied_head_bytes(
            model_config, dtype, device
        )
        layout = cache_layout(model_config, dtype, device)
        workspace = workspace_bytes(model_config, config, dtype)
        workspace += graph_room(family, config, model_config.vocab_size, dtype)
        context = context_length(model_config, config)
        return Memory(
            weights, cache_budget(config, layout, context, weights + workspace), workspace
        )

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

    def start(self, emit: Emit) -> None:
        """See Runner."""
        self._require_engine().start(emit)

    def submit(self, request_id: str, task: str, request: dict[str, Any], *, salt: str) -> None:
        """See Runner. Templates and tokenises in the caller's thread."""
        engine = self._require_engine()
        if task not in self.tasks:
            raise InvalidInput(f"This model does not do {task}", param="model")
        chat = ChatInput.from_dict(request)
        engine.submit(*self._intake.generations(request_id, chat, salt))

    def cancel(self, request_id: str) -> None:
        """See Runner."""
        if self._engine is not None:
            self._engine.cancel(request_id)

    def stats(self) -> Stats:
        """See Runner."""
        if self._engine is None or self._cache is None:
            return Stats(active=0, waiting=0)
        load = self._engine.stats()
        held = self._memory.weights + self._memory.workspace + self._cache.bytes_held
        return replace(load, memory=held + load.prefix_total)

    def unload(self) -> None:
        """See Runner. Raises RuntimeError if the engine thread does not end."""
        if self._engine is not None and not self._engine.stop():
            raise RuntimeError("the engine thread does not end")
        if self._cache is not None:
            self._cache.free()
        if self._constraints is not None:
            self._constraints.close()
        self._engine = self._cache = self._model = self._prefixes = None
        gc.collect()
        if self._config.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _load(self, on_progress: Callable[[float, str], None]) -> Memory:
        config = self._config
        on_progress(0.0, "checking")
        folder = check_folder(config.path)
        model_config, family = read_config(folder)
        self._family = family
        dtype = float_type(config.device, config.dtype)
        device = torch.device(config.device)
        use_device(device)
        layout = cache_layout(model_config, dtype, device)
        on_progress(0.1, "tokenizer")
        tokenizer = load_tokenizer(folder)
        form = tokenizer_format(tokenizer, model_config.model_type)
        on_progress(0.2, "weights")
        self._model = load_model(folder, dtype, device, family)
        self._defaults = sampling_defaults(folder)
        weights = held_bytes(self._model)
        on_progress(0.8, "warming up")
        context = context_length(model_config, config)
        switches = GpuSwitches.of(config.options)
        tokens = min(context, PREFILL_TOKENS)
        peaks = warm_up(self._model, family, layout, switches, slots=config.slots, tokens=tokens)
        workspace = max(peaks.step, workspace_bytes(model_config, config, dtype))
        workspace += graph_room(family, config, model_config.vocab_size, dtype, peaks.decode)
        if family.takes_images:
            workspace += vision_bytes(self._model.config, self._most_pixels(), dtype)
        budget = cache_budget(config, layout, context, weights + workspace)
        if device.type == "cuda":
            budget = min(budget, room_on(device, workspace))
        keeps = family.engine != PLAIN
        prefix = prefix_budget(config, layout, context, budget) if keeps else 0
        self._cache = make_cache(
            family, layout, slots=config.slots, context=context, budget=budget - prefix
        )
        self._context = self._cache.context
        if prefix:
            state_bytes = self._cache.state_bytes
            self._prefixes = PrefixCache(layout, prefix, state_bytes=state_bytes)
        self._memory = Memory(weights, self._cache.bytes_total + prefix, workspace)
        limits = self._engine_limits()
        forward = make_forward(family, self._model, self._cache, switches)
        capture(forward)
        forward = threaded(forward, peaks.threads)
        ends = eos_ids(self._model.generation_config, tokenizer)
        self._engine = engine_class(self._cache, switches)(
            forward,
            self._cache,
            eos_ids=ends,
            limits=limits,
            prefixes=self._prefixes,
            on_fatal=self._tell_fatal,
        )
        known = max(tokenizer.get_vocab().values()) + 1
        vocabulary = min(model_config.vocab_size, known)
        detokenizers = DetokenizerFactory(tokenizer.backend_tokenizer)
        grammars = GrammarFactory(tokenizer, model_config.vocab_size, ends)
        self._constraints = Constraints(grammars, form, tokenizer.get_added_vocab(), ends)
        self._intake = Intake(
            PromptBuilder(tokenizer, form, takes_images=family.takes_images),
            detokenizers,
            AnswerMaker(tokenizer.backend_tokenizer, detokenizers, form),
            self._defaults,
            Bounds(self._context, vocabulary),
            self._constraints,
            self._image_reader(folder),
        )
        on_progress(1.0, "ready")
        return self._memory

    def _most_pixels(self) -> int:
        usual = MOST_PIXELS[torch.device(self._config.device).type]
        return int(self._config.options.get("image_pixels", usual))

    def _image_reader(self, folder: Path) -> ImageReader | None:
        if not self._family.takes_images:
            return None
        return ImageReader(folder, self._model, most_pixels=self._most_pixels())

    def _tell_fatal(self, reason: str) -> None:
        if self._on_fatal is not None:
            self._on_fatal(reason)

    def _engine_limits(self) -> EngineLimits:
        options = self._config.options
        waiting = options.get("waiting_tokens", WAITING_TOKENS_PER_SLOT * self._config.slots)
        return EngineLimits(
            waiting_tokens=int(waiting),
            prefill_tokens=int(options.get("prefill_tokens", PREFILL_TOKENS)),
        )

    def _require_engine(self) -> TokenEngine:
        if self._engine is None:
            raise LoadError("the model is not loaded")
        return self._engine
