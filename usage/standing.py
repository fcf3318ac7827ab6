"""Where an Organization stands: each of its limits, and how much of it is used at this moment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string
from redis.exceptions import RedisError

from accounts.models import Organization
from casola_site.core import redis
from usage.limits import WINDOW_SECONDS, RateClass, window_key
from usage.slot_script import is_stream, keys_of
from usage.sockets import sockets_key


@dataclass(frozen=True, slots=True)
class Standing:
    """One limit. `value` None: no limit; `used` None: not counted, or Redis is away.

    `resets_at` (Unix seconds) is when the oldest request of a minute's window leaves it.
    """

    name: str
    value: int | None
    used: int | None
    period: str | None = None
    resets_at: int | None = None


def read_standings(organization: Organization) -> list[Standing]:
    """Every limit of the Plan that something counts against."""
    plan = organization.plan
    jobs = import_string(settings.JOB_COUNTS)(organization_id=organization.pk)
    try:
        rates = _rates(organization)
        held, streams, waiting = _slots(organization)
        open_sockets = _sockets(organization)
    except RedisError:
        rates, held, streams, waiting = _away(organization), None, None, None
        open_sockets = None
    return [
        *rates,
        Standing("running_requests", plan.max_running_jobs, held),
        Standing("streams", plan.max_streams, streams),
        Standing("waiting_requests", plan.max_queued_jobs, waiting),
        Standing("sockets", plan.max_sockets, open_sockets),
        Standing("running_jobs", plan.max_running_jobs, jobs["processing"]),
        Standing("queued_jobs", plan.max_queued_jobs, jobs["pending"]),
        Standing("storage_bytes", plan.storage_bytes, jobs["stored_bytes"]),
    ]


def _limits(organization: Organization) -> dict[RateClass, int | None]:
    plan = organization.plan
    return {
        RateClass.API_REQUEST: plan.api_requests_per_minute,
        RateClass.JOB_SUBMISSION: plan.job_submissions_per_minute,
    }


def _away(organization: Organization) -> list[Standing]:
    return [Standing(name, limit, None, "minute") for name, limit in _limits(organization).items()]


def _rates(organization: Organization) -> list[Standing]:
    now = _redis_now()
    found = []
    for name, limit in _limits(organization).items():
        if limit is None:
            found.append(Standing(name, None, None, "minute"))
            continue
        key, oldest = window_key(organization.public_id, name), now - WINDOW_SECONDS * 1e6
        pipeline = redis.client().pipeline(transaction=False)
        pipeline.zcount(key, oldest, "+inf")
        pipeline.zrangebyscore(key, oldest, "+inf", start=0, num=1, withscores=True)
        used, first = pipeline.execute()
        resets_at = math.ceil(first[0][1] / 1e6 + WINDOW_SECONDS) if first else None
        found.append(Standing(name, limit, used, "minute", resets_at))
    return found


def _slots(organization: Organization) -> tuple[int | None, int | None, int | None]:
    """(held, streams among them, waiting) of those whose lease has not run out."""
    plan = organization.plan
    if plan.max_running_jobs is None and plan.max_streams is None:
        return None, None, None
    leases, held_key, *_ = keys_of(organization.public_id)
    now = _redis_now()
    pipeline = redis.client().pipeline(transaction=False)
    pipeline.zrangebyscore(leases, f"({now}", "+inf")
    pipeline.smembers(held_key)
    alive, held = (set(ids) for ids in pipeline.execute())
    streams = [one for one in alive & held if is_stream(one.decode())]
    return len(alive & held), len(streams), len(alive - held)


def _sockets(organization: Organization) -> int | None:
    """How many event connections are open."""
    if organization.plan.max_sockets is None:
        return None
    key: str = sockets_key(organization.public_id)
    found: Any = redis.client().zcount(key, f"({_redis_now()}", "+inf")
    return found


def _redis_now() -> int:
    clock: Any = redis.client().time()
    return clock[0] * 1_000_000 + clock[1]
