"""Totals are the ledger's sums, however they came about."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import call_command
from django.db.models import Sum
from django_q.models import Schedule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.factories.accounts import make_organization, make_user
from tests.factories.tokens import make_token
from tests.factories.usage import make_consumption
from usage.background import roll_up as roll_up_task
from usage.models import MINUTES_KEPT, UNITS, TotalsMark, UsageRecord, UsageTotal
from usage.periods import STEP, Granularity, floor, window_between
from usage.selectors import GROUPS, read_usage
from usage.services import record_usage
from usage.totals import KEY, RECHECK, RECHECK_MINUTES, SETTLE, SUMS, rebuild, roll_up

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite]

BASE = datetime(2026, 3, 28, 23, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TINY = timedelta(microseconds=1)


def totals(*granularities: Granularity) -> dict:
    """Every total of hours and days (or of those given) by its period and key."""
    wanted = granularities or (Granularity.HOUR, Granularity.DAY)
    rows = UsageTotal.objects.filter(granularity__in=wanted)
    rows = rows.values_list("granularity", "start", *KEY, *SUMS)
    return {row[: 2 + len(KEY)]: row[2 + len(KEY) :] for row in rows}


def minutes() -> dict:
    """The totals of minutes that may be read."""
    until = TotalsMark.objects.get().minutes_until
    found = totals(Granularity.MINUTE)
    return {key: row for key, row in found.items() if until - MINUTES_KEPT <= key[1] < until}


def minutes_from_ledger() -> dict:
    """What `minutes` must be."""
    until = TotalsMark.objects.get().minutes_until
    return from_ledger(until, until - MINUTES_KEPT, (Granularity.MINUTE,))


def from_ledger(
    until: datetime,
    since: datetime = BASE - 9 * DAY,
    granularities: tuple = (Granularity.HOUR, Granularity.DAY),
) -> dict:
    """What `totals` must be, added up one record at a time."""
    found: dict = defaultdict(lambda: [0] * len(SUMS))
    for record in UsageRecord.objects.filter(created_at__lt=until, created_at__gte=since):
        for granularity in granularities:
            start = floor(record.created_at, granularity)
            if start + STEP[granularity] > until:
                continue
            key = (granularity.value, start, *[getattr(record, name) for name in KEY])
            values = [1, *[getattr(record, unit) for unit in UNITS], record.amount]
            found[key] = [old + new for old, new in zip(found[key], values, strict=True)]
    return {key: tuple(values) for key, values in found.items()}


def record(organization, at, **columns):
    record_usage([make_consumption(organization, at=at, **columns)])


def test_nothing_is_rolled_up_from_an_empty_ledger():
    assert roll_up(now=BASE) is None
    assert list(rebuild(now=BASE)) == []


def test_an_hour_is_rolled_up_once_it_has_settled():
    organization = make_organization()
    record(organization, BASE + HOUR - TINY)

    assert roll_up(now=BASE + HOUR + SETTLE - TINY) is None
    assert roll_up(now=BASE + HOUR + SETTLE) == BASE + HOUR
    total = UsageTotal.objects.get(granularity="hour")
    assert (total.start, total.requests, total.completion_tokens) == (BASE, 1, 1)


def test_a_day_is_rolled_up_when_its_last_hour_is():
    organization = make_organization()
    record(organization, BASE)
    record(organization, BASE + HOUR)

    roll_up(now=BASE + HOUR + SETTLE)

    day = UsageTotal.objects.get(granularity="day")
    assert (day.start, day.requests) == (BASE - 23 * HOUR, 1)
    roll_up(now=BASE + 30 * HOUR)
    assert Counter(granularity for granularity, *_ in totals()) == {"hour": 2, "day": 2}


def test_what_comes_late_is_added_with_the_next_hour():
    organization = make_organization()
    record(organization, BASE)
    roll_up(now=BASE + 2 * HOUR)
    record(organization, BASE + TINY)

    until = roll_up(now=BASE + RECHECK)

    assert totals() == from_ledger(until)
    assert UsageTotal.objects.filter(granularity="day").aggregate(n=Sum("requests"))["n"] == 2


def requests_by_minute(organization, until) -> list[int]:
    window = window_between(until - HOUR, until, Granularity.MINUTE)
    return [
        row.sums["requests"] for row in read_usage(organization=organization, window=window).rows
    ]


def test_minutes_are_rolled_up_once_they_have_settled_and_kept_for_a_while():
    organization = make_organization()
    for number in range(4):
        record(organization, BASE + number * MINUTE)

    roll_up(now=BASE + 2 * MINUTE + SETTLE)

    assert [key[1] for key in sorted(minutes())] == [BASE, BASE + MINUTE]
    assert requests_by_minute(organization, BASE + 4 * MINUTE) == [1] * 4
    for now in (BASE + MINUTES_KEPT, BASE + 9 * HOUR, BASE + 10 * HOUR):
        roll_up(now=now + SETTLE)
        assert minutes() == minutes_from_ledger()
    assert totals(Granularity.MINUTE) == {}
    assert requests_by_minute(organization, BASE + 4 * MINUTE) == [1] * 4


def test_what_comes_late_is_added_to_its_minute():
    organization = make_organization()
    record(organization, BASE)
    roll_up(now=BASE + RECHECK_MINUTES + SETTLE)
    record(organization, BASE + TINY)
    assert requests_by_minute(organization, BASE + HOUR) == [1]

    roll_up(now=BASE + RECHECK_MINUTES + SETTLE + MINUTE)
    assert requests_by_minute(organization, BASE + HOUR) == [2]

    record(organization, BASE + 2 * TINY)  # so late that the end of the hour finds it
    roll_up(now=BASE + HOUR + SETTLE)
    assert requests_by_minute(organization, BASE + HOUR) == [3]


def test_a_node_whose_clock_was_ahead_spoils_no_minute():
    organization = make_organization()
    for ahead in (SETTLE, HOUR):
        roll_up(now=BASE + SETTLE + ahead)
        record(organization, BASE + MINUTE)
        roll_up(now=BASE + SETTLE + 2 * MINUTE)
        assert minutes() == minutes_from_ledger()
        assert sum(requests_by_minute(organization, BASE + HOUR)) == UsageRecord.objects.count()


def test_rebuild_repairs_what_is_wrong_and_says_so():
    organization = make_organization()
    for hours in (0, 1, 30):
        record(organization, BASE + hours * HOUR)
    now = BASE + 60 * HOUR
    until = roll_up(now=now)
    UsageTotal.objects.filter(granularity="hour", start=BASE).update(completion_tokens=9)
    UsageTotal.objects.filter(granularity="hour", start=BASE + HOUR).delete()
    ghost = UsageTotal.objects.filter(granularity="day").first()
    ghost.pk, ghost.task = None, "ghost"
    ghost.save()
    # much later than any roll-up looks back
    record(organization, BASE + 2 * HOUR)

    found = list(rebuild(now=now))

    assert totals() == from_ledger(until)
    assert [day for day, wrong in found if wrong] == [floor(BASE, Granularity.DAY), BASE + HOUR]
    assert not any(wrong for _, wrong in rebuild(now=now))


def test_rebuild_repairs_minutes():
    organization = make_organization()
    for number in range(3):
        record(organization, BASE + number * MINUTE)
    now = BASE + 30 * MINUTE
    roll_up(now=now)
    rows = UsageTotal.objects.filter(granularity="minute")
    rows.filter(start=BASE).update(completion_tokens=9)
    rows.filter(start=BASE + MINUTE).delete()

    assert list(rebuild(now=now)) == [(floor(BASE, Granularity.DAY), 2)]
    assert minutes() == minutes_from_ledger()
    assert list(rebuild(now=now)) == []


def test_the_command_says_what_it_repaired():
    organization = make_organization()
    record(organization, BASE)
    first, second = StringIO(), StringIO()
    call_command("rebuild_usage", stdout=first)
    UsageTotal.objects.filter(granularity="day").delete()
    call_command("rebuild_usage", stdout=second)

    assert first.getvalue().endswith(", 0 totals repaired\n")
    assert "2026-03-28: 1 totals repaired" in second.getvalue()


def test_the_queue_rolls_up_every_few_minutes():
    organization = make_organization()
    record(organization, BASE)
    row = Schedule.objects.get(func="usage.background.roll_up")

    assert (row.schedule_type, row.repeats, row.cluster) == (Schedule.MINUTES, -1, "default")
    roll_up_task()
    assert TotalsMark.objects.get().until > BASE


ZONES = st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours, minutes=30)))
EDGES = st.sampled_from([-TINY, timedelta(0), TINY, timedelta(minutes=29)])
MOMENTS = st.builds(
    lambda hours, edge, zone: (BASE + hours * HOUR + edge).astimezone(zone),
    st.integers(0, 50),
    EDGES,
    ZONES,
)
UNIT_COUNTS = st.dictionaries(st.sampled_from(UNITS), st.integers(0, 10**12), max_size=4)
RECORDS = st.fixed_dictionaries(
    {
        "organization": st.integers(0, 1),
        "at": MOMENTS,
        "model_id": st.sampled_from(["a", "b/c"]),
        "status": st.sampled_from(["completed", "failed", "cancelled"]),
        "who": st.integers(0, 2),
        "units": UNIT_COUNTS,
        "price": st.sampled_from(["0", "0.000000001", "0.3"]),
        "charged": st.booleans(),
    }
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    records=st.lists(RECORDS, max_size=12),
    rolls=st.lists(st.integers(0, 12), max_size=3, unique=True),
    data=st.data(),
)
def test_rolled_up_by_and_by_is_rebuilt_is_the_ledger(db, records, rolls, data):
    UsageTotal.objects.all().delete()
    UsageRecord.objects.all().delete()
    TotalsMark.objects.all().delete()
    organizations = [make_organization(), make_organization()]
    people = [
        [
            (None, None),
            (make_token(organization=one)[0].pk, None),
            (make_token(organization=one)[0].pk, make_user().pk),
        ]
        for one in organizations
    ]
    records = sorted(records, key=lambda item: item["at"])
    for number, item in enumerate(records):
        item = dict(item)
        place, who, price = item.pop("organization"), item.pop("who"), item.pop("price")
        token, user = people[place][who]
        prices = {unit: [price, 1000] for unit in item["units"]}
        columns = {"token_id": token, "user_id": user, "prices": prices}
        record(organizations[place], **item, **columns)
        if number in rolls:
            roll_up(now=item["at"] + SETTLE)
    until = roll_up(now=BASE + 60 * HOUR)

    kept = totals()
    assert kept == (from_ledger(until) if until else {})
    last = max((item["at"] for item in records), default=BASE)
    TotalsMark.objects.update(minutes_until=None)
    roll_up(now=last + SETTLE + data.draw(st.sampled_from([TINY, MINUTE, HOUR])))
    assert minutes() == minutes_from_ledger()
    assert not any(wrong for _, wrong in rebuild(now=BASE + 60 * HOUR))
    UsageTotal.objects.all().delete()
    TotalsMark.objects.all().delete()
    roll_up(now=BASE + 60 * HOUR)
    assert totals() == kept

    granularity = data.draw(st.sampled_from([Granularity.HOUR, Granularity.DAY]))
    roll_up(now=last + SETTLE + MINUTE)
    groups = data.draw(st.lists(st.sampled_from(sorted(GROUPS)), unique=True, max_size=3))
    window = window_between(
        BASE + data.draw(st.integers(0, 40)) * HOUR, BASE + 53 * HOUR, granularity
    )
    mark = data.draw(st.sampled_from([None, BASE + 5 * HOUR, BASE + 25 * HOUR, until]))
    TotalsMark.objects.update(until=mark)
    check_reading(organizations[0], window, groups)
    window = window_between(last - 4 * HOUR, last + HOUR, Granularity.MINUTE)
    check_reading(organizations[0], window, groups)


def check_reading(organization, window, groups) -> None:
    """Reading by groups is adding up the records of the window, wherever the mark stands."""
    usage = read_usage(organization=organization, window=window, groups=groups)
    expected: dict = defaultdict(lambda: [0, 0, 0, Decimal(0)])
    rows = UsageRecord.objects.select_related("token", "user").filter(
        organization=organization, created_at__gte=window.start, created_at__lt=window.end
    )
    shown = {
        "token": lambda row: row.token and row.token.public_id,
        "member": lambda row: row.user and row.user.public_id,
        "model": lambda row: row.model_id,
    }
    for row in rows:
        names = [shown.get(g, lambda row, g=g: getattr(row, g))(row) for g in groups]
        sums = expected[(floor(row.created_at, window.granularity), *names)]
        sums[0] += 1
        sums[1] += row.status == "failed"
        sums[2] += row.compute_ms
        sums[3] += row.amount
    found = {
        (row.start, *row.groups): [
            row.sums[name] for name in ("requests", "failed", "compute_ms", "amount")
        ]
        for row in usage.rows
    }
    assert found == dict(expected)
    assert usage.totals()["requests"] == len(rows)
    filled = usage.filled()
    assert len(filled) == usage.filled_size()
    assert sum(row.sums["requests"] for row in filled) == len(rows)
