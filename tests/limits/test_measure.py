"""The measure is worth something: it sees one admission too many, and one too few."""

from __future__ import annotations

import pytest

from tests.limits.measure import Journal, Tenant, fullest_window, most_within
from usage.limits import RateClass

EVERY = {(url, token) for url in ("a", "b") for token in (0, 1)}


def journal(moments: list[float], limit: int = 3) -> Journal:
    """Calls that took 0.1 s each, noted in their middle."""
    return Journal(
        Tenant("free", "org_1", ("one", "two")),
        RateClass.API_REQUEST,
        limit,
        sent=[moment - 0.05 for moment in moments],
        received=[moment + 0.05 for moment in moments],
        callers=set(EVERY),
        noted={str(index).encode(): moment for index, moment in enumerate(moments)},
    )


def test_a_limit_that_is_kept_and_reached():
    assert journal([0, 1, 2, 60.1, 61.1, 62.1]).violations() == []


@pytest.mark.parametrize(
    ("moments", "fullest"),
    [
        ([0, 1, 2, 59.9, 61.1, 62.1], 4),  # across the edge
        ([0, 1, 2, 60.0, 61.1], 4),  # both ends of a window belong to it
        ([0, 1, 61, 62, 122], 2),
    ],
)
def test_one_too_many_or_too_few_is_seen(moments, fullest):
    (found,) = [text for text in journal(moments).violations() if "fullest" in text]
    assert found == f"free api_request: the fullest 60 s held {fullest}, not 3"


def test_the_callers_own_clock_sees_it_too():
    found = journal([0, 1, 2, 30])
    found.noted = {}
    assert "free api_request: callers saw 4 within 60 s" in found.violations()


def test_what_is_answered_must_be_noted():
    found = journal([0, 1, 2, 60.1, 61.1, 62.1])
    del found.noted[b"5"]
    assert found.violations() == ["free api_request: 6 answered, 5 noted"]


def test_a_run_that_proves_nothing_is_no_pass():
    assert journal([0, 1, 2]).violations() == ["free api_request: no window's edge was passed"]
    quiet = journal([0, 1, 2, 60.1])
    quiet.callers = {("a", 0)}
    assert len(quiet.violations()) == 1


def test_the_bounds():
    assert fullest_window([]) == most_within([], []) == 0
    assert fullest_window([0, 10, 20, 25], seconds=15) == 3
    # A call that began before the window, or ended after it, may have been counted outside.
    assert most_within([0, 10, 20], [5, 12, 40], seconds=15) == 2
