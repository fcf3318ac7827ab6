"""The Runner for `openai/chat-completion`: a local transformers model behind a TokenEngine.

The host process sets OMP_WAIT_POLICY=passive before anything imports torch (twice the throughput
when cores are shared); torch reads it once, so it cannot be set here.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from inference.contracts.chat import TASK, ChatInput
from inference.runners.answers import PlainAnswer
from inference.runners.assembly import make_cache, make_forward
from inference.runners.attention import Chunk, RaggedStep, running
from inference.runners.base import Emit, InvalidInput, LoadError, Memory, RunnerConfig, Stats
from inference.runners.device import float_type, resident_bytes
from inference.runners.families import PLAIN, SLOTS, Family
from inference.runners.generation import OPEN_RESERVE, Generation
from inference.runners.loading import (
    cache_budget,
    cache_layout,
    context_length,
    eos_ids,
    held_bytes,
    load_model,
    load_tokenizer,
    read_config,
    sampling_defaults,
    tied_head_bytes,
    workspace_bytes,
)
from inference.runners.model_folder import check_folder, weight_bytes
from inference.runners.prompt import PromptBuilder
from inference.runners.sampling import Choice, SamplingDefaults, penalties_for
from inference.runners.slots import LENGTH_STEP, CacheLayout, SlotCache, round_up
from inference.runners.text import DetokenizerFactory, TextStream
from inference.runners.token_engine import PREFILL_TOKENS, EngineLimits, TokenEngine

WAITING_TOKENS_PER_SLOT = 2 * OPEN_RESERVE


class ChatRunner:
    """One chat model on one device. `options`: waiting_tokens, prefill_tokens."""

    tasks = frozenset({TASK})

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
        self._prompts: PromptBuilder
        self._detokenizers: DetokenizerFactory

    @property
    def context(self) -> int:
        """The most tokens prompt and answer may have together; known after `load`."""
        return self._context

    def describe(self) -> str:
        """How the model is run: "slots", "hybrid" or "plain"; known after `load`."""
        return self._family.engine

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
        model_config, _ = read_config(folder)
        dtype = float_type(config.device, config.dtype)
        device = torch.device(config.device)
        weights = weight_bytes(folder, dtype.itemsize) + tied_head_bytes(
            model_config, dtype, device
        )
        layout = cache_layout(model_config, dtype, device)
        workspace = workspace_bytes(model_config, config, dtype)
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
        del salt  # of use to the prefix cache only
        engine = self._require_engine()
        if task not in self.tasks:
            raise InvalidInput(f"This model does not do {task}", param="model")
        chat = ChatInput.from_dict(request)
        prompt = self._prompts.build(chat.messages, context=self._context)
        limit = self._completion_limit(len(prompt), chat.max_tokens)
        generation = Generation(
            request_id=request_id,
            prompt=prompt,
            limit=limit,
            choice=Choice(chat.sampling, self._defaults),
            answer=PlainAnswer(TextStream(self._detokenizers(), chat.stop)),
            processors=penalties_for(chat.sampling, self._defaults, prompt),
            open_ended=chat.max_tokens is None,
            ignore_eos=chat.ignore_eos,
        )
        engine.submit(generation)

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
        return Stats(
            active=load.active,
            waiting=load.waiting,
            tokens_per_s=load.tokens_per_s,
            cache_used=load.cache_used,
            cache_total=load.cache_total,
            memory=held,
        )

    def unload(self) -> None:
        """See Runner. Raises RuntimeError if the engine thread does not end."""
        if self._engine is not None and not self._engine.stop():
            raise RuntimeError("the engine thread does not end")
        if self._cache is not None:
            self._cache.free()
        self._engine = self._cache = self._model = None
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
        layout = cache_layout(model_config, dtype, device)
        on_progress(0.1, "tokenizer")
        tokenizer = load_tokenizer(folder)
        self._prompts = PromptBuilder(tokenizer)
        self._detokenizers = DetokenizerFactory(tokenizer.backend_tokenizer)
        on_progress(0.2, "weights")
        self._model = load_model(folder, dtype, device, family)
        self._defaults = sampling_defaults(folder)
        weights = held_bytes(self._model)
        on_progress(0.8, "warming up")
        context = context_length(model_config, config)
        workspace = self._warm_up(layout, min(context, PREFILL_TOKENS))
        workspace = max(workspace, workspace_bytes(model_config, config, dtype))
        budget = cache_budget(config, layout, context, weights + workspace)
        self._cache = make_cache(family, layout, slots=config.slots, context=context, budget=budget)
        self._context = self._cache.context
        self._memory = Memory(weights, self._cache.bytes_total, workspace)
        self._engine = TokenEngine(
            make_forward(family, self._model, self._cache),
            self._cache,
            eos_ids=eos_ids(self._model.generation_config, tokenizer),
            limits=self._engine_limits(),
            on_fatal=self._tell_fatal,
        )
        on_progress(1.0, "ready")
        return self._memory

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

    def _warm_up(self, layout: CacheLayout, tokens: int) -> int:
        """Run the largest prompt part and the largest decode batch; returns the bytes they took.

        On a CPU only what the process keeps afterwards can be seen.
        """
        if self._family.engine == PLAIN:
            return self._try_out()
        slots = self._config.slots
        room = max(round_up(tokens, LENGTH_STEP), slots * LENGTH_STEP)
        budget = room * layout.bytes_per_token + slots * layout.state_bytes
        cache = make_cache(self._family, layout, slots=slots, context=tokens, budget=budget)
        on_cuda = layout.device.type == "cuda"
        row = cache.take(tokens)
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(layout.device)
        before = torch.cuda.memory_allocated(layout.device) if on_cuda else resident_bytes()
        self._run_once(RaggedStep(cache, [], [Chunk(row, 0, tokens)]), keep=1)
        cache.reset()
        rows = [cache.take(1) for _ in range(slots)]
        self._run_once(RaggedStep(cache, [0 for _ in rows], []), keep=slots)
        after = torch.cuda.max_memory_allocated(layout.device) if on_cuda else resident_bytes()
        cache.free()
        return max(0, after - before)

    def _try_out(self) -> int:
        """Run a model of the plain engine for two tokens; what it takes is left to the estimate."""
        device = self._model.device
        with torch.inference_mode():
            self._model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=device))
        return 0

    def _run_once(self, step: RaggedStep, *, keep: int) -> None:
        """One forward over made-up tokens, with logits for the last `keep` of them."""
        count = len(step.positions)
        device = step.positions.device
        with torch.inference_mode(), running(step):
            self._model(
                input_ids=torch.zeros((1, count), dtype=torch.long, device=device),
                position_ids=step.positions[None],
                use_cache=False,
                logits_to_keep=torch.arange(count - keep, count, device=device),
            )

    def _completion_limit(self, prompt_tokens: int, max_tokens: int | None) -> int:
        room = self._context - prompt_tokens
        if room < 1:
            raise InvalidInput(
                f"The messages are {prompt_tokens} tokens long; this model's context length is "
                f"{self._context} tokens, the answer included.",
                code="context_length_exceeded",
                param="messages",
            )
        if max_tokens is None:
            return room
        if max_tokens < 1:
            raise InvalidInput("max_tokens must be at least 1", param="max_tokens")
        if max_tokens > room:
            raise InvalidInput(
                f"The messages are {prompt_tokens} tokens long and max_tokens is {max_tokens}; "
                f"together they exceed this model's context length of {self._context} tokens.",
                code="context_length_exceeded",
                param="max_tokens",
            )
        return max_tokens

    def _require_engine(self) -> TokenEngine:
        if self._engine is None:
            raise LoadError("the model is not loaded")
        return self._engine
