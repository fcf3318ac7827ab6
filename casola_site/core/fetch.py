"""The one fetcher for URLs that callers give: no way into private networks, no endless answers.

Every address a name resolves to must be public, and the checked address is the one that is dialled
(the name stays in the Host header and in TLS). Redirects are followed a few times, each checked
like the first URL. There is one error text for all that goes wrong, so that nobody can tell a
closed port from an open one. Blocking: call it in a thread.
"""

from __future__ import annotations

import base64
import binascii
import functools
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes, urljoin

import httpcore2
from django.conf import settings

from casola_site.core.errors import InvalidRequest
from casola_site.core.fetch_target import Target, Unfit, is_public, parse

logger = logging.getLogger(__name__)

MAX_BYTES = 25_000_000
MAX_SECONDS = 10.0
MAX_REDIRECTS = 3
REDIRECTS = frozenset({301, 302, 303, 307, 308})
LONGEST_DATA_HEADER = 256
AGENT = "Casola"

_resolver = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolve")


class UnsafeUrl(InvalidRequest):
    """400: the URL was not fetched; nothing says why."""

    code = "unsafe_url"
    message = (
        "The URL cannot be fetched. It must be a public http or https address that answers "
        f"within {MAX_SECONDS:.0f} seconds with at most {MAX_BYTES // 1_000_000} MB."
    )


class InvalidDataUrl(InvalidRequest):
    """400: a data: URL that cannot be decoded, or too large."""

    code = "invalid_value"
    message = f"The data: URL is not valid base64 of at most {MAX_BYTES // 1_000_000} MB"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a URL gave. `content_type` is what the sender says, without parameters."""

    content: bytes
    content_type: str


def fetch(
    url: str, *, max_bytes: int = MAX_BYTES, deadline: float | None = None, redirects: bool = True
) -> Fetched:
    """The content of a caller's `http:`, `https:` or `data:` URL.

    `deadline` is on time.monotonic's clock, at most MAX_SECONDS from now (the default). Raises
    UnsafeUrl or InvalidDataUrl.
    """
    if url[:5].lower() == "data:":
        return _decode(url, max_bytes)
    last = time.monotonic() + MAX_SECONDS
    until = last if deadline is None else min(last, deadline)
    try:
        return _follow(url, max_bytes, until, MAX_REDIRECTS if redirects else 0)
    except (Unfit, httpcore2.NetworkError, httpcore2.TimeoutException) as error:
        logger.info("a caller's URL was refused: %s", error or type(error).__name__)
    except (httpcore2.ProtocolError, OSError, ValueError) as error:
        logger.info("a caller's URL failed: %s", type(error).__name__)
    raise UnsafeUrl


def _decode(url: str, max_bytes: int) -> Fetched:
    """`data:[type][;name=value][;base64],data`"""
    header, comma, data = url[5:].partition(",") if "," in url[:LONGEST_DATA_HEADER] else ("",) * 3
    if not comma or len(data) > 3 * max_bytes:
        raise InvalidDataUrl
    content_type, *flags = header.split(";")
    try:
        raw = unquote_to_bytes(data) if "%" in data else data.encode("ascii")
        if "base64" in (flag.strip().lower() for flag in flags):
            raw = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except (UnicodeError, binascii.Error) as error:
        raise InvalidDataUrl from error
    if len(raw) > max_bytes:
        raise InvalidDataUrl
    return Fetched(raw, content_type.strip().lower())


def _follow(url: str, max_bytes: int, until: float, redirects: int) -> Fetched:
    allowed = frozenset(settings.FETCH_ALLOW)
    for _ in range(redirects + 1):
        target = parse(url, allowed=allowed)
        with _answer(target, _addresses(target, allowed, until), until) as response:
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in REDIRECTS and b"location" in headers:
                url = urljoin(url, headers[b"location"].decode("ascii"))
                continue
            if response.status != 200:
                raise Unfit(f"status {response.status}")
            content = _read(response, headers, max_bytes)
            kind = headers.get(b"content-type", b"").decode("latin-1")
            return Fetched(content, kind.partition(";")[0].strip().lower())
    raise Unfit("too many redirects")


def _addresses(target: Target, allowed: frozenset[str], until: float) -> list[str]:
    """What to dial; raises Unfit if any of a name's addresses is not public."""
    lookup = _resolver.submit(socket.getaddrinfo, target.host, target.port, 0, socket.SOCK_STREAM)
    try:
        found = lookup.result(timeout=max(0.0, until - time.monotonic()))
    except FutureTimeout as error:
        lookup.cancel()
        raise Unfit("its name took too long to resolve") from error
    except (OSError, UnicodeError) as error:
        raise Unfit("its name does not resolve") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if target.origin not in allowed:
        for address in addresses:
            if "%" in address or not is_public(ipaddress.ip_address(address)):
                raise Unfit("it leads to an address that is not public")
    return addresses


def _read(response: httpcore2.Response, headers: dict[bytes, bytes], max_bytes: int) -> bytes:
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Unfit("its content is compressed")
    if int(headers.get(b"content-length", b"0")) > max_bytes:
        raise Unfit("it is too large")
    content = bytearray()
    for part in response.iter_stream():
        content += part
        if len(content) > max_bytes:
            raise Unfit("it is too large")
    return bytes(content)


@contextmanager
def _answer(target: Target, addresses: list[str], until: float) -> Iterator[httpcore2.Response]:
    """The response's head, its body still to be read."""
    origin = httpcore2.Origin(target.scheme.encode(), target.host.encode(), target.port)
    url = httpcore2.URL(
        scheme=target.scheme.encode(),
        host=target.host.encode(),
        port=target.port,
        target=target.path.encode("ascii"),
    )
    headers = {
        "Host": target.host_header,
        "User-Agent": AGENT,
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    backend = _Dialer(addresses, until)
    connection = httpcore2.HTTPConnection(origin, ssl_context=_trusted(), network_backend=backend)
    with connection, connection.stream("GET", url, headers=headers) as response:
        yield response


@functools.cache
def _trusted() -> ssl.SSLContext:
    return httpcore2.default_ssl_context()


class _Dialer(httpcore2.NetworkBackend):
    """Connects to the checked addresses, whatever name is asked for."""

    def __init__(self, addresses: list[str], until: float) -> None:
        self._addresses = addresses
        self._until = until
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> httpcore2.NetworkStream:
        del host, timeout  # resolved and judged before; one deadline counts for everything
        for address in self._addresses[:-1]:
            try:
                return self._dial(address, port)
            except httpcore2.ConnectError:
                continue
        return self._dial(self._addresses[-1], port)

    def _dial(self, address: str, port: int) -> httpcore2.NetworkStream:
        stream = self._sockets.connect_tcp(address, port, timeout=_left(self._until))
        return _Timed(stream, self._until)


class _Timed(httpcore2.NetworkStream):
    """A connection on which nothing outlasts the deadline, however slowly bytes drip."""

    def __init__(self, stream: httpcore2.NetworkStream, until: float) -> None:
        self._stream = stream
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._until))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._until))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, _left(self._until))
        return _Timed(secured, self._until)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(until: float) -> float:
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise httpcore2.ReadTimeout("the time is up")
    return seconds
