"""The states of linear-attention layers: they follow their rows, and nothing stays behind."""

from __future__ import annotations

import random

import pytest
import torch

from inference.runners.slots import LENGTH_STEP, CacheLayout, StateShape
from inference.runners.states import StateSlotCache

SHAPE = StateShape(channels=6, kernel=4, heads=2, key_dim=3, value_dim=5)
LAYOUT = CacheLayout(
    heads=(0, 2, 0),
    dims=(0, 4, 0),
    dtype=torch.bfloat16,
    device=torch.device("cpu"),
    states=((0, SHAPE), (2, SHAPE)),
)


def cache_of(slots=6, tokens=6 * 512, context=512):
    budget = tokens * LAYOUT.bytes_per_token + slots * LAYOUT.state_bytes
    return StateSlotCache(LAYOUT, slots=slots, context=context, budget=budget)


def mark(cache, row, value):
    for states in (cache.convs, cache.recurrents):
        for tensor in states.values():
            tensor[row] = value
    cache.keys[1][row, :, :1] = value


def marks_of(cache, row):
    tensors = [*cache.convs.values(), *cache.recurrents.values()]
    return {float(number) for tensor in tensors for number in tensor[row].unique()}


def test_bytes_of_a_row_are_counted():
    assert LAYOUT.bytes_per_token == 2 * 2 * 4 * 2
    assert LAYOUT.state_bytes == 2 * (6 * 4 * 2 + 2 * 3 * 5 * 4)
    cache = cache_of()
    assert cache.bytes_total == 6 * 512 * LAYOUT.bytes_per_token + 6 * LAYOUT.state_bytes
    cache.take(10)
    assert cache.bytes_used == LAYOUT.state_bytes
    held = [*cache.keys, *cache.values, *cache.convs.values(), *cache.recurrents.values()]
    assert cache.bytes_held == sum(tensor.nbytes for tensor in held)


def test_a_small_budget_means_fewer_slots_not_shorter_rows():
    row = LENGTH_STEP * LAYOUT.bytes_per_token
    many = row // LAYOUT.state_bytes + 1
    budget = row + many * LAYOUT.state_bytes
    cache = StateSlotCache(LAYOUT, slots=2 * many, context=LENGTH_STEP, budget=budget)
    assert (cache.slots, cache.context) == (many, LENGTH_STEP)


def test_states_follow_their_rows_through_joins_and_leaves():
    rng = random.Random(1)
    cache = cache_of()
    live = []
    number = 0
    for _ in range(300):
        if live and (len(live) == cache.slots or rng.random() < 0.5):
            row = rng.randrange(len(live))
            for source, target in cache.release(row, len(live)):
                live[target] = live[source]
            live.pop()
        else:
            number += 1
            row = cache.take(rng.choice([20, 300, 500]))
            mark(cache, row, number % 100 + 1)
            cache.advance(row, 1)
            live.append(number % 100 + 1)
        for row, value in enumerate(live):
            assert marks_of(cache, row) == {value}
        for row in range(len(live), cache.row_capacity):
            assert marks_of(cache, row) == {0.0}


def test_releasing_a_decode_row_beside_a_half_read_prompt():
    cache = cache_of()
    for value in (1, 2, 3):
        mark(cache, cache.take(20), value)
    cache.release(0, group_end=2)
    assert [marks_of(cache, row) for row in range(3)] == [{2.0}, {3.0}, {0.0}]


def test_reset_forgets_all_states():
    cache = cache_of()
    mark(cache, cache.take(20), 7)
    cache.reset()
    assert cache.rows == 0
    assert marks_of(cache, 0) == {0.0}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_window_keeps_the_last_inputs(begun, count):
    cache = cache_of()
    row = cache.take(20)
    old = torch.arange(4.0).expand(1, 6, 4).to(torch.bfloat16)
    if begun:
        cache.convs[0][row : row + 1] = old
    new = 10 + torch.arange(float(count)).expand(1, 6, count).to(torch.bfloat16)
    view = cache.view(0, row, row + 1, begun=begun)
    full = view.update_conv_state(new, 0, conv_kernel_size=4)
    assert full.shape[-1] == count + 4 * begun
    before = old if begun else torch.zeros_like(old)
    expected = torch.cat([before, new], -1)[..., -4:]
    assert torch.equal(cache.convs[0][row : row + 1], expected)
