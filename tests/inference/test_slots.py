"""The slot cache: shape, budget, moves, and that nothing is left behind."""

from __future__ import annotations

import random

import pytest
import torch

from inference.runners.slots import LENGTH_STEP, CacheLayout, SlotCache

LAYOUT = CacheLayout((2, 1), (4, 8), torch.float32, torch.device("cpu"))


def make(slots=4, context=1024, tokens=4096):
    return SlotCache(LAYOUT, slots=slots, context=context, budget=tokens * LAYOUT.bytes_per_token)


def write(cache, row, mark, count):
    start = cache.length(row)
    for tensor in (*cache.keys, *cache.values):
        tensor[row, :, start : start + count] = mark
    cache.advance(row, count)


def holds_only(cache, row, mark):
    length = cache.length(row)
    return all(
        bool((tensor[row, :, :length] == mark).all()) and bool((tensor[row, :, length:] == 0).all())
        for tensor in (*cache.keys, *cache.values)
    )


def test_bytes_per_token_counts_all_layers():
    assert LAYOUT.bytes_per_token == 2 * (2 * 4 + 1 * 8) * 4


def test_rows_are_taken_in_order():
    cache = make()
    assert [cache.take(10), cache.take(10), cache.take(10)] == [0, 1, 2]


def test_a_full_cache_says_so():
    cache = make(slots=2)
    cache.take(10)
    cache.take(10)
    assert not cache.fits(10)
    with pytest.raises(MemoryError):
        cache.take(10)


def test_the_shape_follows_the_need_within_the_budget():
    cache = make(slots=16, context=4096, tokens=4096)
    cache.take(4096)
    assert (cache.row_capacity, cache.max_len) == (1, 4096)
    assert not cache.fits(10)
    cache.release(0, 1)
    for _ in range(16):
        assert cache.fits(256)
        cache.take(256)
    assert (cache.row_capacity, cache.max_len) == (16, 256)
    assert cache.bytes_held <= cache.bytes_total


def test_a_budget_below_the_context_shortens_the_context():
    assert make(context=4096, tokens=1000).context == 3 * LENGTH_STEP


def test_a_budget_for_nothing_is_refused():
    with pytest.raises(ValueError, match="holds only 100 tokens"):
        make(tokens=100)


def test_a_reservation_can_grow_while_memory_lasts():
    cache = make(slots=4, context=1024, tokens=1024)
    cache.take(256)
    cache.take(256)
    assert cache.extend(0, 512)
    assert not cache.extend(0, 513)
    assert cache.max_len == 512


def test_growing_keeps_what_is_written():
    cache = make(slots=8)
    for mark in (1, 2):
        write(cache, cache.take(20), mark, 20)
    cache.take(700)
    for _ in range(2):
        cache.take(30)
    assert holds_only(cache, 0, 1)
    assert holds_only(cache, 1, 2)


def test_the_last_row_moves_into_the_hole():
    cache = make()
    for mark, count in ((1, 30), (2, 5), (3, 10)):
        write(cache, cache.take(50), mark, count)
    assert cache.release(0, 3) == [(2, 0)]
    assert holds_only(cache, 0, 3)
    assert holds_only(cache, 1, 2)
    assert cache.rows == 2


def test_a_half_prefilled_row_stays_behind_the_others():
    cache = make()
    for mark, count in ((1, 30), (2, 5), (3, 10)):
        write(cache, cache.take(50), mark, count)
    assert cache.release(0, 2) == [(1, 0), (2, 1)]
    assert holds_only(cache, 0, 2)
    assert holds_only(cache, 1, 3)


def test_releasing_the_last_row_moves_nothing():
    cache = make()
    write(cache, cache.take(50), 1, 30)
    assert cache.release(0, 1) == []
    assert all(not tensor.any() for tensor in (*cache.keys, *cache.values))


def test_reset_forgets_everything():
    cache = make()
    write(cache, cache.take(50), 1, 30)
    cache.reset()
    assert cache.rows == 0
    assert cache.bytes_used == 0
    assert all(not tensor.any() for tensor in (*cache.keys, *cache.values))


@pytest.mark.parametrize("seed", range(8))
def test_rows_never_hold_anything_of_another_request(seed):
    rng = random.Random(seed)
    cache = make(slots=6, context=1024, tokens=2048)
    live, room, group = [], [], 0
    for mark in range(1, 400):
        action = rng.random()
        if action < 0.4:
            limit = rng.choice([20, 100, 300, 700])
            if cache.fits(limit):
                row = cache.take(limit)
                assert row == len(live)
                live.append(mark)
                room.append(limit)
                group = len(live)
        elif action < 0.75 and live:
            row = rng.randrange(len(live))
            count = rng.randint(0, room[row] - cache.length(row))
            write(cache, row, live[row], count)
        elif live:
            row = rng.randrange(len(live))
            group = len(live) - rng.randint(0, 1)
            for source, target in cache.release(row, group):
                live[target], room[target] = live[source], room[source]
            live.pop()
            room.pop()
        assert cache.rows == len(live)
        assert cache.bytes_held <= cache.bytes_total
        assert all(holds_only(cache, row, owner) for row, owner in enumerate(live))
        free = [tensor[len(live) :] for tensor in (*cache.keys, *cache.values)]
        assert all(not tensor.any() for tensor in free)
