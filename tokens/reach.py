"""How far a token reaches (pure): scopes, models, addresses, time, money; whether one holds another."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from casola_site.core.budgets import Budget
from casola_site.core.scopes import Scope, closure


@dataclass(frozen=True, slots=True)
class Reach:
    """What one token may do; None means without that limit."""

    scopes: frozenset[Scope]
    models: frozenset[str] | None = None
    ips: tuple[str, ...] | None = None
    until: datetime | None = None
    budget: Budget | None = None
    payer: int | None = None
    """Whose budget it is: what another token spends does not count against it."""

    def missing_scopes(self, of: Reach) -> frozenset[Scope]:
        """Scopes of the other that this one lacks."""
        return of.scopes - self.scopes

    def limits_passed(self, of: Reach) -> list[str]:
        """Names of the limits of this one that the other would escape."""
        passed = []
        if self.models is not None and (of.models is None or not of.models <= self.models):
            passed.append("allowed_models")
        if self.ips is not None and (of.ips is None or not covered(of.ips, self.ips)):
            passed.append("allowed_ips")
        if self.until is not None and (of.until is None or of.until > self.until):
            passed.append("expires_at")
        if self.budget is not None and (
            of.budget is None or of.payer != self.payer or not self.budget.holds(of.budget)
        ):
            passed.append("budget")
        return passed

    def holds(self, other: Reach) -> bool:
        """Whether the other reaches nowhere that this one does not."""
        return not self.missing_scopes(other) and not self.limits_passed(other)


def make_reach(
    scopes: Iterable[str],
    models: Iterable[str] | None,
    ips: Iterable[str] | None,
    until: datetime | None,
    *,
    budget: Budget | None = None,
    payer: int | None = None,
) -> Reach:
    """From a token's columns."""
    return Reach(
        closure(scopes),
        None if models is None else frozenset(models),
        None if ips is None else tuple(ips),
        until,
        budget,
        payer,
    )


def covered(inner: Iterable[str], outer: Iterable[str]) -> bool:
    """Whether every network of `inner` lies inside one of `outer`."""
    outers = [ipaddress.ip_network(text, strict=False) for text in outer]
    return all(_inside(ipaddress.ip_network(text, strict=False), outers) for text in inner)


def _inside(network: ipaddress.IPv4Network | ipaddress.IPv6Network, outers: Iterable) -> bool:
    return any(network.version == o.version and network.subnet_of(o) for o in outers)
