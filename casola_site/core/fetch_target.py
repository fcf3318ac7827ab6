"""May this URL be fetched for a caller? Pure: parsing and judging, no network.

A caller's URL may name only public hosts. What a name resolves to is judged address by address
(`is_public`) by whoever dials; here are the URL's own form and the addresses' kinds.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

LONGEST_URL = 8_192
PORTS = {"http": 80, "https": 443}
FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")

# Public by the registries, but the way to something that is not.
TUNNELS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "fec0::/10",  # site-local
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # a cloud's host agent
    )
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Unfit(Exception):
    """The URL may not be fetched; the text is for the log, never for the caller."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in parts: `host` is ASCII, lower case, without brackets; `path` has the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """Scheme, host and port, the port always named."""
        return f"{self.scheme}://{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The host as URLs and Host headers write it."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def host_header(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        usual = self.port == PORTS[self.scheme]
        return self.bracketed if usual else f"{self.bracketed}:{self.port}"


def parse(url: str, *, allowed: frozenset[str] = frozenset()) -> Target:
    """The URL's parts. Raises Unfit for anything but plain http(s) to port 80 or 443.

    `allowed` are origins (see Target) that an operator lets callers reach on any port.
    """
    if len(url) > LONGEST_URL or FORBIDDEN.search(url):
        raise Unfit("not a plain URL")
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
    except ValueError as error:
        raise Unfit("not a URL") from error
    if scheme not in PORTS:
        raise Unfit("neither http nor https")
    if "@" in parts.netloc:
        raise Unfit("it carries a user name")
    port = PORTS[scheme] if port is None else port
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]")
    target = Target(scheme, _host(host), port, f"{path}?{query}" if parts.query else path)
    if port not in PORTS.values() and target.origin not in allowed:
        raise Unfit("not port 80 or 443")
    return target


def origin_of(url: str) -> str:
    """The origin of an operator's URL, in the form that `parse` compares. Raises Unfit."""
    parts = urlsplit(url)
    try:
        host, port = _host(parts.hostname or ""), parts.port
    except ValueError as error:
        raise Unfit("not a URL") from error
    if parts.scheme not in PORTS or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise Unfit("not an origin")
    return Target(parts.scheme, host, port or PORTS[parts.scheme], "/").origin


def _host(host: str) -> str:
    """An address in its usual form or a plain name; odd spellings of addresses are refused."""
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host)) if "%" not in host else _unfit("a zone")
        except ValueError as error:
            raise Unfit("a broken IPv6 address") from error
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise Unfit("a broken international name") from error
    host = host.lower()
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(map(LABEL.match, labels)):
        raise Unfit("a broken host name")
    if NUMBER.match(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise Unfit("an address in an odd spelling") from error
    return host


def _unfit(reason: str) -> str:
    raise Unfit(reason)


def is_public(address: Address) -> bool:
    """Whether anybody on the internet may reach this address."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address.is_multicast or address.is_reserved or address.is_unspecified:
        return False
    return address.is_global and not any(
        address in network for network in TUNNELS if network.version == address.version
    )
