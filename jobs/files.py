"""The files of an Organization: made by its Jobs or sent by its clients, counted, kept, forgotten."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import IO

from django.db import transaction
from django.db.models import Min, Q, QuerySet, Sum

from accounts.models import Organization
from casola_site.core import ids, outputs
from casola_site.core.errors import ApiError, InvalidRequest, NotFound, PayloadTooLarge
from casola_site.core.ids import can_be_id
from casola_site.core.insert import insert_rows
from jobs.enums import FilePurpose
from jobs.models import StoredFile

FOLDER = "files"
MOST_BYTES = 200 * 1024 * 1024
BATCH_DAYS = 30
SENDING = timedelta(hours=1)  # no client takes longer to send a file
AT_ONCE = 200


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

    def __init__(self, cap: int, *, plan: str, retry_after: int | None) -> None:
        room = f"all the room that the plan {plan} gives them, {cap} bytes"
        then = "delete some" if retry_after is None else f"the oldest go in {retry_after} seconds"
        super().__init__(
            f"The files of your organization take {room}; {then}",
            headers={"retry-after": str(retry_after or 60)},
        )


class FileDoesNotFit(ApiError):
    """429: with this file the Organization's files would take more room than its Plan gives them."""

    status = 429
    code = "queue_full"

    def __init__(self, *, size: int, left: int, plan: str) -> None:
        super().__init__(
            f"The file has {size} bytes, but the plan {plan} has room for {left} more; delete files",
            headers={"x-should-retry": "false"},
        )


class FileNotFound(NotFound):
    """404, the same for what another Organization keeps."""

    message = "File not found"


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
    is_kept = Q(expires_at__gt=now) | Q(expires_at=None)
    return StoredFile.objects.filter(is_kept, organization_id=organization_id)


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
    seconds = None if first is None else max(1, ceil((first - now).total_seconds()))
    raise FilesFull(cap, plan=plan, retry_after=seconds)


# -- what clients send ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a file, and what the Plan of its Organization lets it keep."""

    organization_id: int
    token_id: int | None
    user_id: int | None
    storage_bytes: int | None
    plan: str


def keep_file(
    content: IO[bytes],
    *,
    size: int,
    filename: str,
    purpose: FilePurpose,
    lifetime: timedelta | None,
    sender: Sender,
    now: datetime,
) -> StoredFile:
    """Store what stands in `content`; nobody sees it before it is whole.

    Raises InvalidRequest for an empty file, PayloadTooLarge, FileDoesNotFit at the Plan's cap,
    StorageFull when the disk is nearly full.
    """
    if not size:
        raise InvalidRequest("The file is empty", code="invalid_value", param="file")
    if size > MOST_BYTES:
        raise PayloadTooLarge
    outputs.require_room()
    if lifetime is None and purpose == FilePurpose.BATCH:
        lifetime = timedelta(days=BATCH_DAYS)
    with transaction.atomic():
        cap = sender.storage_bytes
        if cap is not None:
            # The Organization's row serialises its senders, so the cap holds under concurrency.
            Organization.objects.select_for_update(no_key=True).get(pk=sender.organization_id)
            left = cap - stored_bytes(organization_id=sender.organization_id, now=now)
            if size > left:
                raise FileDoesNotFit(size=size, left=max(0, left), plan=sender.plan)
        file = StoredFile.objects.create(
            organization_id=sender.organization_id,
            token_id=sender.token_id,
            user_id=sender.user_id,
            public_id=ids.file_id(),
            purpose=purpose,
            filename=filename,
            name=_new_name(now),
            size_bytes=size,
            is_whole=False,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
    try:
        outputs.write(file.name, content, folder=FOLDER)
    except BaseException:
        file.delete()
        raise
    file.is_whole = True
    file.save(update_fields=["is_whole"])
    return file


def _new_name(now: datetime) -> str:
    return f"{now.astimezone(UTC):%Y%m%d}/{secrets.token_hex(16)}"


def sent_files(*, organization_id: int, now: datetime) -> QuerySet[StoredFile]:
    """The files that clients of the Organization sent and can still read."""
    return _kept(organization_id, now).filter(public_id__isnull=False, is_whole=True)


def find_file(*, organization_id: int, file_id: str, now: datetime) -> StoredFile:
    """One of them. Raises FileNotFound."""
    files = sent_files(organization_id=organization_id, now=now)
    found = files.filter(public_id=file_id).first() if can_be_id(file_id) else None
    if found is None:
        raise FileNotFound
    return found


def open_file(file: StoredFile) -> IO[bytes]:
    """Its content, at its start. Raises FileNotFound when it went meanwhile."""
    try:
        return outputs.read(file.name, folder=FOLDER)
    except FileNotFoundError:
        raise FileNotFound from None


def delete_file(file: StoredFile) -> None:
    """Take it away: nobody finds it any more, then its content goes."""
    StoredFile.objects.filter(pk=file.pk).update(is_whole=False, expires_at=file.created_at)
    _remove(file)


def _remove(file: StoredFile) -> None:
    """The content first: a row without content is swept again, content without a row never."""
    outputs.remove(file.name, folder=FOLDER)
    StoredFile.objects.filter(pk=file.pk).delete()


def forget_expired(*, now: datetime) -> int:
    """Drop the rows of files that no address opens any more, and what clients sent with them.

    Files whose sending was broken off go too. Returns how many.
    """
    broken_off = Q(is_whole=False, created_at__lte=now - SENDING)
    sent = StoredFile.objects.filter(public_id__isnull=False)
    old = list(sent.filter(Q(expires_at__lte=now) | broken_off)[:AT_ONCE])
    for file in old:
        _remove(file)
    made = StoredFile.objects.filter(public_id=None, expires_at__lte=now)
    return len(old) + made.delete()[0]
