"""The slot cache with positions before heads: the same rows in another shape."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from inference.runners.slots import CacheLayout, SlotCache

CPU = torch.device("cpu")
LAYOUT = CacheLayout((2, 1), (4, 8), torch.float32, CPU, positions_first=True)


def make(slots=4, context=1024, tokens=4096, *, whole=False, layout=LAYOUT):
    budget = tokens * layout.bytes_per_token
    return SlotCache(layout, slots=slots, context=context, budget=budget, whole=whole)


def write(cache, row, mark, count):
    start = cache.length(row)
    for tensor in (*cache.keys, *cache.values):
        cache.part(tensor, row, start, start + count).fill_(mark)
    cache.advance(row, count)


def holds_only(cache, row, mark):
    length = cache.length(row)
    return all(
        bool((tensor[row, :length] == mark).all()) and not tensor[row, length:].any()
        for tensor in (*cache.keys, *cache.values)
    )


def test_all_rows_lie_behind_each_other_with_one_position_more():
    cache = make()
    cache.take(20)
    cache.take(20)
    flat = cache.flat(cache.keys[0])
    assert flat.shape == (cache.row_capacity * cache.max_len + 1, 2, 4)
    flat[1 * cache.max_len + 7] = 5.0
    flat[cache.scratch] = 6.0
    assert cache.keys[0][1, 7].eq(5).all()
    assert not cache.keys[0].eq(6).any()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_rows_never_hold_anything_of_another_request(seed, whole):
    rng = random.Random(seed)
    cache = make(slots=6, context=1024, tokens=2048, whole=whole)
    live, room = [], []
    for mark in range(1, 300):
        action = rng.random()
        if action < 0.4:
            limit = rng.choice([20, 100, 300, 700])
            if cache.fits(limit):
                assert cache.take(limit) == len(live)
                live.append(mark)
                room.append(limit)
        elif action < 0.75 and live:
            row = rng.randrange(len(live))
            write(cache, row, live[row], rng.randint(0, room[row] - cache.length(row)))
        elif live:
            row = rng.randrange(len(live))
            for source, target in cache.release(row, len(live) - rng.randint(0, 1)):
                live[target], room[target] = live[source], room[source]
            live.pop()
            room.pop()
        assert cache.rows == len(live)
        assert cache.bytes_held <= cache.bytes_total
        assert all(holds_only(cache, row, owner) for row, owner in enumerate(live))
        assert all(not tensor[len(live) :].any() for tensor in (*cache.keys, *cache.values))


def test_a_snapshot_fits_either_layout():
    cache, other = make(), make(layout=replace(LAYOUT, positions_first=False))
    row = cache.take(50)
    for tensor in (*cache.keys, *cache.values):
        cache.part(tensor, row, 0, 30).copy_(torch.randn(30, *tensor.shape[2:]))
    cache.advance(row, 30)
    other.restore(other.take(50), cache.snapshot(row, 0, 30))
    again = cache.take(50)
    cache.restore(again, other.snapshot(0, 0, 30))
    for tensor in (*cache.keys, *cache.values):
        assert torch.equal(tensor[again], tensor[row])
    assert cache.length(again) == 30


def test_taken_whole_every_slot_has_its_even_share_at_once():
    cache = make(slots=4, context=4096, tokens=4096, whole=True)
    assert (cache.row_capacity, cache.max_len) == (4, 1024)
    before = cache.generation
    for _ in range(4):
        cache.take(1000)
    assert cache.generation == before
    assert cache.bytes_held == cache.bytes_total


def test_taken_whole_the_shape_follows_longer_rows_and_comes_back():
    cache = make(slots=4, context=4096, tokens=4096, whole=True)
    write(cache, cache.take(200), 1, 150)
    cache.take(1500)
    assert (cache.row_capacity, cache.max_len) == (2, 2048)
    assert holds_only(cache, 0, 1)
    cache.release(1, 2)
    for _ in range(3):
        cache.take(900)
    assert (cache.row_capacity, cache.max_len) == (4, 1024)
    assert holds_only(cache, 0, 1)


def test_taken_whole_a_row_in_between_gets_what_is_left():
    cache = make(slots=4, context=4096, tokens=4096, whole=True)
    cache.take(200)
    cache.take(200)
    cache.take(1200)
    assert (cache.row_capacity, cache.max_len) == (3, 1280)


def test_a_context_shorter_than_the_even_share_is_enough():
    cache = make(slots=4, context=100, tokens=4096, whole=True)
    assert (cache.row_capacity, cache.max_len) == (4, 256)
