"""The usage answer: shape, windows, groups, refusals, CSV."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.test import Client

from tests.factories.accounts import make_organization, make_user
from tests.factories.tokens import make_token
from tests.factories.usage import make_consumption
from usage.api import views
from usage.selectors import MEASURES
from usage.services import record_usage
from usage.totals import roll_up

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]

NOW = datetime(2026, 3, 29, 1, 30, 15, tzinfo=UTC)
PRICES = {"completion_tokens": ["0.000000007", 1]}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(views, "now", lambda: NOW)


class Caller:
    """An organization, its admin token, and its records."""

    def __init__(self) -> None:
        self.organization = make_organization()
        self.user = make_user()
        self.token, self.secret = make_token(
            organization=self.organization, scopes=["admin:read"], is_service_account=True
        )

    def record(self, at=NOW, **columns) -> None:
        columns.setdefault("prices", PRICES)
        record_usage([make_consumption(self.organization, at=at, **columns)])

    def get(self, query: str = "", organization=None):
        organization_id = (organization or self.organization).public_id
        return Client().get(
            f"/api/organizations/{organization_id}/usage{query}",
            headers={"Authorization": f"Bearer {self.secret}"},
        )

    def usage(self, query: str = "") -> dict:
        answer = self.get(query)
        assert answer.status_code == 200, answer.content
        return answer.json()["usage"]

    def csv(self, query: str = "?format=csv") -> list[dict[str, str]]:
        answer = self.get(query)
        assert answer.status_code == 200
        assert answer["Content-Type"] == "text/csv; charset=utf-8"
        return list(csv.DictReader(io.StringIO(b"".join(answer).decode())))


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_the_answer_has_this_shape(caller):
    caller.record(units={"completion_tokens": 3, "compute_ms": 40})

    usage = caller.usage("?range=6h")

    start = int(datetime(2026, 3, 28, 20, tzinfo=UTC).timestamp())
    sums = {
        **dict.fromkeys(MEASURES, 0),
        "requests": 1,
        "completed": 1,
        "completion_tokens": 3,
        "compute_ms": 40,
        "amount": "0.000000021",
        "currency": "USD",
    }
    nothing = {**dict.fromkeys(MEASURES, 0), "amount": "0.000000000", "currency": "USD"}
    data = usage.pop("data")
    assert usage == {
        "organization_id": caller.organization.public_id,
        "start": start,
        "end": start + 6 * 3600,
        "granularity": "hour",
        "totals": sums,
    }
    assert data == [
        *[{"start": start + hour * 3600, **nothing} for hour in range(5)],
        {"start": start + 5 * 3600, **sums},
    ]


@pytest.mark.parametrize(
    ("query", "granularity", "buckets"),
    [
        ("?range=1h", "minute", 60),
        ("?range=6h", "hour", 6),
        ("?range=24h", "hour", 24),
        ("?range=7d", "day", 7),
        ("", "day", 30),
        ("?range=90d&granularity=day", "day", 90),
        ("?start=2026-03-01&end=2026-03-03", "day", 2),
        ("?start=2026-03-28&granularity=hour", "hour", 26),
        ("?start=2026-03-29T01:00:30Z&end=1774747920&granularity=minute", "minute", 32),
        ("?start=2026-03-29T03:00:00+02:00&granularity=minute", "minute", 31),
        ("?start=2026-03-29T03:00:00%2B02:00&granularity=minute", "minute", 31),
    ],
)
def test_each_window_has_all_its_buckets(caller, query, granularity, buckets):
    usage = caller.usage(query)

    assert usage["granularity"] == granularity
    assert len(usage["data"]) == buckets
    starts = [row["start"] for row in usage["data"]]
    assert starts[0] == usage["start"]
    assert starts == sorted(set(starts))
    assert usage["totals"]["requests"] == 0


@pytest.mark.parametrize("group_by", ["model", "task", "token", "member", "status", "day", ""])
def test_groups_add_up_to_the_totals(caller, group_by):
    for number in range(4):
        caller.record(
            at=NOW - timedelta(days=number // 2, minutes=number),
            model_id=f"model-{number % 2}",
            task=f"task-{number}",
            token_id=caller.token.pk if number else None,
            user_id=caller.user.pk if number > 1 else None,
            status=["completed", "failed", "cancelled", "completed"][number],
        )
    roll_up(now=NOW)

    usage = caller.usage(f"?range=7d&group_by={group_by}")

    for name in MEASURES[:-1]:
        assert sum(row[name] for row in usage["data"]) == usage["totals"][name]
    counts = [usage["totals"][name] for name in MEASURES[:4]]
    assert counts == [4, 2, 1, 1]
    assert sum(Decimal(row["amount"]) for row in usage["data"]) == Decimal("0.000000028")
    values = {
        "model": {"model-0", "model-1"},
        "task": {f"task-{number}" for number in range(4)},
        "token": {None, caller.token.public_id},
        "member": {None, caller.user.public_id},
        "status": {"completed", "failed", "cancelled"},
    }
    if group_by in values:
        assert {row[group_by] for row in usage["data"]} == values[group_by]
        assert len(usage["data"]) == 7 * len(values[group_by])
    else:
        assert len(usage["data"]) == 7


def test_several_groups_at_once(caller):
    caller.record(model_id="a", status="failed")
    caller.record(model_id="b")

    usage = caller.usage("?range=6h&group_by=model,status")

    found = [(row["model"], row["status"]) for row in usage["data"] if row["requests"]]
    assert found == [("a", "failed"), ("b", "completed")]
    assert len(usage["data"]) == 12


def test_a_record_is_seen_at_once(caller):
    for count in range(3):
        for name in ("1h", "6h", "24h", "7d", "30d", "90d"):
            assert caller.usage(f"?range={name}")["totals"]["requests"] == count
        caller.record()


def test_only_the_own_organization_counts(caller):
    other = Caller()
    other.record()
    other.record(at=NOW - timedelta(days=2))
    roll_up(now=NOW)

    assert caller.usage("?group_by=token")["data"] == []
    assert caller.usage()["totals"]["requests"] == 0
    refused = caller.get(organization=other.organization)
    assert refused.status_code == 404
    assert refused.json()["error"]["message"] == "Organization not found"


def test_csv_has_the_same_sums(caller):
    for number in range(1201):
        caller.record(
            at=NOW - timedelta(hours=number % 150), model_id=f"m{number % 13}", task=f"t{number}"
        )
    roll_up(now=NOW)

    rows = caller.csv("?range=90d&group_by=model,task&format=csv")

    data = caller.usage("?range=90d&group_by=model")["data"]
    assert len(rows) == 1201
    names = ["start", "start_at", "model", "task", *MEASURES, "currency"]
    assert list(rows[0]) == names
    for name in MEASURES:
        assert sum(Decimal(row[name]) for row in rows) == sum(Decimal(row[name]) for row in data)
    assert rows[0]["start_at"] == "2026-03-22T00:00:00Z"
    assert int(rows[0]["start"]) == datetime(2026, 3, 22, tzinfo=UTC).timestamp()


def test_csv_without_usage_is_its_header(caller):
    answer = caller.get("?format=csv&range=7d")

    assert b"".join(answer) == ",".join(["start,start_at", *MEASURES, "currency\r\n"]).encode()
    assert "usage-2026-03-23-day.csv" in answer["Content-Disposition"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("range=2h", "range"),
        ("range=", "range"),
        ("range=1h&start=2026-03-28", "range"),
        ("range=1h&granularity=day", "granularity"),
        ("start=2026-03-28&granularity=week", "granularity"),
        ("start=2026-03-28&granularity=minute", "granularity"),
        ("start=2026-01-28&granularity=hour", "granularity"),
        ("start=2024-01-28", "granularity"),
        ("end=2026-03-28", "start"),
        ("start=yesterday", "start"),
        ("start=", "start"),
        ("start=2026-02-30", "start"),
        ("start=2026-03-28T00:00:00", "start"),
        ("start=-5", "start"),
        ("start=1.5", "start"),
        ("start=0", "start"),
        ("start=9999999999", "start"),
        ("start=0001-01-01T00:00:00%2B14:00", "start"),
        ("start=%D9%A1%D9%A2%D9%A3", "start"),
        ("start=2026-03-28%00", "start"),
        ("start=2026-03-30", "start"),
        ("start=2026-03-28&end=2026-03-28", "end"),
        ("start=2026-03-28&end=2026-03-27", "end"),
        ("start=2026-03-28&end=soon", "end"),
        ("group_by=colour", "group_by"),
        ("group_by=model,", "group_by"),
        ("group_by=model,model", "group_by"),
        ("group_by=model%00", "group_by"),
        ("group_by=" + "model," * 50, "group_by"),
        ("range=24h&group_by=day", "group_by"),
        ("format=xml", "format"),
    ],
)
def test_a_wrong_parameter_is_named(caller, query, param):
    answer = caller.get("?" + query)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", param)


def test_too_many_rows_are_refused_and_given_as_csv(caller, monkeypatch):
    monkeypatch.setattr(views, "MAX_ROWS", 13)
    for number in range(2):
        caller.record(model_id=f"m{number}")

    assert len(caller.usage("?range=6h&group_by=model")["data"]) == 12
    caller.record(model_id="m2")
    answer = caller.get("?range=6h&group_by=model")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "group_by")
    assert len(caller.csv("?range=6h&group_by=model&format=csv")) == 3
