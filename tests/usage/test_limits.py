"""The sliding window of one process and the headers (pure)."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.limits import UNLIMITED, WINDOW_SECONDS, Caps, Decision, LocalWindow

GAPS = st.lists(st.sampled_from([0.0, 0.5, 7.0, 20.0, 59.5, 60.0, 60.5]), max_size=60)


def test_a_window_admits_its_limit_and_says_how_long_to_wait():
    window = LocalWindow()

    assert window.admit("a", 2, 100.0) == Decision(True, 2, 1, 60.0)
    assert window.admit("a", 2, 110.0) == Decision(True, 2, 0, 50.0)
    assert window.admit("a", 2, 120.0) == Decision(False, 2, 0, 40.0)
    assert window.admit("a", 2, 160.5) == Decision(True, 2, 0, 9.5)


def test_keys_do_not_share_a_window():
    window = LocalWindow()
    window.admit("a", 1, 0.0)

    assert window.admit("b", 1, 0.0).admitted
    assert not window.admit("a", 1, 0.0).admitted


def test_a_limit_of_nothing_admits_nothing():
    assert LocalWindow().admit("a", 0, 5.0) == Decision(False, 0, 0, 60.0)


@given(GAPS, st.integers(1, 5))
def test_no_sixty_seconds_admit_more_than_the_limit(gaps, limit):
    window, now, admitted = LocalWindow(), 0.0, []
    for gap in gaps:
        now += gap
        decision = window.admit("a", limit, now)
        last = [moment for moment in admitted if moment >= now - WINDOW_SECONDS]
        assert decision.admitted == (len(last) < limit)
        if decision.admitted:
            admitted.append(now)
            assert decision.remaining == limit - len(last) - 1
        else:
            assert 0 <= decision.reset_seconds <= WINDOW_SECONDS


def test_threads_together_get_the_limit():
    window, gate, admitted = LocalWindow(), threading.Barrier(16), []

    def knock():
        gate.wait()
        admitted.extend(window.admit("a", 500, 1.0).admitted for _ in range(100))

    threads = [threading.Thread(target=knock) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(admitted), sum(admitted)) == (1600, 500)


def test_windows_that_are_over_take_no_memory():
    window = LocalWindow()
    for number in range(20_000):
        window.admit(f"address-{number}", 1, number * 0.1)

    assert len(window.admitted) < 11_000


def test_the_headers():
    assert Decision(True, 60, 59, 12.0).headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "12s",
    }


def test_an_unlimited_plan_has_no_headers():
    assert UNLIMITED.headers() == {}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (-1.0, "0s"), (0.4, "1s"), (59.2, "60s")]
)
def test_the_reset_header_is_never_too_early(seconds, text):
    assert Decision(True, 1, 0, seconds).headers()["x-ratelimit-reset-requests"] == text


def test_a_process_alone_has_its_share_of_the_caps():
    caps = Caps(running=20, streams=None, waiting=3, plan="Pro")

    assert caps.share(1) == caps
    assert caps.share(8) == Caps(running=2, streams=None, waiting=1, plan="Pro")
    assert Caps(0, 1, 5, "x").share(2) == Caps(0, 1, 2, "x")
