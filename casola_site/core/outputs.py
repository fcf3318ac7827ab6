"""Files that answers point to: kept in Django's storage, reached by signed addresses.

An output's name is `<hour>/<organization>/<96 random bits>-<attempt>.<extension>`, its address
`/outputs/<name>?exp=…&sig=…`: a signature over name (so also the organization) and expiry opens it
for a day without a token. A file appears under its name whole or not at all; `sweep` removes what
is left of an hour long past and belongs to no Job.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage, default_storage
from django.utils.crypto import constant_time_compare, salted_hmac

from casola_site.core.errors import NotFound, PermissionDenied, Unavailable

logger = logging.getLogger(__name__)

FOLDER = "outputs"
PREFIX = "/outputs/"
LIFETIME = timedelta(hours=24)
SWEEP_AFTER = LIFETIME + timedelta(hours=2)  # the hour itself, and one in which clocks may differ
MIN_FREE_SHARE = 0.05
SIGNATURE_LENGTH = 40
HOUR = re.compile(r"[0-9]{10}")
NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,80}/){1,3}[A-Za-z0-9_-]{1,80}\.[a-z0-9]{1,5}")
# What can be an output, and as what it is served; browsers are told not to guess.
CONTENT_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "mp4": "video/mp4",
}


class StorageFull(Unavailable):
    """503: there is no room for more outputs; what is there can still be read."""

    code = "storage_unavailable"
    message = "There is no room for new files right now"


def storage() -> Storage:
    """Where outputs lie."""
    return default_storage


def content_type(name: str) -> str:
    """As what a file of that name is served. Raises NotFound for what is no output."""
    found = CONTENT_TYPES.get(name.rpartition(".")[2])
    if found is None:
        raise NotFound
    return found


# -- writing --------------------------------------------------------------------------------------


def new_name(*, organization_id: int, attempt: int, extension: str, now: datetime) -> str:
    """A name nobody can guess; the attempt in it keeps two of one Job apart."""
    owner = salted_hmac("casola.outputs.owner", str(organization_id)).hexdigest()[:16]
    hour = now.astimezone(UTC).strftime("%Y%m%d%H")
    return f"{hour}/{owner}/{secrets.token_hex(12)}-{attempt}.{extension}"


def write(name: str, content: IO[bytes], *, folder: str = FOLDER) -> int:
    """Put the file under its name, whole or not at all; returns its bytes. Raises OSError."""
    place = storage()
    if not isinstance(place, FileSystemStorage):
        file = File(content)
        size = file.size  # asked before, since some storages close what they saved
        place.save(f"{folder}/{name}", file)  # object stores show whole files only
        return size
    path = Path(place.path(f"{folder}/{name}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            shutil.copyfileobj(content, file)
            file.flush()
            size = file.tell()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return size


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(name: str, *, folder: str = FOLDER) -> IO[bytes]:
    """The file of that name, open at its start. Raises FileNotFoundError."""
    return storage().open(f"{folder}/{name}", "rb")


def remove(name: str, *, folder: str = FOLDER) -> None:
    """Take a file away before its hour is swept; one that is gone is fine."""
    with contextlib.suppress(FileNotFoundError):
        storage().delete(f"{folder}/{name}")


def remove_parts(name: str, *, folder: str) -> None:
    """Take away what a process that was killed while it wrote this file has left of it."""
    place = storage()
    if isinstance(place, FileSystemStorage):
        path = Path(place.path(f"{folder}/{name}"))
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink(missing_ok=True)


def exists(name: str) -> bool:
    """Whether a file of that name is there."""
    return storage().exists(f"{FOLDER}/{name}")


def require_room() -> None:
    """Raises StorageFull when the file system of the outputs is nearly full."""
    place = storage()
    if not isinstance(place, FileSystemStorage):
        return
    folder = Path(place.location)
    folder.mkdir(parents=True, exist_ok=True)
    usage = shutil.disk_usage(folder)
    if usage.free < usage.total * MIN_FREE_SHARE:
        raise StorageFull(retry_after=30)


# -- addresses ------------------------------------------------------------------------------------


def address(
    name: str, *, now: datetime, lifetime: timedelta = LIFETIME, latest: datetime | None = None
) -> str:
    """The path and query that open the file for a while from now on, but not after `latest`.

    `absolute` puts a host before.
    """
    ends = [now + lifetime, *([latest] if latest is not None else [])]
    until = int(min(ends).timestamp())
    return f"{PREFIX}{name}?exp={until}&sig={_signature(name, until)}"


def _signature(name: str, until: int) -> str:
    return salted_hmac("casola.outputs", f"{name}\n{until}", algorithm="sha256").hexdigest()[
        :SIGNATURE_LENGTH
    ]


def check(name: str, *, expires: str, signature: str, now: datetime) -> int:
    """The Unix time until which this address opens the file.

    Raises NotFound for what can be no name, PermissionDenied for a wrong or an old address.
    """
    if not NAME.fullmatch(name):
        raise NotFound
    is_number = expires.isascii() and expires.isdigit() and len(expires) <= 12
    until = int(expires) if is_number else 0
    if not is_number or not constant_time_compare(signature, _signature(name, until)):
        raise PermissionDenied("The address of this file is not valid")
    if until < now.timestamp():
        raise PermissionDenied("The address of this file has expired")
    return until


def own_name(url: str, *, now: datetime) -> str | None:
    """The name of the file that one of our own addresses opens; None for any other address.

    Whatever host stands before it: the signature is ours. Raises as `check` where it is no more.
    """
    parts = urlsplit(url)
    found = parse_qs(parts.query)
    if not parts.path.startswith(PREFIX) or not {"exp", "sig"} <= set(found):
        return None
    name = parts.path.removeprefix(PREFIX)
    check(name, expires=found["exp"][0], signature=found["sig"][0], now=now)
    return name


def absolute(
    value: Any, base: str, *, now: datetime | None = None, latest: datetime | None = None
) -> Any:
    """A result with a host before the addresses of our own files in it.

    With `now` each is made anew, as `address` does.
    """
    if isinstance(value, list):
        return [absolute(item, base, now=now, latest=latest) for item in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, item in value.items():
        if key != "url" or not isinstance(item, str) or not item.startswith(PREFIX):
            found[key] = absolute(item, base, now=now, latest=latest)
            continue
        name = item.removeprefix(PREFIX).partition("?")[0]
        is_ours = now is not None and NAME.fullmatch(name) is not None
        found[key] = base + (address(name, now=now, latest=latest) if is_ours else item)
    return found


# -- sweeping -------------------------------------------------------------------------------------


def sweep(
    *,
    now: datetime,
    kept: Callable[[str], Collection[str]] = lambda hour: (),
    passed_over: Collection[str] = (),
) -> int:
    """Remove the hours that are long past, but the names in each that are `kept`.

    Hours in `passed_over` are left alone. Returns how many went as a whole.
    """
    place = storage()
    try:
        folders, _ = place.listdir(FOLDER)
    except FileNotFoundError:
        return 0
    before = (now.astimezone(UTC) - SWEEP_AFTER).strftime("%Y%m%d%H")
    old = [folder for folder in folders if HOUR.fullmatch(folder) and folder <= before]
    removed = 0
    for folder in old:
        if folder in passed_over:
            continue
        if names := kept(folder):
            _remove_others(place, folder, names)
            continue
        _remove(place, f"{FOLDER}/{folder}")
        removed += 1
    if removed:
        logger.info("removed the outputs of %d hour(s)", removed)
    return removed


def _remove_others(place: Storage, hour: str, kept: Collection[str]) -> None:
    for owner in place.listdir(f"{FOLDER}/{hour}")[0]:
        for file in place.listdir(f"{FOLDER}/{hour}/{owner}")[1]:
            if (name := f"{hour}/{owner}/{file}") not in kept:
                remove(name)


def _remove(place: Storage, folder: str) -> None:
    if isinstance(place, FileSystemStorage):
        shutil.rmtree(place.path(folder), ignore_errors=True)  # another node may be at it too
        return
    folders, files = place.listdir(folder)
    for name in files:
        with contextlib.suppress(FileNotFoundError):
            place.delete(f"{folder}/{name}")
    for name in folders:
        _remove(place, f"{folder}/{name}")
