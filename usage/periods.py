"""Minutes, hours and days of UTC, and the windows that a usage answer covers (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum


class Granularity(StrEnum):
    """How long one bucket of a window is."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


STEP = {
    Granularity.MINUTE: timedelta(minutes=1),
    Granularity.HOUR: timedelta(hours=1),
    Granularity.DAY: timedelta(days=1),
}
# What the usage page offers: how many buckets of which length, the last one being the present one.
RANGES = {
    "1h": (Granularity.MINUTE, 60),
    "6h": (Granularity.HOUR, 6),
    "24h": (Granularity.HOUR, 24),
    "7d": (Granularity.DAY, 7),
    "30d": (Granularity.DAY, 30),
    "90d": (Granularity.DAY, 90),
}
MAX_BUCKETS = {Granularity.MINUTE: 360, Granularity.HOUR: 744, Granularity.DAY: 366}


def floor(moment: datetime, granularity: Granularity) -> datetime:
    """The start of the bucket that holds an aware moment, in UTC."""
    moment = moment.astimezone(UTC).replace(second=0, microsecond=0)
    if granularity is Granularity.MINUTE:
        return moment
    moment = moment.replace(minute=0)
    return moment if granularity is Granularity.HOUR else moment.replace(hour=0)


def ceiling(moment: datetime, granularity: Granularity) -> datetime:
    """The first bucket's start at or after the moment."""
    start = floor(moment, granularity)
    return start if start == moment else start + STEP[granularity]


@dataclass(frozen=True, slots=True)
class Window:
    """Whole buckets from `start` (inside) to `end` (outside)."""

    start: datetime
    end: datetime
    granularity: Granularity

    def buckets(self) -> list[datetime]:
        """The start of each."""
        step = STEP[self.granularity]
        return [self.start + step * number for number in range(self.size)]

    @property
    def size(self) -> int:
        """How many buckets."""
        return (self.end - self.start) // STEP[self.granularity]


def window_of_range(name: str, now: datetime) -> Window:
    """The window that a name of RANGES means at this moment. Raises KeyError."""
    granularity, count = RANGES[name]
    end = floor(now, granularity) + STEP[granularity]
    return Window(end - STEP[granularity] * count, end, granularity)


def window_between(start: datetime, end: datetime, granularity: Granularity) -> Window:
    """The buckets that hold [start, end)."""
    return Window(floor(start, granularity), ceiling(end, granularity), granularity)
