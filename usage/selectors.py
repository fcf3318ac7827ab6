"""What an Organization has used: closed periods from the totals, the rest from the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db.models import Count, Model, Q, QuerySet, Sum
from django.db.models.functions import Trunc

from accounts.models import Organization, User
from tokens.models import ApiToken
from usage.models import MINUTES_KEPT, UNITS, TotalsMark, UsageRecord, UsageTotal
from usage.periods import Granularity, Window, floor

# What usage can be grouped by, and the column of it.
GROUPS = {
    "model": "model_id",
    "task": "task",
    "token": "token_id",
    "member": "user_id",
    "status": "status",
}
NAMED = {"token": ApiToken, "member": User}  # shown by their public ids
STATUSES = ("completed", "failed", "cancelled")
MEASURES = ("requests", *STATUSES, *UNITS, "amount")
Sums = dict[str, Any]
NANO = Decimal("0.000000001")


def money(value: Decimal) -> Decimal:
    """To nine places, exactly: SQLite adds up in floats."""
    return Decimal(value).quantize(NANO)


def truncated(model: type[Model], granularity: Granularity) -> Trunc:
    """The start of the bucket of a UsageRecord or UsageTotal."""
    return Trunc("created_at" if model is UsageRecord else "start", granularity.value, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Row:
    """The sums of one bucket and one value of each group."""

    start: datetime
    groups: tuple[str | None, ...]
    sums: Sums


@dataclass(frozen=True, slots=True)
class Usage:
    """An Organization's usage over a window: only buckets and groups in which there was any."""

    window: Window
    groups: tuple[str, ...]
    rows: list[Row]

    def totals(self) -> Sums:
        """The sums over all rows."""
        return add_up(row.sums for row in self.rows)

    def values(self) -> list[tuple[str | None, ...]]:
        """The combinations of group values that occur, in order; without groups the empty one."""
        return sorted({row.groups for row in self.rows}, key=_order) if self.groups else [()]

    def filled_size(self) -> int:
        """How many rows `filled` gives."""
        return self.window.size * len(self.values())

    def filled(self) -> list[Row]:
        """A row for every bucket and every combination that occurs, zeros where nothing was."""
        found = {(row.start, row.groups): row for row in self.rows}
        values = self.values()
        return [
            found.get((start, value)) or Row(start, value, no_sums())
            for start in self.window.buckets()
            for value in values
        ]


def no_sums() -> Sums:
    """Zeros."""
    return {**dict.fromkeys(MEASURES, 0), "amount": money(Decimal(0))}


def add_up(parts: Iterable[Sums]) -> Sums:
    """The sum of sums."""
    total = no_sums()
    for part in parts:
        for name in MEASURES:
            total[name] += part[name]
    return total


def read_usage(*, organization: Organization, window: Window, groups: Sequence[str] = ()) -> Usage:
    """The usage over the window by bucket and by each of `groups`, in that order."""
    columns = [GROUPS[group] for group in groups]
    found: dict[tuple[Any, ...], Sums] = {}
    for part in _parts(organization, window):
        for row in _summed(part, window.granularity, columns):
            key, sums = row[: 1 + len(columns)], _sums(row[1 + len(columns) :])
            found[key] = add_up((found[key], sums)) if key in found else sums
    named = _public_ids(groups, found)
    rows = [Row(key[0], named(key[1:]), sums) for key, sums in found.items()]
    rows.sort(key=lambda row: (row.start, _order(row.groups)))
    return Usage(window, tuple(groups), rows)


def _order(values: tuple[str | None, ...]) -> list[tuple[bool, str]]:
    return [(value is not None, value or "") for value in values]


def _parts(organization: Organization, window: Window) -> list[QuerySet]:
    """Days, hours, minutes and records that together hold the window once.

    What lies before a mark is in the totals whatever happens while these are read.
    """
    start, end = window.start, window.end
    mark = TotalsMark.objects.first() or TotalsMark()
    days = hours = start
    if window.granularity is not Granularity.MINUTE and mark.until is not None:
        hours = min(end, max(start, mark.until))
    if window.granularity is Granularity.DAY:
        days = max(start, floor(hours, Granularity.DAY))
    since = until = hours
    if mark.minutes_until is not None:
        since = min(end, max(hours, mark.minutes_until - MINUTES_KEPT))
        until = min(end, max(since, mark.minutes_until))
    totals = UsageTotal.objects.filter(organization=organization)
    records = UsageRecord.objects.filter(organization=organization)
    parts = [
        (start, days, totals.filter(granularity=Granularity.DAY), "start"),
        (days, hours, totals.filter(granularity=Granularity.HOUR), "start"),
        (hours, since, records, "created_at"),
        (since, until, totals.filter(granularity=Granularity.MINUTE), "start"),
        (until, end, records, "created_at"),
    ]
    return [
        rows.filter(**{f"{column}__gte": begin, f"{column}__lt": stop})
        for begin, stop, rows, column in parts
        if begin < stop
    ]


def _summed(rows: QuerySet, granularity: Granularity, columns: list[str]) -> QuerySet:
    def requests(**only: str) -> Count | Sum:
        condition = Q(**only) if only else None
        if rows.model is UsageRecord:
            return Count("pk", filter=condition)
        return Sum("requests", filter=condition, default=0)

    measures = {
        "sum_requests": requests(),
        **{f"sum_{status}": requests(status=status) for status in STATUSES},
        **{f"sum_{name}": Sum(name) for name in (*UNITS, "amount")},
    }
    return (
        rows.order_by()
        .annotate(bucket=truncated(rows.model, granularity))
        .values_list("bucket", *columns)
        .annotate(**measures)
    )


def _sums(values: tuple[Any, ...]) -> Sums:
    sums = {name: int(value) for name, value in zip(MEASURES[:-1], values, strict=False)}
    return {**sums, "amount": money(values[-1])}


def _public_ids(groups: Sequence[str], found: dict[tuple[Any, ...], Sums]) -> Any:
    """A function from primary keys to what an answer may show."""
    names: list[dict[Any, str] | None] = []
    for place, group in enumerate(groups, start=1):
        model = NAMED.get(group)
        if model is None:
            names.append(None)
            continue
        pks = {key[place] for key in found}
        names.append(dict(model.objects.filter(pk__in=pks).values_list("pk", "public_id")))
    return lambda values: tuple(
        value if name is None else name.get(value)
        for value, name in zip(values, names, strict=True)
    )


def last_record(organization: Organization) -> UsageRecord | None:
    """The end of the Organization's newest finished Job; None before its first one."""
    records = UsageRecord.objects.filter(organization=organization)
    return records.order_by("-created_at").first()
