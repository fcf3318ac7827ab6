"""The seed's rate table over a real minute and its edge; the long form is tests/limits/run.py."""

from __future__ import annotations

import pytest

from tests.limits.measure import make_tenants, measure, table

SECONDS = 66.0


@pytest.mark.slow
def test_free_and_pro_are_kept_and_reached_over_a_windows_edge(site):
    tenants = make_tenants(site.live, "free", "pro")

    journals = measure(
        tenants, urls=site.urls, redis_url=site.live.redis_url, seconds=SECONDS, seed=1
    )

    print(table(journals))
    assert [text for journal in journals for text in journal.violations()] == []
