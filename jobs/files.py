"""Which files of answers an Organization keeps, and whether its Plan lets it make more."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from django.db.models import Min, QuerySet, Sum

from casola_site.core import outputs
from casola_site.core.errors import ApiError
from casola_site.core.insert import insert_rows
from jobs.models import StoredFile


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that lies in the storage already; `expires_at` is until when its address opens it."""

    name: str
    size_bytes: int
    created_at: datetime
    expires_at: datetime


class FilesFull(ApiError):
    """429: the Organization's files take as much room as its Plan gives them."""

    status = 429
    code = "queue_full"

    def __init__(self, cap: int, *, plan: str, retry_after: int) -> None:
        super().__init__(
            f"The files of your organization take all the room that the plan {plan} gives them, "
            f"{cap} bytes; the oldest go in {retry_after} seconds",
            headers={"retry-after": str(retry_after)},
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


def _kept(organization_id: int, now: datetime) -> QuerySet[StoredFile]:
    return StoredFile.objects.filter(organization_id=organization_id, expires_at__gt=now)


def stored_bytes(*, organization_id: int, now: datetime) -> int:
    """How much the Organization's files take."""
    return _kept(organization_id, now).aggregate(total=Sum("size_bytes"))["total"] or 0


def require_room(*, organization_id: int, cap: int | None, plan: str, now: datetime) -> None:
    """Raises FilesFull at the Plan's cap, StorageFull when the disk is nearly full.

    What was admitted before still gets its files, so that no finished work is lost.
    """
    outputs.require_room()
    if cap is None or stored_bytes(organization_id=organization_id, now=now) < cap:
        return
    first = _kept(organization_id, now).aggregate(first=Min("expires_at"))["first"]
    seconds = 60 if first is None else max(1, ceil((first - now).total_seconds()))
    raise FilesFull(cap, plan=plan, retry_after=seconds)


def forget_expired(*, now: datetime) -> int:
    """Drop the rows of files that no address opens any more; returns how many."""
    return StoredFile.objects.filter(expires_at__lte=now).delete()[0]
