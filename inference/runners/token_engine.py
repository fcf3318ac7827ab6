"""The TokenEngine: continuous batching over the slot cache, one thread, one forward per step.

Each step: drop what was cancelled; admit waiting requests in order of arrival while slots, memory
and the prefill budget last; run all decode rows and the prefill chunks in one forward; choose one
token per row that is due; emit one list of events.

A request may have several choices, each a Generation with a row of its own. Choices of one prompt
follow each other in the line: the first computes the prompt, the others take it over.

Admission reserves cache for prompt and max_tokens, so nothing is evicted in the middle of an
answer; the oldest waiting request is never overtaken. A request without max_tokens reserves less
(see Generation) and ends with reason `length` if its reservation can no longer be extended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from inference.runners.answers import Piece
from inference.runners.attention import Chunk
from inference.runners.base import Busy, Delta, Emit, Ended, Event, Failed, Started, Stats
from inference.runners.device import use_device
from inference.runners.forward import Forward
from inference.runners.generation import OPEN_RESERVE, Generation, Request
from inference.runners.launch import Launched, Reading
from inference.runners.logprobs import StepLogprobs
from inference.runners.prefix_cache import PrefixCache
from inference.runners.reuse import Reuse
from inference.runners.sampling import Penalties, choose, penalise
from inference.runners.slots import CacheLost, SlotCache
from inference.runners.waiting_line import WaitingLine

logger = logging.getLogger(__name__)

PREFILL_TOKENS = 512
MAX_FAILED_STEPS = 3
LONGEST_RETRY = 60
GUESSED_TOKENS_PER_S = 100.0
SHORTEST_STEP_S = 1e-6


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """`waiting_tokens` bounds the waiting line, `prefill_tokens` the prompt part of one step."""

    waiting_tokens: int
    prefill_tokens: int = PREFILL_TOKENS


class TokenEngine:
    """`submit`, `cancel` and `stats` may be called from any thread; the rest is the engine's."""

    def __init__(
        self,
        model: Forward,
        cache: SlotCache,
        *,
        eos_ids: Collection[int],
        limits: EngineLimits,
        prefixes: PrefixCache | None = None,
        on_fatal: Callable[[str], None] | None = None,
    ) -> None:
        """`model` runs one step over the rows of `cache`; without `prefixes` no prompt is kept.

        `on_fatal` is called, from the engine thread, after MAX_FAILED_STEPS failures in a row.
        """
        self.healthy = True
        self._model = model
        self._cache = cache
        self._prefixes = prefixes
        self._reuse = Reuse(cache, prefixes)
        self._eos_ids = frozenset(eos_ids)
        self._limits = limits
        self._on_fatal = on_fatal
        self._emit: Emit = lambda events: None
        self._wake = threading.Condition()
        self._waiting = WaitingLine()
        self._known: dict[str, Request] = {}
        self._rows: list[Generation] = []
        self._any_cancelled = False
        self._stopping = False
        self._failed_steps = 0
        self._rate = 0.0
        self._settled_at = 0.0
        self._thread: threading.Thread | None = None

    def start(self, emit: Emit) -> None:
        """Start the thread; every event goes to `emit`."""
        self._emit = emit
        self._thread = threading.Thread(target=self._run, name="token-engine", daemon=True)
        self._thread.start()

    def submit(self, *choices: Generation) -> None:
        """Put the choices of one request, in order of index, into the waiting line.

        Raises Busy; ValueError if the id is in use.
        """
        request = Request(choices)
        with self._wake:
            if request.request_id in self._known:
                raise ValueError(f"request {request.request_id} is already running")
            # by what waits already: a request of many choices has its turn like any other
            full = self._waiting.tokens >= self._limits.waiting_tokens
            if full or self._stopping or not self.healthy:
                raise Busy(self._retry_after())
            self._known[request.request_id] = request
            self._waiting.append(request)
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """Have a request end at the next step; unknown ids are ignored."""
        with self._wake:
            request = self._known.get(request_id)
            if request is not None:
                request.cancelled = True
                self._any_cancelled = True
                self._wake.notify()

    def stats(self) -> Stats:
        """The load at this moment; `memory` is left to the Runner."""
        active = len(self._rows)
        return Stats(
            active=active,
            waiting=len(self._waiting),
            tokens_per_s=self._rate if active else 0.0,
            cache_used=self._cache.bytes_used,
            cache_total=self._cache.bytes_total,
            prefix_used=self._prefixes.bytes_used if self._prefixes is not None else 0,
            prefix_total=self._prefixes.bytes_total if self._prefixes is not None else 0,
        )

    def stop(self, timeout: float = 30.0) -> bool:
        """End the thread; open requests fail as retryable. False if it did not end in time."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is None or self._thread is threading.current_thread():
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _retry_after(self) -> int:
        seconds = self._waiting.tokens / (self._rate or GUESSED_TOKENS_PER_S)
        return max(1, min(LONGEST_RETRY, round(seconds)))

    def _run(self) -> None:
        use_device(self._cache.layout.device)
        while self._wait_for_work():
            events: list[Event] = []
            try:
                with torch.inference_mode():
                    self._step(events)
                self._failed_steps = 0
            except Exception:  # one failed step must not end the engine
                logger.exception("engine step failed")
                self._recover(events)
            self._send(events)
            if not self.healthy:
                break
        self._close()

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._stopping or len(self._waiting) or self._rows):
                self._wake.wait()
            return not self._stopping

    def _send(self, events: list[Event]) -> None:
        if not events:
            return
        try:
            self._emit(events)
        except Exception:  # the host's mistake must not end the engine
            logger.exception("emit failed; %d events are lost", len(events))

    def _step(self, events: list[Event]) -> None:
        if self._any_cancelled:
            self._drop_cancelled(events)
        step = self._launch(events)
        if step is not None:
            self._settle(step, events)

    def _launch(self, events: list[Event]) -> Launched | None:
        """Plan a step and start it, to the choice of its tokens; None if there is nothing to do."""
        decode_rows = self._decode_rows()
        chunks = self._plan(decode_rows, events)
        if not self._rows:
            return None
        began = time.perf_counter()
        decoding = self._rows[:decode_rows]
        shares = [(generation, 1) for generation in decoding]
        shares += [(self._rows[chunk.row], chunk.count) for chunk in chunks]
        logits, due = self._forward(decode_rows, chunks, self._fed(decoding))
        lines = [generation.logprobs for generation in due]
        asked = any(line is not None for line in lines)
        raw = StepLogprobs(logits, lines) if asked else None
        logits, failed = self._process(logits, due)
        tokens = choose(logits, [generation.choice for generation in due])
        return Launched(due, Reading(tokens), raw, failed, shares, began)

    def _settle(self, step: Launched, events: list[Event]) -> None:
        """Read the tokens of a step, take them into their answers, release what is over."""
        tokens = step.reading.tokens()
        now = time.perf_counter()
        spent = max(now - max(step.began, self._settled_at), SHORTEST_STEP_S)
        self._settled_at = now
        step.share_time(spent)
        if step.raw is not None:
            step.raw.tell([self._listed(*pair) for pair in zip(step.due, tokens, strict=True)])
        for generation, token in zip(step.due, tokens, strict=True):
            if generation.over:  # known only after this step was begun
                continue
            if generation in step.failed or token is None:
                self._fail(generation, events)
            else:
                self._accept(generation, token, events)
        rate = len(step.due) / spent
        self._rate += 0.1 * (rate - self._rate) if self._rate else rate
        self._release_over()

    def _decode_rows(self) -> int:
        """How many rows are past their prompts: all but the last one at the most."""
        rows = len(self._rows)
        return rows - 1 if rows and not self._rows[-1].decoding else rows

    def _fed(self, decoding: list[Generation]) -> torch.Tensor | None:
        """The last tokens of these rows where only the device knows them (see Forward)."""
        return None

    def _listed(self, generation: Generation, token: int | None) -> int | None:
        """The token if it is part of the answer: what ends it is not."""
        return None if token in self._eos_ids and not generation.ignore_eos else token

    def _plan(self, decode_rows: int, events: list[Event]) -> list[Chunk]:
        """Choose this step's prefill chunks; new requests get their rows here.

        At most one prompt is left half done, so finished prompts always follow the decode rows.
        """
        budget = self._limits.prefill_tokens
        chunks: list[Chunk] = []
        for row in range(decode_rows, len(self._rows)):
            budget = self._add_chunk(chunks, row, budget)
        while budget > 0 and self._admit(events):
            budget = self._add_chunk(chunks, len(self._rows) - 1, budget)
            if self._rows[-1].media is not None:
                break  # one prompt with images per step: encoding them takes long
        return chunks

    def _add_chunk(self, chunks: list[Chunk], row: int, budget: int) -> int:
        """Returns what is left of the budget: nothing while this prompt is half done."""
        generation = self._rows[row]
        count = min(budget, generation.chunk_end - generation.prefilled)
        chunks.append(Chunk(row, generation.prefilled, count))
        done = generation.prefilled + count == len(generation.prompt)
        return budget - count if done else 0

    def _admit(self, events: list[Event]) -> bool:
        with self._wake:
            if not len(self._waiting):
                return False
            head = self._waiting.head
            if self._reuse.must_wait(head) or not self._cache.fits(head.reserved):
                return False
            request, generation = self._waiting.take()
            # listed before the row is taken: should that fail, _recover knows of it
            self._rows.append(generation)
        if not request.started:
            request.started = True
            events.append(Started(generation.request_id, request.prompt_tokens))
        generation.started = True
        self._reuse.begin(generation, self._cache.take(generation.reserved))
        return True

    def _forward(
        self, decode_rows: int, chunks: list[Chunk], fed: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[Generation]]:
        """Run the model; returns logits `[due, vocabulary]` and the requests they belong to."""
        decoding = self._rows[:decode_rows]
        prefilling = [self._rows[chunk.row] for chunk in chunks]
        due = list(decoding)
        for chunk, generation in zip(chunks, prefilling, strict=True):
            if chunk.start + chunk.count == len(generation.prompt):
                due.append(generation)
        logits = self._model.run(decoding, chunks, prefilling, fed)
        for row in range(decode_rows):
            self._cache.advance(row, 1)
        for chunk, generation in zip(chunks, prefilling, strict=True):
            self._cache.advance(chunk.row, chunk.count)
            generation.prefilled += chunk.count
            self._reuse.after_chunk(generation, chunk.row)
        return logits, due

    def _process(
        self, logits: torch.Tensor, due: list[Generation]
    ) -> tuple[torch.Tensor, set[Generation]]:
        """Let each request's processors change its logits; returns those that failed."""
        failed: set[Generation] = set()
        if not any(generation.processors for generation in due):
            return logits, failed
        logits = logits.float()
        penalties = {
            row: processor
            for row, generation in enumerate(due)
            for processor in generation.processors
            if isinstance(processor, Penalties)
        }
        if penalties:
            try:
                penalise(logits, penalties)
            except Exception:  # the error boundary of those that have any
                logger.exception("penalties failed in %d rows", len(penalties))
                failed |= {due[row] for row in penalties}
        for row, generation in enumerate(due):
            try:
                for processor in generation.processors:
                    if not isinstance(processor, Penalties):
                        processor.process(logits[row])
            except Exception:  # the error boundary of one request
                logger.exception("request %s: logit processor failed", generation.request_id)
                failed.add(generation)
        return logits, failed

    def _accept(self, generation: Generation, token: int, events: list[Event]) -> None:
        """Take a chosen token into the answer."""
        request = self._known.get(generation.request_id)
        if request is None or request.over:  # a sibling failed in this very step
            return
        generation.last_token = token
        generation.tokens.append(token)
        request.completion_tokens += 1
        try:
            for processor in generation.processors:
                processor.accept(token)
            pieces, reason = self._advance(generation, token)
            deltas = deltas_of(generation, pieces, request.completion_tokens, reason)
        except CacheLost:  # everybody's, so the step's
            raise
        except Exception:  # the error boundary of one request
            logger.exception("request %s: token could not be taken", generation.request_id)
            self._fail(generation, events)
            return
        events += deltas
        generation.over = reason is not None
        if generation.over or generation.completion_tokens == 1:
            self._reuse.keep(generation, self._rows.index(generation))
        if reason is not None:
            self._end_choice(request, reason, events)

    def _end_choice(self, request: Request, reason: str, events: list[Event]) -> None:
        request.left -= 1
        if not request.left:
            self._known.pop(request.request_id, None)
            request.over = True
            events.append(Ended(request.request_id, reason, request.units))

    def _fail(self, generation: Generation, events: list[Event]) -> None:
        """A choice cannot go on: its whole request is over."""
        with self._wake:
            request = self._known.pop(generation.request_id, None)
            if request is None:
                return
            request.over = True
            for choice in request.choices:
                choice.over = True
            self._waiting.drop_over()
        message = "The model could not continue this answer"
        events.append(Failed(request.request_id, "worker_error", message, request.units))

    def _advance(self, generation: Generation, token: int) -> tuple[Sequence[Piece], str | None]:
        """What to send for this token and, if it was the last one, why."""
        answer = generation.answer
        if token in self._eos_ids and not generation.ignore_eos:
            return answer.finish(), answer.reason("stop")
        pieces = answer.push(token)
        if answer.stopped:
            return pieces, answer.reason("stop")
        if any(getattr(processor, "is_over", False) for processor in generation.processors):
            return [*pieces, *answer.finish()], answer.reason("stop")
        if generation.completion_tokens >= generation.limit or not self._has_room(generation):
            return [*pieces, *answer.finish()], answer.reason("length")
        return pieces, None

    def _has_room(self, generation: Generation) -> bool:
        """Whether one more token fits into the reservation, extending an open one if need be."""
        used = len(generation.prompt) + generation.completion_tokens
        if used < generation.reserved:
            return True
        limit = len(generation.prompt) + generation.limit
        wanted = min(limit, generation.reserved + OPEN_RESERVE)
        if not self._cache.extend(self._rows.index(generation), wanted):
            return False
        generation.reserved = wanted
        return True

    def _release_over(self) -> None:
        """Give back the rows of choices that are over."""
        for generation in [one for one in self._rows if one.over]:
            row = self._rows.index(generation)
            for source, target in self._cache.release(row, self._decode_rows()):
                self._rows[target] = self._rows[source]
            self._rows.pop()

    def _drop_cancelled(self, events: list[Event]) -> None:
        with self._wake:
            self._any_cancelled = False
            over = [request for request in self._known.values() if request.cancelled]
            for request in over:
                del self._known[request.request_id]
                request.over = True
                for choice in request.choices:
                    choice.over = True
                events.append(Ended(request.request_id, "cancelled", request.units))
            self._waiting.drop_over()
        self._release_over()

    def _recover(self, events: list[Event]) -> None:
        """After a failed step: its requests fail, the waiting line stays, the cache is emptied."""
        self._failed_steps += 1
        with self._wake:
            for request_id in {generation.request_id for generation in self._rows}:
                request = self._known.pop(request_id, None)
                if request is not None:
                    request.over = True
                    events.append(_interrupted(request))
            self._waiting.drop_over()
        self._rows.clear()
        try:
            self._reuse.forget()
            self._cache.reset()
        except Exception:  # without a cache nothing can run
            logger.exception("the cache could not be set up again")
            self._failed_steps = MAX_FAILED_STEPS
        if self._failed_steps >= MAX_FAILED_STEPS:
            self.healthy = False

    def _close(self) -> None:
        """End of the thread: whatever is still open fails, so that nobody waits for ever."""
        with self._wake:
            self._stopping = True
            open_requests = list(self._known.values())
            self._known.clear()
            self._waiting.clear()
            self._rows.clear()
        self._send([_interrupted(request) for request in open_requests])
        if not self.healthy and self._on_fatal is not None:
            self._on_fatal(f"{self._failed_steps} engine steps failed in a row")


def deltas_of(
    generation: Generation, pieces: Sequence[Piece], completion_tokens: int, reason: str | None
) -> list[Delta]:
    """What to send of the pieces of one token; `reason` if it was the last one of its choice.

    A request of a single choice leaves the reason to Ended.
    """
    request_id, choice, line = generation.request_id, generation.index, generation.logprobs
    deltas = []
    if generation.echo:
        deltas.append(Delta(request_id, generation.echo, completion_tokens, choice))
        generation.echo = ""
    for piece in pieces:
        entries = line.take(piece.text) if line is not None else ()
        deltas.append(
            Delta(
                request_id,
                piece.text,
                completion_tokens,
                choice,
                piece.kind,
                piece.call,
                piece.opens,
                entries,
            )
        )
    rest = line.finish() if line is not None and reason and not generation.answer.stopped else ()
    ended = reason if generation.shares_request else None
    if rest or ended:
        deltas.append(Delta(request_id, "", completion_tokens, choice, logprobs=rest, reason=ended))
    return deltas


def _interrupted(request: Request) -> Failed:
    return Failed(
        request.request_id,
        "worker_error",
        "The model was interrupted",
        request.units,
        retryable=True,
    )
