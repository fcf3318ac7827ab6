"""The table of moves, the waiting times and the fair share (pure)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.enums import TERMINAL, JobStatus
from jobs.transitions import backoff_seconds, may_move, room_seconds, share

COUNTS = st.dictionaries(st.integers(1, 8), st.integers(0, 20), max_size=8)


def test_the_table_of_moves():
    allowed = {(old, new) for old in JobStatus.values for new in JobStatus.values}
    allowed = {pair for pair in allowed if may_move(*pair)}

    assert allowed == {
        ("pending", "processing"),
        ("pending", "cancelled"),
        ("pending", "failed"),
        ("processing", "pending"),
        ("processing", "completed"),
        ("processing", "failed"),
        ("processing", "cancelled"),
    }


@pytest.mark.parametrize("old", TERMINAL)
@pytest.mark.parametrize("new", JobStatus.values)
def test_nothing_leaves_a_terminal_state(old, new):
    assert not may_move(old, new)


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0), (1, 0), (2, 5), (3, 30), (9, 30)])
def test_backoff(failures, seconds):
    assert backoff_seconds(failures) == seconds


def test_share_gives_each_slot_to_the_fewest_running():
    assert share(free=4, running={1: 2, 2: 0}, waiting={1: 9, 2: 9}) == [2, 2, 1, 2]


def test_share_gives_ties_to_the_smaller_key():
    assert share(free=3, running={}, waiting={7: 5, 3: 5}) == [3, 7, 3]


@given(st.integers(0, 30), COUNTS, COUNTS)
def test_share_leaves_no_slot_empty_and_takes_no_more_than_waits(free, running, waiting):
    chosen = Counter(share(free=free, running=running, waiting=waiting))

    assert chosen.total() == min(free, sum(waiting.values()))
    assert all(chosen[key] <= waiting[key] for key in chosen)


@given(st.integers(0, 30), COUNTS, COUNTS)
def test_share_never_lets_one_pull_ahead_of_one_that_still_waits(free, running, waiting):
    chosen = Counter(share(free=free, running=running, waiting=waiting))
    after = {key: running.get(key, 0) + chosen[key] for key in waiting}

    for key in chosen:
        for other, count in waiting.items():
            if chosen[other] < count:
                assert after[key] <= after[other] + 1


@pytest.mark.parametrize(
    ("retry_after", "attempts", "seconds"),
    [
        (5, 0, 5),
        (5, 20, 5),
        (5, 21, 10),
        (5, 24, 80),
        (5, 99, 300),
        (1, 32_000, 256),
        (400, 99, 400),
    ],
)
def test_who_finds_no_room_again_and_again_comes_less_often(retry_after, attempts, seconds):
    assert room_seconds(retry_after, attempts) == seconds
