"""Linear layers of bfloat16 models on CPUs, their weights laid out once as oneDNN wants them.

torch's own linear layer reorders a bfloat16 weight at every call, which for a few rows takes as
long as the product itself. The numbers stay the same, bit for bit.
"""

from __future__ import annotations

import functools

import torch
from torch.nn.functional import linear


class PackedLinear(torch.nn.Module):
    """Stands in for a `torch.nn.Linear` that is only ever run, never trained or saved."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """`weight` is `[out_features, in_features]`, bfloat16, on the CPU."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.nbytes = weight.nbytes
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias
        self._run = torch.ops.mkldnn._linear_pointwise.default

    @property
    def weight(self) -> torch.Tensor:
        """The weight as it was: a copy, made at every call."""
        return self._packed.to_dense()

    @property
    def bias(self) -> torch.Tensor | None:
        """As in `torch.nn.Linear`."""
        return self._bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        if not rows.numel():
            return rows.new_empty((*rows.shape[:-1], self.out_features))
        return self._run(rows, self._packed, self._bias, "none", [], "")


@functools.cache
def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packing is to be had, and gives the same numbers as torch's own linear layer."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return False
    weight = torch.linspace(-1, 1, 64 * 32).reshape(64, 32).to(dtype)
    rows = torch.linspace(-1, 1, 3 * 32).reshape(3, 32).to(dtype)
    try:
        return torch.equal(PackedLinear(weight, None)(rows), linear(rows, weight))
    except (AttributeError, RuntimeError):  # operators without a public name: not in every torch
        return False


def pack_linears(model: torch.nn.Module) -> None:
    """Replace the linear layers of `model`, one by one, so that few weights are held twice."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and can_pack(child.weight.device, child.weight.dtype):
                bias = None if child.bias is None else child.bias.detach()
                setattr(parent, name, PackedLinear(child.weight.detach(), bias))


def packed_bytes(model: torch.nn.Module) -> int:
    """Bytes of the packed weights, which are no parameters."""
    return sum(module.nbytes for module in model.modules() if isinstance(module, PackedLinear))
