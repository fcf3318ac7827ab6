"""bfloat16 on a CPU: packed linear layers and attention by plain products."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from inference.runners import attention
from inference.runners.packing import PackedLinear, can_pack, pack_linears, packed_bytes
from tests.inference.tiny_models import tiny_model

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(
    not can_pack(CPU, torch.bfloat16), reason="torch has no packed bfloat16 layers here"
)


@needs_packing
@pytest.mark.parametrize("rows", [0, 1, 7, 40])
def test_a_packed_layer_gives_the_same_numbers(rows):
    torch.manual_seed(1)
    layer = torch.nn.Linear(96, 160).to(torch.bfloat16).requires_grad_(False)
    packed = PackedLinear(layer.weight, layer.bias)
    given = torch.randn(1, rows, 96).to(torch.bfloat16)
    assert torch.equal(packed(given), layer(given))
    assert torch.equal(packed.weight, layer.weight)


@needs_packing
def test_a_packed_model_gives_the_same_logits_and_says_what_it_holds():
    model = tiny_model("qwen3").to(torch.bfloat16)
    packed = copy.deepcopy(model)
    before = sum(one.nbytes for one in packed.parameters())
    pack_linears(packed)
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        assert torch.equal(packed(input_ids=ids).logits, model(input_ids=ids).logits)
    assert not any(type(one) is torch.nn.Linear for one in packed.modules())
    held = sum(one.nbytes for one in packed.parameters()) + packed_bytes(packed)
    head = model.lm_head.weight.nbytes if model.config.tie_word_embeddings else 0
    assert held == before + head


def test_float32_layers_are_left_alone():
    model = tiny_model("qwen3")
    pack_linears(model)
    assert packed_bytes(model) == 0


@pytest.mark.parametrize("scale", [None, 0.2])
def test_products_attend_as_the_kernel_does(scale):
    torch.manual_seed(2)
    rows, kv_heads, group, span, dim = 5, 2, 3, 64, 32
    query = torch.randn(rows, kv_heads, group, dim).to(torch.bfloat16)
    keys, values = torch.randn(2, rows + 3, kv_heads, 2 * span, dim).to(torch.bfloat16)
    mask = torch.zeros(rows, 1, 1, span, dtype=torch.bfloat16)
    for row in range(rows):
        mask[row, ..., 10 * row + 1 :] = float("-inf")
    seen = (query, keys[:rows, :, :span], values[:rows, :, :span])
    got = attention._attend_packed(*seen, attn_mask=mask, scale=scale)
    exact = scaled_dot_product_attention(
        *(one.float() for one in seen), attn_mask=mask.float(), scale=scale
    )
    torch.testing.assert_close(got.float(), exact, atol=0.03, rtol=0.03)
