"""Which files of Jobs an Organization keeps, and whether its Plan lets it make more."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from math import ceil
from typing import IO

from django.db import transaction
from django.db.models import Min, Q, QuerySet, Sum

from casola_site.core import outputs
from casola_site.core.errors import ApiError
from casola_site.core.insert import insert_rows
from jobs.models import StoredFile

AT_ONCE = 500
MOST_SECONDS = 1.0
LOOK_EVERY = timedelta(hours=1)
# Until a Job ends nobody knows when the files it came with may go; they go with its data.
WHILE_OPEN = timedelta(days=30)
_looked_at: dict[str, datetime] = {}


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that lies in the storage already; it goes at `expires_at`."""

    name: str
    size_bytes: int
    created_at: datetime
    expires_at: datetime


def store_upload(content: IO[bytes], *, organization_id: int, now: datetime) -> KeptFile:
    """Put what came with a request into the storage."""
    name = outputs.new_name(organization_id=organization_id, attempt=1, extension="bin", now=now)
    return KeptFile(name, outputs.write(name, content), now, now + WHILE_OPEN)


class FilesFull(ApiError):
    """429: the Organization's files take as much room as its Plan gives them."""

    status = 429
    code = "queue_full"

    def __init__(self, cap: int, *, plan: str, retry_after: int | None) -> None:
        room = f"all the room that the plan {plan} gives them, {cap} bytes"
        then = "delete some" if retry_after is None else f"the oldest go in {retry_after} seconds"
        super().__init__(
            f"The files of your organization take {room}; {then}",
            headers={"retry-after": str(retry_after or 60)},
        )


def record(made: Iterable[tuple[str, int, Sequence[KeptFile]]]) -> None:
    """Write down the files of Jobs that ended: (Job, Organization, files) of each."""
    rows = [
        {
            "organization_id": organization_id,
            "job_id": uuid.UUID(job_id),
            "name": file.name,
            "size_bytes": file.size_bytes,
            "created_at": file.created_at,
            "expires_at": file.expires_at,
        }
        for job_id, organization_id, files in made
        for file in files
    ]
    if rows:
        insert_rows(StoredFile, rows)


def kept(organization_id: int, now: datetime) -> QuerySet[StoredFile]:
    iskept = Q(expires_at__gt=now) | Q(expires_at=None)
    return StoredFile.objects.filter(iskept, organization_id=organization_id)


def stored_bytes(*, organization_id: int, now: datetime) -> int:
    """How much the Organization's files take."""
    return kept(organization_id, now).aggregate(total=Sum("size_bytes"))["total"] or 0


def require_room(*, organization_id: int, cap: int | None, plan: str, now: datetime) -> None:
    """Raises FilesFull at the Plan's cap, StorageFull when the disk is nearly full.

    What was admitted before still gets its files, so that no finished work is lost.
    """
    outputs.require_room()
    if cap is None or stored_bytes(organization_id=organization_id, now=now) < cap:
        return
    first = kept(organization_id, now).aggregate(first=Min("expires_at"))["first"]
    seconds = None if first is None else max(1, ceil((first - now).total_seconds()))
    raise FilesFull(cap, plan=plan, retry_after=seconds)


def forget_of(job_ids: Collection[uuid.UUID]) -> None:
    """Drop all files of these Jobs, from the storage after the commit."""
    _forget(StoredFile.objects.filter(job_id__in=job_ids))


def forget_expired(*, now: datetime) -> int:
    """Drop files whose time is over, as many as go in a second or so; returns how many."""
    forgotten, until = 0, time.monotonic() + MOST_SECONDS
    while True:
        with transaction.atomic():
            rows = StoredFile.objects.filter(public_id=None, expires_at__lte=now).order_by(
                "expires_at"
            )
            found = _forget(StoredFile.objects.filter(pk__in=list(_pks(rows[:AT_ONCE]))))
        forgotten += found
        if found < AT_ONCE or time.monotonic() > until:
            return forgotten


def _pks(rows: QuerySet[StoredFile]) -> QuerySet:
    return rows.values_list("pk", flat=True)


def _forget(rows: QuerySet[StoredFile]) -> int:
    names = list(rows.values_list("name", flat=True))
    StoredFile.objects.filter(name__in=names).delete()
    for name in names:
        # What stays behind after a crash here belongs to no Job: the sweep of its hour takes it.
        transaction.on_commit(partial(outputs.remove, name), robust=True)
    return len(names)


def sweep(*, now: datetime) -> int:
    """Take what belongs to no Job, of hours long past; returns how many hours went as a whole.

    An hour in which files are kept is looked through once an hour.
    """
    recent = {hour for hour, looked in _looked_at.items() if now - looked < LOOK_EVERY}

    def kept(hour: str) -> set[str]:
        names = StoredFile.objects.filter(name__startswith=f"{hour}/")
        found = set(names.values_list("name", flat=True))
        if found:
            _looked_at[hour] = now
        else:
            _looked_at.pop(hour, None)
        return found

    return outputs.sweep(now=now, kept=kept, passed_over=recent)
