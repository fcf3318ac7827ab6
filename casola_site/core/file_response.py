"""A stored file as an answer: whole or a range of it, read piece by piece, never held in memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import IO, Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from casola_site.core.errors import RangeNotSatisfiable

PIECE = 64 * 1024
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """(start, end) of a Range header, `end` beyond the last byte; None where all is to be sent.

    Several ranges at once, other units and nonsense mean all, as RFC 9110 has it. Raises ValueError
    for a range that the file does not have.
    """
    match = RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start = int(first)
        end = min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise ValueError(header)
    return start, end


def file_response(
    request: HttpRequest, file: IO[bytes], *, size: int, content_type: str, etag: str
) -> HttpResponseBase:
    """The answer to GET or HEAD; it closes the file, whose content may never change.

    Raises RangeNotSatisfiable.
    """
    headers = {
        "Content-Type": content_type,
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
        "ETag": etag,
    }
    wished = request.headers.get("Range", "") if request.method == "GET" else ""
    if request.headers.get("If-Range", etag) != etag:
        wished = ""
    try:
        part = byte_range(wished, size)
    except ValueError:
        file.close()
        raise RangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"}) from None
    start, end = part or (0, size)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    if request.method == "HEAD":
        file.close()
        return HttpResponse(headers=headers)
    read = _pieces_async if isinstance(request, ASGIRequest) else _pieces
    response = StreamingHttpResponse(
        read(file, start, end), status=206 if part else 200, headers=headers
    )
    closers: list[Any] = response._resource_closers
    closers.append(file.close)
    return response


def _pieces(file: IO[bytes], start: int, end: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end and (piece := file.read(min(PIECE, end - start))):
        start += len(piece)
        yield piece


async def _pieces_async(file: IO[bytes], start: int, end: int) -> AsyncIterator[bytes]:
    """Read in threads; the server takes the next piece when its client has taken this one."""
    await asyncio.to_thread(file.seek, start)
    while start < end and (piece := await asyncio.to_thread(file.read, min(PIECE, end - start))):
        start += len(piece)
        yield piece
