"""One step of a model on a GPU: everything eager, or decode steps replayed from CUDA graphs.

An eager step of a small model is bound by launching its kernels one by one from Python. A decode
step always launches the same ones, so they are captured once, for a number of rows and a span of
the cache, and replayed with one call. Steps with prefill chunks stay eager.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from inference.runners.attention import Chunk, running
from inference.runners.cuda_attention import PackedStep, Varlen
from inference.runners.device import to_device
from inference.runners.generation import Generation
from inference.runners.slots import SlotCache, round_up

SPAN_STEP = 64
FIRST_SPAN = 512
SPAN_FACTOR = 4

logger = logging.getLogger(__name__)


class PackedForward:
    """Like RaggedForward, for rows with positions before heads; never waits for the device."""

    def __init__(
        self, model: torch.nn.Module, cache: SlotCache, varlen: Varlen | None = None
    ) -> None:
        """`model` has slot attention set; without `varlen` attention is SDPA's."""
        self._model = model
        self._cache = cache
        self._varlen = varlen

    def run(
        self,
        decoding: Sequence[Generation],
        chunks: Sequence[Chunk],
        prefilling: Sequence[Generation],
        fed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See Forward."""
        cache, rows = self._cache, len(decoding)
        tokens = [0 if fed is not None else generation.last_token for generation in decoding]
        positions = [cache.length(row) for row in range(rows)]
        places = [row * cache.max_len + at for row, at in enumerate(positions)]
        span = min(round_up(max(positions, default=0) + 1, SPAN_STEP), cache.max_len)
        keep = list(range(rows))
        for chunk, generation in zip(chunks, prefilling, strict=True):
            end = chunk.start + chunk.count
            tokens += generation.prompt[chunk.start : end]
            positions += range(chunk.start, end)
            begin = chunk.row * cache.max_len
            places += range(begin + chunk.start, begin + end)
            if end == len(generation.prompt):
                keep.append(len(tokens) - 1)
        count = len(tokens)
        packed = to_device([*tokens, *positions, *places, *keep], torch.int64, self._device)
        ids, at, to = packed[: 3 * count].view(3, count)
        if fed is not None:
            ids[:rows] = fed
        step = PackedStep(
            cache,
            positions=at,
            places=to,
            decode_rows=rows,
            span=span,
            chunks=chunks,
            varlen=self._varlen,
        )
        return self._logits(step, ids, at, packed[3 * count :])

    @property
    def _device(self) -> torch.device:
        return self._cache.layout.device

    def _logits(
        self, step: PackedStep, ids: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor | int
    ) -> torch.Tensor:
        with running(step):
            return self._model(
                input_ids=ids[None],
                position_ids=positions[None],
                use_cache=False,
                logits_to_keep=keep,
            ).logits[0]


class Graphs(Protocol):
    """What captures work on the device; torch.cuda's, or a stand-in for tests."""

    def warm(self, body: Callable[[], None]) -> None:
        """Run `body` as it will be captured, so that nothing is set up during the capture."""

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """Record what `body` launches; the answer launches it again."""


class CudaGraphs:
    """torch.cuda's graphs, with one memory pool and one stream for all of them.

    The pool may be shared because replays never overlap and no graph leaves anything there for
    another: inputs and logits live outside of it.
    """

    def __init__(self, device: torch.device) -> None:
        """Raises RuntimeError where there is no such device."""
        self._device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream(device)

    def warm(self, body: Callable[[], None]) -> None:
        """See Graphs."""
        with torch.cuda.device(self._device):
            usual = torch.cuda.current_stream()
            self._stream.wait_stream(usual)
            with torch.cuda.stream(self._stream):
                body()
            usual.wait_stream(self._stream)

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """See Graphs."""
        graph = torch.cuda.CUDAGraph()
        usual = torch.cuda.current_stream(self._device)
        try:
            # thread_local: what other threads do with the device is none of this capture's business
            with (
                torch.cuda.device(self._device),
                torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ),
            ):
                body()
        except BaseException:
            # a capture that fails to end leaves its stream as the thread's own
            torch.cuda.set_stream(usual)
            raise
        return graph.replay


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph and its inputs: `[3, rows]`, int64: tokens, positions, places."""

    inputs: torch.Tensor
    replay: Callable[[], None]


class GraphForward(PackedForward):
    """Replays decode steps; captures what it has not seen yet.

    A graph is for a number of rows (the next power of two, at most the cache's rows) and a span
    (see `span_for`). Rows beyond the live ones are padding: they write to the cache's scratch
    position and what they give is cut off. Graphs hold addresses: when the cache's tensors were
    replaced all of them are captured anew. If a capture fails, decoding goes on without graphs.
    """

    def __init__(
        self, model: torch.nn.Module, cache: SlotCache, varlen: Varlen | None, graphs: Graphs
    ) -> None:
        """`graphs` captures on the device of the cache."""
        super().__init__(model, cache, varlen)
        self.captures = 0
        self._tool: Graphs | None = graphs
        self._graphs: dict[tuple[int, int], Captured] = {}
        self._generation = cache.generation
        self._output: torch.Tensor | None = None

    def run(
        self,
        decoding: Sequence[Generation],
        chunks: Sequence[Chunk],
        prefilling: Sequence[Generation],
        fed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See Forward. The logits of a replayed step are overwritten by the next one."""
        captured = None
        if decoding and not chunks:
            longest = max(self._cache.length(row) for row in range(len(decoding))) + 1
            captured = self._graph(len(decoding), longest)
        if captured is None:
            return super().run(decoding, chunks, prefilling, fed)
        count = len(decoding)
        self._fill(captured.inputs, decoding, fed)
        captured.replay()
        assert self._output is not None  # noqa: S101 - for the type checker
        return self._output[:count]

    def warm_up(self, longest: int) -> None:
        """Capture the graphs for every number of rows, for rows of up to `longest` positions."""
        capacity = self._cache.row_capacity
        lengths = {span_for(length, self._cache.max_len) for length in (1, longest)}
        rows = capacity
        while rows:
            for length in sorted(lengths):
                self._graph(rows, length)
            rows = smaller(rows)

    def _graph(self, rows: int, longest: int) -> Captured | None:
        if self._generation != self._cache.generation:
            self._graphs.clear()
            self._generation = self._cache.generation
        size = min(bucket(rows), self._cache.row_capacity)
        key = (size, span_for(longest, self._cache.max_len))
        if key not in self._graphs and self._tool is not None:
            self._capture(*key)
        return self._graphs.get(key) if self._tool is not None else None

    def _capture(self, rows: int, span: int) -> None:
        """Both runs see padding rows only, which leave no trace in the cache."""
        assert self._tool is not None  # noqa: S101 - for the type checker
        inputs = torch.zeros((3, rows), dtype=torch.int64, device=self._device)
        inputs[2] = self._cache.scratch

        def body() -> None:
            self._step(inputs, span)

        try:
            self._tool.warm(body)
            replay = self._tool.capture(body)
        except Exception:  # a model that cannot be captured can still be run
            logger.exception("no CUDA graph of %d rows: decoding goes on without graphs", rows)
            self._tool = None
            self._graphs.clear()
            return
        self.captures += 1
        self._graphs[rows, span] = Captured(inputs, replay)

    def _step(self, inputs: torch.Tensor, span: int) -> None:
        """What is captured: a decode step from `inputs` into the first rows of `_output`."""
        ids, positions, places = inputs
        rows = inputs.shape[1]
        step = PackedStep(
            self._cache,
            positions=positions,
            places=places,
            decode_rows=rows,
            span=span,
            varlen=self._varlen,
        )
        logits = self._logits(step, ids, positions, 0)
        if self._output is None:
            # as wide as any graph will be; made while warming up, so outside of the graphs' pool
            self._output = logits.new_zeros((self._cache.slots, logits.shape[-1]))
        self._output[:rows].copy_(logits)

    def _fill(
        self, inputs: torch.Tensor, decoding: Sequence[Generation], fed: torch.Tensor | None
    ) -> None:
        cache, rows = self._cache, len(decoding)
        padding = [0] * (inputs.shape[1] - rows)
        tokens = [0 if fed is not None else generation.last_token for generation in decoding]
        positions = [cache.length(row) for row in range(rows)]
        places = [row * cache.max_len + at for row, at in enumerate(positions)]
        scratch = [cache.scratch] * len(padding)
        values = [*tokens, *padding, *positions, *padding, *places, *scratch]
        packed = to_device(values, torch.int64, self._device)
        inputs.copy_(packed.view(3, -1), non_blocking=True)
        if fed is not None:
            inputs[0, :rows] = fed


def bucket(rows: int) -> int:
    """The next power of two."""
    return 1 << (rows - 1).bit_length()


def smaller(rows: int) -> int:
    """The largest power of two below `rows`; 0 below 1."""
    return 1 << ((rows - 1).bit_length() - 1) if rows > 1 else 0


def span_for(longest: int, max_len: int) -> int:
    """How far the rows of a graph may reach: few sizes, since each costs a capture.

    A kernel that is told less than the real length drops what is beyond it, so always at least
    that. It divides the span, not the real length, among its blocks.
    """
    span = FIRST_SPAN
    while span < longest:
        span *= SPAN_FACTOR
    return min(span, max_len)
