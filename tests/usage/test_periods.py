"""Buckets and windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.periods import (
    RANGES,
    STEP,
    Granularity,
    ceiling,
    floor,
    window_between,
    window_of_range,
)

NOW = datetime(2026, 3, 29, 1, 30, 15, 7, tzinfo=UTC)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.builds(
    lambda second, zone: datetime.fromtimestamp(second, zone),
    st.floats(1_600_000_000, 1_900_000_000),
    ZONES,
)


@given(MOMENTS, st.sampled_from(Granularity))
def test_floor_and_ceiling_enclose_a_moment(moment, granularity):
    start, end = floor(moment, granularity), ceiling(moment, granularity)

    assert start <= moment <= end
    assert end - start in (timedelta(0), STEP[granularity])
    assert start.timestamp() % STEP[granularity].total_seconds() == 0
    assert floor(moment.astimezone(UTC), granularity) == start


@pytest.mark.parametrize("name", RANGES)
def test_a_range_ends_with_the_present_bucket(name):
    window = window_of_range(name, NOW)

    assert window.size == len(window.buckets()) == RANGES[name][1]
    assert window.buckets()[-1] <= NOW < window.end
    assert window.buckets()[0] == window.start


def test_a_window_is_moved_outwards_to_whole_buckets():
    window = window_between(NOW, NOW + timedelta(hours=1), Granularity.HOUR)

    assert window.start == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert window.end == datetime(2026, 3, 29, 3, tzinfo=UTC)
    assert window.size == 2
