"""Stand-ins for what only a GPU has: varlen attention and CUDA graphs.

Both are stricter than the real thing where that would fail without a word: the attention insists on
all it is told being true, the graphs on nothing but what a stream of kernels can do again.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from inference.runners.cuda_forward import GraphForward, PackedForward
from inference.runners.slots import CacheLayout, SlotCache
from tests.inference.tiny_models import layout_of, slot_model

LENGTH_READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::item", "aten::is_nonzero"}


@torch.library.custom_op("casola_tests::varlen", mutates_args=())
def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    scale: float | None,
    window_size: list[int],
    seqused_k: torch.Tensor,
) -> torch.Tensor:
    """Plain attention, sequence by sequence; one operator, as the real one is."""
    for tensor in (cu_seq_q, cu_seq_k, seqused_k):
        assert tensor.dtype == torch.int32
        assert tensor.is_contiguous()
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    queries, keys, used = cu_seq_q.tolist(), cu_seq_k.tolist(), seqused_k.tolist()
    assert len(queries) == len(keys) == len(used) + 1
    assert queries[-1] == query.shape[0]
    assert keys[-1] <= key.shape[0]
    output = torch.empty_like(query)
    for index, count in enumerate(used):
        first, last = queries[index], queries[index + 1]
        begin = keys[index]
        assert 1 <= last - first <= max_q
        assert 1 <= count <= max_k, "a kernel would drop the keys beyond max_k"
        assert begin + count <= keys[index + 1]
        output[first:last] = _one(
            query[first:last],
            key[begin : begin + count],
            value[begin : begin + count],
            scale,
            window_size,
        )
    return output


def _one(query, key, value, scale, window):
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", query, key) * (scale or query.shape[2] ** -0.5)
    at = torch.arange(query.shape[0])[:, None] + key.shape[0] - query.shape[0]
    distance = at - torch.arange(key.shape[0])[None]
    left, right = window
    if left >= 0:
        scores = scores.masked_fill(distance > left, float("-inf"))
    if right >= 0:
        scores = scores.masked_fill(-distance > right, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


def reference_varlen(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
):
    """With the signature of torch's `varlen_attn`, for CPUs and any dtype."""
    assert enable_gqa or query.shape[1] == key.shape[1]
    return _varlen(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, list(window_size), seqused_k
    )


class Watch(TorchDispatchMode):
    """Notes every operator; `reads` are those that make the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.reads = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        if func._schema.name in LENGTH_READS:
            self.reads.append(func._schema.name)
        return result


class FakeGraphs:
    """Captures by noting operators and their tensors; a replay runs them on the same memory.

    Nothing of Python is run again, so what depended on the host at capture stays as it was.
    """

    def __init__(self, fails=False):
        self.captured = 0
        self.replayed = 0
        self.fails = fails

    def warm(self, body):
        body()

    def capture(self, body):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        with Watch() as watch:
            body()
        assert not watch.reads, f"a capture cannot wait for the device: {watch.reads}"
        self.captured += 1

        def replay():
            self.replayed += 1
            for call in watch.calls:
                _again(*call)

        return replay


def _again(func, args, kwargs, result):
    if func._schema.is_mutable:
        func(*args, **kwargs)
        return
    given = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)]
    old = result if isinstance(result, (tuple, list)) else (result,)
    places = {one.untyped_storage().data_ptr() for one in given}
    tensors = [one for one in old if isinstance(one, torch.Tensor) and one.numel()]
    if tensors and all(one.untyped_storage().data_ptr() in places for one in tensors):
        return  # a view: its memory is that of a tensor already filled
    new = func(*args, **kwargs)
    new = new if isinstance(new, (tuple, list)) else (new,)
    for target, source in zip(old, new, strict=True):
        if isinstance(target, torch.Tensor):
            target.copy_(source)


def packed_cache(model=None, *, slots=8, tokens=8192, whole=False, device=None) -> SlotCache:
    layout = layout_of(model or slot_model())
    layout = CacheLayout(
        layout.heads, layout.dims, layout.dtype, device or layout.device, positions_first=True
    )
    budget = tokens * layout.bytes_per_token
    return SlotCache(layout, slots=slots, context=512, budget=budget, whole=whole)


def packed_forward(kind, model, cache):
    """One of the ways to run a step: varlen, sdpa, and both with (fake) graphs."""
    varlen = reference_varlen if "varlen" in kind else None
    if "graphs" in kind:
        return GraphForward(model, cache, varlen, FakeGraphs())
    return PackedForward(model, cache, varlen)
