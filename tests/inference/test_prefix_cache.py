"""The prefix cache: who finds what, what goes first, and answers that do not change with it."""

from __future__ import annotations

import random
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.runners.prefix_cache import BLOCK, Match, PrefixCache, chain, chain_seed
from inference.runners.slots import CacheLayout, SlotCache, Snapshot
from tests.inference.engines import choices, generation, started, tokens_of
from tests.inference.tiny_models import expected_tokens, random_prompt
from tests.waiting import until

LAYOUT = CacheLayout((2, 1), (4, 8), torch.float32, torch.device("cpu"))
BLOCK_BYTES = BLOCK * LAYOUT.bytes_per_token
A, B = chain_seed("a"), chain_seed("b")


def cache_of(blocks, **options):
    return PrefixCache(LAYOUT, blocks * BLOCK_BYTES, **options)


def numbers(blocks, mark=0.0):
    kv = torch.arange(blocks * BLOCK * LAYOUT.width, dtype=torch.float32)
    return kv.reshape(-1, LAYOUT.width) + mark


def test_keys_depend_on_all_that_came_before_and_on_the_owner():
    tokens = list(range(100))
    keys = chain(A, tokens)
    assert len(keys) == 3
    assert chain(A, tokens[:64]) == keys[:2]
    assert chain(A, tokens, keys[:1]) == keys
    assert not set(chain(B, tokens)) & set(keys)
    assert not set(chain(chain_seed("a", b"image"), tokens)) & set(keys)
    changed = chain(A, [1, *tokens[1:]])
    assert not set(changed) & set(keys)
    assert chain(A, tokens[: BLOCK - 1]) == []


def test_what_is_kept_is_found_and_is_a_copy():
    cache = cache_of(4)
    keys = chain(A, range(96))
    kv = numbers(3)
    cache.keep(keys, 0, kv)
    wanted = kv.clone()
    kv.zero_()
    assert cache.find(keys) == Match(3, 3)
    loaded = cache.load(keys).kv
    assert torch.equal(loaded, wanted)
    loaded.zero_()
    assert torch.equal(cache.load(keys[:2]).kv, wanted[: 2 * BLOCK])
    assert cache.find(chain(B, range(96))) == Match(0, 0)
    assert cache.bytes_used == 3 * BLOCK_BYTES <= cache.bytes_total


def test_a_longer_chain_adds_only_what_is_new():
    cache = cache_of(4)
    keys = chain(A, range(128))
    cache.keep(keys[:2], 0, numbers(2))
    assert cache.missing(keys) == 2
    cache.keep(keys, 2, numbers(2, mark=7))
    assert len(cache) == 4
    assert torch.equal(cache.load(keys).kv, torch.cat((numbers(2), numbers(2, mark=7))))


def test_the_least_recently_used_goes_first_from_the_end_of_its_chain():
    cache = cache_of(4)
    old, new, third = (chain(A, range(start, start + 64)) for start in (0, 100, 200))
    cache.keep(old, 0, numbers(2))
    cache.keep(new, 0, numbers(2))
    cache.load(old)
    cache.keep(third[:1], 0, numbers(1))
    assert [cache.find(one).seen for one in (old, new, third)] == [2, 1, 1]
    cache.keep(third, 1, numbers(1))
    assert [cache.find(one).seen for one in (old, new, third)] == [2, 0, 2]


def test_a_chain_longer_than_the_cache_keeps_its_start():
    cache = cache_of(2)
    keys = chain(A, range(160))
    assert cache.missing(keys) == 0
    cache.keep(keys, 0, numbers(2))
    assert cache.find(keys) == Match(2, 2)


def test_without_room_nothing_is_kept():
    cache = PrefixCache(LAYOUT, BLOCK_BYTES - 1)
    cache.keep(chain(A, range(64)), 0, numbers(2)[:0])
    assert (len(cache), cache.bytes_used, cache.bytes_total) == (0, 0, 0)


def test_a_cleared_cache_can_be_filled_again():
    cache = cache_of(2)
    keys = chain(A, range(64))
    for _ in range(3):
        cache.keep(keys, 0, numbers(2))
        cache.clear()
        assert cache.find(keys) == Match(0, 0)
    cache.keep(keys, 0, numbers(2))
    assert cache.find(keys) == Match(2, 2)


def test_with_states_only_blocks_that_have_one_are_reused():
    cache = cache_of(8, state_bytes=BLOCK_BYTES)
    keys = chain(A, range(128))
    cache.keep(keys, 0, numbers(4), {64: "after two"})
    assert cache.find(keys) == Match(2, 4)
    assert cache.load(keys[:2]).state == "after two"
    cache.keep(keys, 4, numbers(0), {128: "after four"})
    assert cache.find(keys) == Match(4, 4)
    assert cache.bytes_used == 6 * BLOCK_BYTES


def test_states_have_their_share_of_the_budget_and_go_with_their_blocks():
    cache = cache_of(4, state_bytes=BLOCK_BYTES)
    chains = [chain(A, range(start, start + BLOCK)) for start in (0, 100, 200)]
    for keys in chains[:2]:
        cache.keep(keys, 0, numbers(1), {BLOCK: "x"})
    assert cache.bytes_used == cache.bytes_total == 4 * BLOCK_BYTES
    cache.keep(chains[2], 0, numbers(1), {BLOCK: "y"})
    assert [cache.find(keys).reused for keys in chains] == [0, 1, 1]
    assert cache.bytes_used == cache.bytes_total


CHAINS = st.lists(st.integers(0, 2), min_size=0, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 6),
    moves=st.lists(st.tuples(st.booleans(), st.booleans(), CHAINS), max_size=40),
)
def test_whatever_happens_found_blocks_hold_what_was_kept(capacity, moves):
    """Chains of three kinds of block over two owners; a block's numbers follow from its key."""

    def blocks_of(keys):
        marks = [int.from_bytes(key[:2], "big") for key in keys]
        return (
            torch.tensor(marks, dtype=torch.float32)
            .repeat_interleave(BLOCK)[:, None]
            .expand(-1, LAYOUT.width)
        )

    cache = cache_of(capacity)
    for keeps, first_owner, kinds in moves:
        tokens = [kind for kind in kinds for _ in range(BLOCK)]
        keys = chain(A if first_owner else B, tokens)
        if keeps:
            kept = keys[: cache.capacity]
            first = cache.missing(kept)
            cache.keep(kept, first, blocks_of(kept[first:]))
            assert cache.find(kept).seen == len(kept)
        found = cache.find(keys).reused
        if found:
            assert torch.equal(cache.load(keys[:found]).kv, blocks_of(keys[:found]))
        assert len(cache) <= capacity
        assert cache.bytes_used <= cache.bytes_total


def test_a_snapshot_restores_and_aliases_nothing():
    cache = SlotCache(LAYOUT, slots=3, context=512, budget=2048 * LAYOUT.bytes_per_token)
    for _ in range(2):
        cache.take(100)
    torch.manual_seed(1)
    for tensor in (*cache.keys, *cache.values):
        tensor[0, :, :40] = torch.randn(tensor[0, :, :40].shape)
    cache.advance(0, 40)
    before = [tensor[0, :, :40].clone() for tensor in (*cache.keys, *cache.values)]
    first, rest = cache.snapshot(0, 0, 32), cache.snapshot(0, 32, 40)
    assert (first.tokens, rest.tokens) == (32, 8)
    cache.restore(1, first)
    cache.restore(1, rest)
    assert cache.length(1) == 40
    cache.release(0, 2)  # row 1 moves to 0 and the rest is wiped
    after = [tensor[0, :, :40] for tensor in (*cache.keys, *cache.values)]
    assert all(map(torch.equal, before, after))
    first.kv.fill_(9)
    assert all(map(torch.equal, before, after))


def cached(recorder, request_id):
    return recorder.end(request_id).units.cached_tokens


def test_the_same_owner_finds_its_prompt_and_no_other(engines):
    engine = engines(prefix_tokens=1024)
    recorder = started(engine)
    prompt = random_prompt(random.Random(1), 100, 100)
    wanted = expected_tokens(prompt, 10)
    for request_id, org in (("first", "a"), ("again", "a"), ("other", "b"), ("nobody", "")):
        engine.submit(generation(request_id, prompt, 10, org=org))
        assert tokens_of(recorder, request_id) == wanted
    assert [cached(recorder, one) for one in ("first", "again", "other", "nobody")] == [0, 96, 0, 0]
    assert recorder.end("again").units.prompt_tokens == 100


def test_at_least_one_token_is_left_to_compute(engines):
    engine = engines(prefix_tokens=1024)
    recorder = started(engine)
    prompt = random_prompt(random.Random(2), 64, 64)
    for request_id in ("first", "again"):
        engine.submit(generation(request_id, prompt, 5, org="a"))
        assert tokens_of(recorder, request_id) == expected_tokens(prompt, 5)
    assert cached(recorder, "again") == 32


def test_the_next_turn_finds_prompt_and_answer(engines):
    engine = engines(prefix_tokens=1024)
    recorder = started(engine)
    prompt = random_prompt(random.Random(3), 50, 50)
    engine.submit(generation("turn", prompt, 60, org="a"))
    following = [*prompt, *tokens_of(recorder, "turn"), 9, 10]
    engine.submit(generation("next", following, 12, org="a"))
    assert tokens_of(recorder, "next") == expected_tokens(following, 12)
    assert cached(recorder, "next") == 96  # 109 positions were written


def test_a_shared_start_is_found_by_all_that_come_after(engines):
    engine = engines(slots=8, prefix_tokens=2048, prefill_tokens=128)
    recorder = started(engine)
    rng = random.Random(4)
    shared = random_prompt(rng, 96, 96)
    prompts = {str(number): shared + random_prompt(rng, 1, 20) for number in range(12)}
    for request_id, prompt in prompts.items():
        engine.submit(generation(request_id, prompt, 8, org="a"))
    for request_id, prompt in prompts.items():
        assert tokens_of(recorder, request_id) == expected_tokens(prompt, 8)
    assert [cached(recorder, one) for one in prompts][2:] == [96] * 10


def test_little_room_evicts_and_answers_stay_the_same(engines):
    engine = engines(prefix_tokens=5 * BLOCK)
    recorder = started(engine)
    rng = random.Random(5)
    prompts = [random_prompt(rng, 60, 200) for _ in range(4)]
    for turn in range(3):
        for number, prompt in enumerate(prompts):
            engine.submit(generation(f"{turn} {number}", prompt, 6, org="a"))
            assert tokens_of(recorder, f"{turn} {number}") == expected_tokens(prompt, 6)
    stats = engine.stats()
    assert (
        0
        < stats.prefix_used
        <= stats.prefix_total
        == 5 * BLOCK * (engine._cache.layout.bytes_per_token)
    )


def test_mixed_batches_with_joins_and_cancels_equal_generate_whoever_asks(engines):
    engine = engines(slots=6, prefill_tokens=48, prefix_tokens=600)
    recorder = started(engine)
    rng = random.Random(6)
    starts = [random_prompt(rng, 40, 100) for _ in range(3)]
    wanted = {}
    for number in range(40):
        prompt = rng.choice(starts) + random_prompt(rng, 1, 30)
        count = rng.randint(1, 30)
        wanted[str(number)] = (prompt, count)
        engine.submit(generation(str(number), prompt, count, org=rng.choice("abc")))
        engine.submit(
            generation(f"noise{number}", rng.choice(starts), 30, temperature=1.0, org="a")
        )
        time.sleep(rng.random() * 0.005)
        engine.cancel(f"noise{rng.randint(0, number)}")
    for request_id, (prompt, count) in wanted.items():
        assert tokens_of(recorder, request_id) == expected_tokens(prompt, count)
    assert sum(cached(recorder, request_id) for request_id in wanted) > 0
    recorder.wait(*(f"noise{number}" for number in range(40)))
    until(lambda: engine.stats().active == 0)
    assert all(not tensor.any() for tensor in (*engine._cache.keys, *engine._cache.values))


def test_choices_start_from_a_known_prompt(engines):
    engine = engines(slots=2, prefix_tokens=1024)
    recorder = started(engine)
    prompt = random_prompt(random.Random(7), 70, 70)
    for request_id in ("first", "again"):
        engine.submit(*choices(request_id, [prompt], 3, 5, org="a"))
        for index in range(3):
            assert tokens_of(recorder, request_id, index) == expected_tokens(prompt, 5)
    assert (cached(recorder, "first"), cached(recorder, "again")) == (0, 64)
    assert recorder.end("again").units.prompt_tokens == 70


def test_a_cache_that_breaks_ends_no_answer(engines, monkeypatch):
    engine = engines(prefix_tokens=1024)
    recorder = started(engine)

    def breaks(*arguments):
        raise RuntimeError("no memory")

    monkeypatch.setattr(engine._prefixes, "keep", breaks)
    prompt = random_prompt(random.Random(8), 70, 70)
    engine.submit(generation("one", prompt, 5, org="a"))
    assert tokens_of(recorder, "one") == expected_tokens(prompt, 5)
    assert engine.stats().prefix_used == 0


@pytest.mark.parametrize("where", ["load", "find"])
def test_a_cache_that_breaks_at_the_start_ends_no_answer(engines, monkeypatch, where):
    engine = engines(prefix_tokens=1024)
    recorder = started(engine)
    prompt = random_prompt(random.Random(9), 70, 70)
    engine.submit(generation("before", prompt, 5, org="a"))
    recorder.wait("before")

    def breaks(*arguments):
        raise RuntimeError("trouble")

    monkeypatch.setattr(engine._prefixes, where, breaks)
    engine.submit(generation("one", prompt, 5, org="a"))
    assert tokens_of(recorder, "one") == expected_tokens(prompt, 5)
    assert cached(recorder, "one") == 0


class StateCache(SlotCache):
    """Each row has a state that only its present length knows, as with recurrent layers."""

    needs_state = True
    state_bytes = 1000

    def snapshot(self, row, start, end):
        assert end == self.length(row)
        return Snapshot(self.snapshot_kv(row, start, end), self.length(row))

    def restore(self, row, snapshot):
        super().restore(row, snapshot)
        assert self.length(row) == snapshot.state


@pytest.mark.parametrize("prefill_tokens", [20, 512])
def test_rows_with_states_go_on_only_from_where_a_state_was_kept(
    engines, monkeypatch, prefill_tokens
):
    monkeypatch.setattr("tests.inference.tiny_models.SlotCache", StateCache)
    engine = engines(slots=3, prefix_tokens=4096, prefill_tokens=prefill_tokens)
    recorder = started(engine)
    rng = random.Random(10)
    shared = random_prompt(rng, 70, 70)
    for number in range(4):
        prompt = shared + random_prompt(rng, 40, 40)
        engine.submit(*choices(str(number), [prompt], 2, 8, org="a"))
        for index in range(2):
            assert tokens_of(recorder, str(number), index) == expected_tokens(prompt, 8)
        if number == 3:
            engine.submit(generation("again", prompt, 8, org="a"))
            assert tokens_of(recorder, "again") == expected_tokens(prompt, 8)
    # the second sees that others share two blocks and keeps a state there, the third starts there
    assert [cached(recorder, str(number)) for number in range(4)] == [0, 0, 64, 64]
    assert cached(recorder, "again") == 96
