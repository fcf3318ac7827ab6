"""Hybrid models (linear and full attention) in the same step as all others.

The model runs once over `[1, tokens]`, as attention.py says; only the linear-attention layers must
not see other rows' tokens. Each of them is therefore run in parts: the decode rows as one batch,
then every prefill chunk on its own, each part with its rows' states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from inference.runners.attention import current_step
from inference.runners.states import StateSlotCache

MIXER_SUFFIX = "GatedDeltaNet"


def split_mixers(model: torch.nn.Module) -> int:
    """Have the linear-attention layers of `model` work row by row; returns how many there are.

    Afterwards the model runs within engine steps over a StateSlotCache only.
    """
    mixers = [module for module in model.modules() if type(module).__name__.endswith(MIXER_SUFFIX)]
    for mixer in mixers:
        mixer.forward = _ByRows(mixer.forward, mixer.layer_idx)  # type: ignore[method-assign]
    return len(mixers)


class _ByRows:
    """Stands in for the forward of one linear-attention layer."""

    def __init__(self, forward: Callable[..., torch.Tensor], layer: int) -> None:
        self._forward = forward
        self._layer = layer

    def __call__(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """`hidden_states` and the answer are `[1, tokens, width]`, in the step's order."""
        step = current_step()
        cache = step.cache
        if not isinstance(cache, StateSlotCache):
            raise TypeError("a hybrid model needs a cache with states")
        output = torch.empty_like(hidden_states)
        at = step.decode_rows
        if at:
            states = cache.view(self._layer, 0, at, begun=True)
            rows = hidden_states[0, :at, None]
            output[0, :at] = self._run(rows, states, kwargs)[:, 0]
        for chunk in step.chunks:
            end = at + chunk.count
            states = cache.view(self._layer, chunk.row, chunk.row + 1, begun=chunk.start > 0)
            output[:, at:end] = self._run(hidden_states[:, at:end], states, kwargs)
            at = end
        return output

    def _run(self, hidden: torch.Tensor, states: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        return self._forward(
            hidden_states=hidden, **{**kwargs, "cache_params": states, "attention_mask": None}
        )
