"""What the pages' filters make of numbers."""

from __future__ import annotations

import pytest

from casola_site.templatetags.casola import size


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "unlimited"),
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1549, "1.5 kB"),
        (999_499, "999 kB"),
        (999_999, "1 MB"),
        (999_600_000, "1 GB"),
        (50 * 10**9, "50 GB"),
        (10**12, "1 TB"),
        (10**15, "1,000 TB"),
    ],
)
def test_bytes_in_the_largest_unit_that_fits(value, shown):
    assert size(value) == shown
