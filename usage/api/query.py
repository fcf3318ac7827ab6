"""What a usage request asks for, read from its query parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.utils.dateparse import parse_datetime

from casola_site.core.errors import InvalidRequest
from usage.periods import (
    MAX_BUCKETS,
    RANGES,
    STEP,
    Granularity,
    Window,
    window_between,
    window_of_range,
)
from usage.selectors import GROUPS

DEFAULT_RANGE = "30d"
FORMATS = ("json", "csv")
SECONDS = re.compile(r"[0-9]{1,10}")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
LONGEST = 64  # characters of a moment or a list
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which window, grouped how, answered how."""

    window: Window
    groups: tuple[str, ...]
    is_csv: bool


def read_query(params: Mapping[str, str], now: datetime) -> UsageQuery:
    """The parameters' meaning. Raises InvalidRequest, whose `param` names the wrong one."""
    shape = _one_of(params, "format", FORMATS, "json")
    window = _window(params, now)
    return UsageQuery(window, _groups(params, window), shape == "csv")


def refuse(param: str, message: str) -> InvalidRequest:
    """The 400 about one parameter."""
    return InvalidRequest(message, code="invalid_value", param=param)


def _one_of(params: Mapping[str, str], name: str, words: tuple[str, ...], default: str) -> str:
    value = params.get(name, default)
    if value not in words:
        raise refuse(name, f"{name} must be one of {', '.join(words)}")
    return value


def _window(params: Mapping[str, str], now: datetime) -> Window:
    if "start" not in params and "end" not in params:
        name = _one_of(params, "range", tuple(RANGES), DEFAULT_RANGE)
        window = window_of_range(name, now)
        if params.get("granularity", window.granularity) != window.granularity:
            raise refuse("granularity", f"range={name} is by {window.granularity}")
        return window
    if "range" in params:
        raise refuse("range", "give either range or start and end")
    if "start" not in params:
        raise refuse("start", "end needs a start")
    words = tuple(word.value for word in Granularity)
    granularity = Granularity(_one_of(params, "granularity", words, "day"))
    start = _moment(params["start"], "start", now)
    end = _moment(params["end"], "end", now) if "end" in params else now
    if end <= start:
        raise refuse("end" if "end" in params else "start", "end must be after start")
    window = window_between(start, end, granularity)
    most = MAX_BUCKETS[granularity]
    if window.size > most:
        longest = STEP[granularity] * most
        raise refuse("granularity", f"by {granularity} at most {longest} can be asked for")
    return window


def _moment(raw: str, name: str, now: datetime) -> datetime:
    """Unix seconds, an ISO date (its midnight in UTC) or an ISO time with its zone."""
    moment = _parsed(raw) if len(raw) <= LONGEST else None
    if moment is None:
        raise refuse(name, f"{name} must be Unix seconds or an ISO 8601 time with its zone")
    if not EARLIEST <= moment <= now + AHEAD:
        raise refuse(name, f"{name} must lie between 2020 and a year from now")
    return moment.astimezone(UTC)


def _parsed(raw: str) -> datetime | None:
    try:
        if SECONDS.fullmatch(raw):
            return datetime.fromtimestamp(int(raw), UTC)
        moment = parse_datetime(f"{raw}T00:00:00Z" if DATE.fullmatch(raw) else raw)
        # A `+` that was not escaped arrives as a space.
        moment = moment or parse_datetime(raw.replace(" ", "+"))
        if moment is None or moment.tzinfo is None:
            return None
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _groups(params: Mapping[str, str], window: Window) -> tuple[str, ...]:
    raw = params.get("group_by", "")
    if not raw:
        return ()
    names = raw.split(",") if len(raw) <= LONGEST else [""]
    if any(name != "day" and name not in GROUPS for name in names):
        raise refuse("group_by", f"group_by must be of day, {', '.join(GROUPS)}, with commas")
    if len(set(names)) < len(names):
        raise refuse("group_by", "group_by names one thing twice")
    if "day" in names and window.granularity is not Granularity.DAY:
        raise refuse("group_by", "group_by=day needs a range of days or granularity=day")
    return tuple(name for name in names if name != "day")
