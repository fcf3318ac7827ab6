"""The dashboard's pages as its menus show them; a new page is one line here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from django.urls import Resolver404, resolve

from accounts.models import Role

RANK = {Role.DISABLED: 0, Role.VIEWER: 1, Role.MEMBER: 2, Role.ADMIN: 3, Role.OWNER: 4}


@dataclass(frozen=True, slots=True)
class Item:
    """A page in a menu, for members of at least the role; without one for every User."""

    label: str
    path: str
    icon: str = ""
    least: Role | None = Role.VIEWER
    section: str = ""
    """The address that all pages of its section begin with; its own path where empty."""
    is_current: bool = False

    def nearness(self, path: str) -> int:
        """How much of the path is this item's section; 0 when the page is not in it."""
        section = self.section or self.path
        return len(section) if path == section or path.startswith(section + "/") else 0


NAV = (
    Item("Welcome", "/welcome", "home", Role.MEMBER),
    Item("Usage", "/usage", "chart"),
    Item("API tokens", "/settings/tokens", "key"),
    Item("Members", "/settings/members", "people", Role.ADMIN),
    Item("Settings", "/settings/organization", "gear", section="/settings"),
    Item("API reference", "/docs", "book", None),
)
SETTINGS = (
    Item("Organization", "/settings/organization"),
    Item("Limits and budget", "/settings/limits"),
    Item("Audit", "/settings/audit", least=Role.ADMIN),
    Item("Security", "/settings/security", least=None),
    Item("E-mail", "/settings/email", least=None),
)
ACCOUNT = SETTINGS[-2:]


@lru_cache(maxsize=64)
def _is_there(path: str) -> bool:
    try:
        resolve(path)
    except Resolver404:
        return False
    return True


def reaches(role: str | None, least: Role | None) -> bool:
    """Whether somebody of the role may see what asks for at least the other."""
    return least is None or (role is not None and RANK[Role(role)] >= RANK[least])


def shown(items: tuple[Item, ...], *, role: str | None, path: str) -> list[Item]:
    """Those that exist and that the role reaches; the one nearest to the path is the current one."""
    there = [each for each in items if reaches(role, each.least) and _is_there(each.path)]
    nearest = max((each.nearness(path) for each in there), default=0)
    return [
        replace(each, is_current=nearest > 0 and each.nearness(path) == nearest) for each in there
    ]
