"""Whose address a request came from."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port


def client_address(peer: str, forwarded_for: str | None) -> str:
    """The caller's address: the last hop in X-Forwarded-For that is not a trusted proxy."""
    if (
        not forwarded_for
        or not settings.TRUSTED_PROXIES
        or not _trusted(peer, settings.TRUSTED_PROXIES)
    ):
        return peer
    address = peer
    for hop in reversed([part.strip() for part in forwarded_for.split(",")]):
        try:
            ipaddress.ip_address(hop)
        except ValueError:
            return address
        address = hop
        if not _trusted(hop, settings.TRUSTED_PROXIES):
            return address
    return address


def _trusted(
    address: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def address_in(address: str, allowed: Sequence[str]) -> bool:
    """Whether the address is in one of the networks (texts)."""
    try:
        parsed = ipaddress.ip_address(address)
        return any(parsed in ipaddress.ip_network(network, strict=False) for network in allowed)
    except ValueError:
        return False


def address_of(request: Any) -> str:
    """The caller's address of a request of Django's."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR")
    return client_address(request.META.get("REMOTE_ADDR", ""), forwarded)


def network_of(address: str) -> str:
    """Whom to count an address to: itself, or for IPv6 its /64, which one person may have whole."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), 64), strict=False))


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without a port, is this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


FORWARDING_HEADERS = (
    "HTTP_FORWARDED",
    "HTTP_VIA",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_REAL_IP",
)


def is_own_machine(request: Any) -> bool:
    """Whether the caller sits at the machine that serves, as far as that can be known.

    All must hold: no mail server is named, the server listens on loopback only, it has no public
    address and no proxy in front, the caller comes from loopback, asks for a loopback host, and
    nothing says that the request was passed on.
    """
    public = urlsplit(settings.PUBLIC_URL).hostname if settings.PUBLIC_URL else settings.HOST
    if settings.MAIL_SERVER or settings.TRUSTED_PROXIES:
        return False
    if any(request.META.get(header) for header in FORWARDING_HEADERS):
        return False
    host, _ = split_domain_port(request.get_host())
    hosts = (settings.HOST, public or "", host, request.META.get("REMOTE_ADDR", ""))
    return all(map(is_loopback, hosts))


def base_url(request: Any) -> str:
    """What absolute addresses of ours begin with: PUBLIC_URL, else the request's own host."""
    return settings.PUBLIC_URL or f"{request.scheme}://{request.get_host()}"
