"""UsageTotals: sums of the ledger over closed minutes, hours and days.

Finishing a Job writes the ledger alone. A periodic task adds up what has closed since the last
time; reads take what lies before the marks from the totals and the rest from the ledger. A period
before its mark is only ever replaced by a truer sum in one transaction, so a read needs no lock and
no snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count, Min, Model, QuerySet, Sum

from usage.models import MINUTES_KEPT, UNITS, TotalsMark, UsageRecord, UsageTotal
from usage.periods import STEP, Granularity, floor
from usage.selectors import money, truncated

# A minute or an hour is closed this long after its end: ends are stamped by their hosts' clocks and
# committed a moment later.
SETTLE = timedelta(minutes=5)
# How much before the mark is added up once more each time, for what came later still.
RECHECK = timedelta(hours=3)
RECHECK_MINUTES = timedelta(minutes=10)  # all that are kept whenever an hour has closed
AT_ONCE = timedelta(minutes=10)  # of the ledger by minute
# A read that began while a minute was still kept is over when its totals are deleted.
DELETE_AFTER = timedelta(hours=1)
BATCH = 500

KEY = ("organization_id", "model_id", "task", "token_id", "user_id", "status")
SUMS = ("requests", *UNITS, "amount")
Rows = dict[tuple[Any, ...], tuple[Any, ...]]


def roll_up(*, now: datetime) -> datetime | None:
    """Add up what has closed; returns the mark of hours (None: the ledger holds none)."""
    closed, before = floor(now - SETTLE, Granularity.HOUR), _mark().until
    while _step(closed):
        pass
    until = _mark().until
    _refresh_minutes(floor(now - SETTLE, Granularity.MINUTE), all_kept=until != before)
    return until


def _step(closed: datetime) -> bool:
    """Move the mark to the end of its day or to `closed`; returns whether more is left."""
    with transaction.atomic():
        mark = _mark(lock=True)
        begin = mark.until or _first(UsageRecord, "created_at")
        if begin is None or begin >= closed:
            return False
        end = min(closed, floor(begin, Granularity.DAY) + STEP[Granularity.DAY])
        _refresh(begin - RECHECK, end)
        mark.until = end
        mark.save()
        return end < closed


def rebuild(*, now: datetime) -> Iterator[tuple[datetime, int]]:
    """Add up everything again, day by day; yields each day and how many totals were wrong.

    Brings the totals up to date first, so that a healthy ledger yields zeros alone. The minutes that
    are kept count with the day in which they end.
    """
    until = roll_up(now=now)
    minutes = floor(now - SETTLE, Granularity.MINUTE)
    if wrong := _refresh_minutes(minutes, all_kept=True):
        yield floor(minutes, Granularity.DAY), wrong
    found = [_first(UsageRecord, "created_at"), _first(UsageTotal, "start")]
    known = [moment for moment in found if moment is not None]
    if until is None or not known:
        return
    day = floor(min(known), Granularity.DAY)
    while day < until:
        with transaction.atomic():
            _mark(lock=True)
            after = day + STEP[Granularity.DAY]
            yield day, _refresh(day, min(after, until))
        day = after


def _mark(*, lock: bool = False) -> TotalsMark:
    rows = TotalsMark.objects.select_for_update() if lock else TotalsMark.objects
    return rows.get_or_create(pk=1)[0]


def _first(model: type[Model], column: str) -> datetime | None:
    found = model._default_manager.aggregate(first=Min(column))["first"]
    return None if found is None else floor(found, Granularity.HOUR)


def _refresh(start: datetime, end: datetime) -> int:
    """Make the totals of [start, end) and of the days it closes right; returns the rows changed."""
    first_day, last_day = floor(start, Granularity.DAY), floor(end, Granularity.DAY)
    changed = _replace(
        UsageTotal.objects.filter(granularity=Granularity.HOUR, start__gte=start, start__lt=end),
        sums(UsageRecord.objects.filter(created_at__gte=start, created_at__lt=end)),
        Granularity.HOUR,
    )
    hours = UsageTotal.objects.filter(
        granularity=Granularity.HOUR, start__gte=first_day, start__lt=last_day
    )
    days = UsageTotal.objects.filter(
        granularity=Granularity.DAY, start__gte=first_day, start__lt=last_day
    )
    return changed + _replace(days, sums(hours, granularity=Granularity.DAY), Granularity.DAY)


@transaction.atomic
def _refresh_minutes(closed: datetime, *, all_kept: bool) -> int:
    """Move the mark of minutes to `closed`; returns the rows changed."""
    mark = _mark(lock=True)
    old = mark.minutes_until
    if old is not None and closed < old <= closed + SETTLE:  # by a clock that is a little ahead
        closed = old
    since = closed - MINUTES_KEPT
    is_sound = old is not None and old <= closed and not all_kept
    begin = max(since, old - RECHECK_MINUTES) if is_sound else since
    changed = 0
    while begin < closed:
        end = min(begin + AT_ONCE, closed)
        minutes = UsageTotal.objects.filter(
            granularity=Granularity.MINUTE, start__gte=begin, start__lt=end
        )
        records = UsageRecord.objects.filter(created_at__gte=begin, created_at__lt=end)
        changed += _replace(minutes, sums(records, Granularity.MINUTE), Granularity.MINUTE)
        begin = end
    mark.minutes_until = closed
    mark.save()
    gone = min(old or since, since) - MINUTES_KEPT - DELETE_AFTER
    UsageTotal.objects.filter(granularity=Granularity.MINUTE, start__lt=gone).delete()
    return changed


def sums(rows: QuerySet, granularity: Granularity = Granularity.HOUR) -> Rows:
    """The sums of UsageRecords or UsageTotals by bucket and KEY."""
    counted = Count("pk") if rows.model is UsageRecord else Sum("requests")
    found = (
        rows.order_by()
        .annotate(bucket=truncated(rows.model, granularity))
        .values_list("bucket", *KEY)
        .annotate(counted, *[Sum(name) for name in (*UNITS, "amount")])
    )
    width = 1 + len(KEY)
    return {row[:width]: _exact(row[width:]) for row in found}


def _exact(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*[int(value) for value in values[:-1]], money(values[-1]))


def _replace(old: QuerySet, fresh: Rows, granularity: Granularity) -> int:
    """Delete the totals that are wrong and insert those that are missing."""
    wrong = []
    for row in old.values_list("pk", "start", *KEY, *SUMS).iterator():
        key, values = row[1 : 2 + len(KEY)], _exact(row[2 + len(KEY) :])
        if fresh.get(key) == values:
            del fresh[key]
        else:
            wrong.append((row[0], key))
    for first in range(0, len(wrong), BATCH):
        pks = [pk for pk, _ in wrong[first : first + BATCH]]
        UsageTotal.objects.filter(pk__in=pks).delete()
    names = ("start", *KEY, *SUMS)
    UsageTotal.objects.bulk_create(
        [
            UsageTotal(granularity=granularity, **dict(zip(names, (*key, *values), strict=True)))
            for key, values in fresh.items()
        ],
        batch_size=BATCH,
    )
    return len({key for _, key in wrong} | set(fresh))
