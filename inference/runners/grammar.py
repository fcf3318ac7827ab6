"""Answers that follow a grammar: compiled once, tried out elsewhere first, masked step by step.

Nothing here runs a model. `GrammarFactory` is used by the threads that prepare requests, the
matchers it makes by the engine's alone.
"""

from __future__ import annotations

import copy
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from transformers import PreTrainedTokenizerBase

from inference.runners.base import InvalidInput
from inference.runners.grammar_guard import TOO_SLOW, GrammarGuard, TrialLimits
from inference.runners.grammar_source import GrammarSource, source_of

WORD = 32
MAX_CACHED = 256
MAX_CACHED_BYTES = 1 << 20
# All are counts, so what is refused does not depend on the machine or on its load. A mask that
# reaches them takes some milliseconds; the lexer of one answer at most about 30 MB.
LIMITS = {
    "initial_lexer_fuel": 300_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 30_000,
    "max_grammar_size": 100_000,
}
COMPLEX = "it is too complex"
# What llguidance says, and what it means to a caller.
MEANINGS = (
    ("too many", COMPLEX),
    ("too large", COMPLEX),
    ("items; max", COMPLEX),
    ("unable to determine", COMPLEX),
    ("noextension", "no text can satisfy it"),
    ("regex is empty", "no text can satisfy it"),
)
OUR_PLACE = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?| \d+ \| .*$")


class GrammarError(Exception):
    """An answer left its grammar, or following it has become too costly."""


class GrammarMatcher:
    """One answer's place in a grammar; see LogitProcessor. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    @property
    def is_over(self) -> bool:
        """Whether the grammar is complete and nothing but the end can follow."""
        return self._matcher.is_stopped()

    @property
    def can_end(self) -> bool:
        """Whether the answer so far satisfies the grammar."""
        return self._matcher.is_accepting()

    def process(self, logits: torch.Tensor) -> None:
        """Rule out what the grammar does not allow next. Raises GrammarError."""
        packed = packed_masks(1, self._vocabulary)
        self.fill(packed[0])
        logits.masked_fill_(forbidden(packed.to(logits.device), logits.shape[-1])[0], -torch.inf)

    def fill(self, packed: torch.Tensor) -> None:
        """Write what is allowed next, one bit per token, into int32 words. Raises GrammarError."""
        self._matcher.unsafe_compute_mask_ptr(packed.data_ptr(), packed.nbytes)
        self._check()

    def accept(self, token: int) -> None:
        """Step past a token. Raises GrammarError if the grammar does not allow it."""
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(" ".join(self._matcher.get_error().split())[:500])


class ReasoningThen:
    """Lets a model think freely, without ending its answer, and has `inner` begin after that."""

    def __init__(
        self,
        inner: Any,
        end_ids: Sequence[int],
        eos_ids: Collection[int] = (),
        *,
        start_id: int | None = None,
    ) -> None:
        """`end_ids` are the tokens, in order, that end the reasoning.

        With `start_id` the reasoning has not begun: the model may begin with that token, or with
        its answer at once.
        """
        self._inner = inner
        self._end = tuple(end_ids)
        self._eos = sorted(eos_ids)
        self._start = start_id
        self._recent: tuple[int, ...] = ()
        self._thinks = start_id is None

    @property
    def is_over(self) -> bool:
        """See GrammarMatcher."""
        return not self._thinks and self._inner.is_over

    def process(self, logits: torch.Tensor) -> None:
        """See LogitProcessor."""
        if self._thinks:
            logits[self._eos] = -torch.inf
            return
        kept = None if self._start is None else logits[self._start].clone()
        self._inner.process(logits)
        if kept is not None:
            logits[self._start] = kept

    def accept(self, token: int) -> None:
        """See LogitProcessor."""
        if self._thinks:
            self._recent = (*self._recent, token)[-len(self._end) :]
            self._thinks = self._recent != self._end
        elif token == self._start:
            self._thinks = True
        else:
            self._inner.accept(token)
        self._start = None


def packed_masks(rows: int, vocabulary: int) -> torch.Tensor:
    """Room for masks, `[rows, words]` of 32 tokens each, from where a device can fetch them."""
    words = -(-vocabulary // WORD)
    return torch.zeros((rows, words), dtype=torch.int32, pin_memory=torch.cuda.is_available())


def forbidden(packed: torch.Tensor, width: int) -> torch.Tensor:
    """The tokens a mask rules out: bool `[rows, width]` from int32 `[rows, words]`."""
    if packed.device.type == "cpu":  # twenty times faster than torch's own operations there
        inverted = np.invert(packed.numpy()).view(np.uint8)
        ruled_out = torch.from_numpy(np.unpackbits(inverted, axis=-1, bitorder="little"))
        ruled_out = ruled_out.view(torch.bool)
    else:
        ruled_out = torch.eq(packed[..., None] & _bits(packed.device), 0).flatten(-2)
    missing = width - ruled_out.shape[-1]
    if missing > 0:
        return torch.nn.functional.pad(ruled_out, (0, missing), value=True)
    return ruled_out[..., :width]


_BITS: dict[torch.device, torch.Tensor] = {}


def _bits(device: torch.device) -> torch.Tensor:
    """The 32 single bits of an int32, on a device."""
    if device not in _BITS:
        values = [1 << bit for bit in range(WORD - 1)] + [-(1 << (WORD - 1))]
        _BITS[device] = torch.tensor(values, dtype=torch.int32, device=device)
    return _BITS[device]


class GrammarFactory:
    """Makes matchers for one model's vocabulary; set up when first needed. Thread-safe.

    The cache knows a grammar by its content alone, whoever sent it: it holds nothing of a request
    but that text, and to find an entry one must have the text already.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary_width: int,
        eos_ids: Collection[int],
        *,
        trial: TrialLimits | None = None,
    ) -> None:
        """`vocabulary_width` is that of the model's logits, not of the tokenizer."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary_width
        self._eos_ids = sorted(eos_ids)
        self._trial = trial
        self._lock = threading.Lock()
        self._setup_lock = threading.Lock()
        self._tools: tuple[LLTokenizer, GrammarGuard] | None = None
        self._cache: OrderedDict[bytes, Future[LLMatcher | str]] = OrderedDict()
        self._sizes: dict[bytes, int] = {}

    def matcher_for(self, response_format: dict[str, Any]) -> GrammarMatcher:
        """The processor for one choice. Raises InvalidInput or Busy."""
        return self.maker_for(source_of(response_format))()

    def maker_for(self, source: GrammarSource) -> Callable[[], GrammarMatcher]:
        """A callable that gives a fresh matcher for every choice. Raises InvalidInput or Busy."""
        compiled = self._compiled(source)
        if isinstance(compiled, str):
            raise InvalidInput(_message(source, compiled), param=source.param)
        return lambda: GrammarMatcher(compiled.deep_copy(), self._vocabulary)

    def close(self) -> None:
        """End the helper processes and forget what was compiled."""
        with self._setup_lock:
            if self._tools is not None:
                self._tools[1].close()
            self._tools = None
        with self._lock:
            self._cache.clear()
            self._sizes.clear()

    def _compiled(self, source: GrammarSource) -> LLMatcher | str:
        """A matcher at its start, or what is wrong; several who ask at once share one trial."""
        key = source.key
        with self._lock:
            known = self._cache.get(key)
            if known is None:
                mine: Future[LLMatcher | str] = Future()
                self._cache[key] = mine
                self._sizes[key] = len(source.text)
            else:
                self._cache.move_to_end(key)
        if known is not None:
            return known.result()
        try:
            mine.set_result(self._compile(source.text))
        except BaseException as error:
            mine.set_exception(error)
            self._forget(key)
            raise
        if mine.result() == TOO_SLOW:
            self._forget(key)
        self._make_room()
        return mine.result()

    def _compile(self, text: str) -> LLMatcher | str:
        tokenizer, guard = self._setup()
        fault = guard.fault(text)
        if fault is not None:
            return fault
        limits = LLParserLimits(verbose_errors=False, **LIMITS)
        matcher = LLMatcher(tokenizer, text, log_level=0, limits=limits)
        return matcher.get_error() if matcher.is_error() else matcher

    def _setup(self) -> tuple[LLTokenizer, GrammarGuard]:
        with self._setup_lock:
            if self._tools is None:
                text = _tokenizer_text(self._tokenizer)
                self._tools = (
                    LLTokenizer(text, n_vocab=self._vocabulary, eos_token=self._eos_ids),
                    GrammarGuard(text, self._vocabulary, self._eos_ids, LIMITS, trial=self._trial),
                )
            return self._tools

    def _forget(self, key: bytes) -> None:
        with self._lock:
            self._cache.pop(key, None)
            self._sizes.pop(key, None)

    def _make_room(self) -> None:
        with self._lock:
            total = sum(self._sizes.values())
            while len(self._cache) > MAX_CACHED or total > MAX_CACHED_BYTES:
                key, _ = self._cache.popitem(last=False)
                total -= self._sizes.pop(key)


def _tokenizer_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer.json of what is loaded, added tokens included."""
    backend = copy.copy(tokenizer.backend_tokenizer)
    backend.no_padding()
    backend.no_truncation()
    return backend.to_str()


def _message(source: GrammarSource, fault: str) -> str:
    """What is wrong, in a sentence for the caller."""
    plain = " ".join(fault.replace("<non-verbose/>", "").split())
    lowered = plain.lower()
    for part, meaning in MEANINGS:
        if part in lowered:
            plain = meaning
            break
    what = "schema" if source.param.endswith((".schema", ".parameters")) else "grammar"
    if what == "schema":  # a place in a grammar that the caller never saw tells them nothing
        plain = OUR_PLACE.sub("", plain)
    return f"The {what} cannot be used: {plain}"[:300]
