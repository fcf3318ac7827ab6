"""The soak's short form; `make endure` runs the long one."""

from __future__ import annotations

from tests.inference.soak import Plan, run
from tests.inference.tiny_models import save_folder


def test_three_hundred_requests_of_any_shape_leave_nothing_behind(tmp_path):
    report = run(Plan(300, seed=3, check_every=10), save_folder(tmp_path / "tiny"))
    assert report.problems == []
    assert report.checked == 30
    assert report.completed > 100
    assert report.cancelled > 10
    assert report.cached_tokens > 0
