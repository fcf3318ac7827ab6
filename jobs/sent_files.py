"""Files that clients send: kept byte for byte under a public id, within the Plan's room."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO

from django.db import transaction
from django.db.models import Q, QuerySet

from accounts.models import Organization
from casola_site.core import ids, outputs
from casola_site.core.errors import ApiError, InvalidRequest, NotFound, PayloadTooLarge
from casola_site.core.ids import can_be_id
from jobs.enums import FilePurpose
from jobs.files import kept, stored_bytes
from jobs.models import StoredFile

FOLDER = "files"
MOST_BYTES = 200 * 1024 * 1024
BATCH_DAYS = 30
SENDING = timedelta(hours=1)  # no client takes longer to send a file
AT_ONCE = 200

logger = logging.getLogger(__name__)


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
    return kept(organization_id, now).filter(public_id__isnull=False, is_whole=True)


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
    if not file.is_whole:
        outputs.remove_parts(file.name, folder=FOLDER)
    StoredFile.objects.filter(pk=file.pk).delete()


def forget_expired_sent(*, now: datetime) -> int:
    """Drop what clients sent and may not read any more, or whose sending was broken off; how many."""
    broken_off = Q(is_whole=False, created_at__lte=now - SENDING)
    sent = StoredFile.objects.filter(public_id__isnull=False)
    old = sent.filter(Q(expires_at__lte=now) | broken_off).order_by("expires_at", "pk")[:AT_ONCE]
    removed = 0
    for file in old:
        try:
            _remove(file)
            removed += 1
        except OSError:  # the others can go all the same
            logger.exception("the content of %s cannot be removed", file)
    return removed
