"""Whose address a request came from."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from django.conf import settings


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


def base_url(request: Any) -> str:
    """What absolute addresses of ours begin with: PUBLIC_URL, else the request's own host."""
    return settings.PUBLIC_URL or f"{request.scheme}://{request.get_host()}"
