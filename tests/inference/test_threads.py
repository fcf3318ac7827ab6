"""Threads of a step: as many as pay, and all of them for long prompts."""

from __future__ import annotations

import time

import pytest
import torch

from inference.runners.attention import Chunk
from inference.runners.threads import MANY_TOKENS, ThreadedForward, enough_threads


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("best", "most", "found"), [(1, 8, 1), (2, 8, 2), (8, 8, 8), (8, 6, 6)])
def test_more_threads_are_taken_as_long_as_they_pay(monkeypatch, best, most, found):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    used = []

    def step():
        used.append(torch.get_num_threads())
        clock[0] += 1 / min(best, used[-1])

    before = torch.get_num_threads()
    assert enough_threads(step, most) == found
    assert torch.get_num_threads() == before
    assert max(used) <= most


class Seen:
    def __init__(self):
        self.threads = []

    def run(self, decoding, chunks, prefilling, fed=None):
        self.threads.append(torch.get_num_threads())
        return torch.zeros(1)


def test_long_prompts_get_all_threads():
    seen = Seen()
    forward = ThreadedForward(seen, few=1, many=2)
    forward.run([object()] * 8, [], [])
    forward.run([], [Chunk(0, 0, MANY_TOKENS)], [object()])
    forward.run([object()], [Chunk(1, 0, 10)], [object()])
    assert seen.threads == [1, 2, 1]
